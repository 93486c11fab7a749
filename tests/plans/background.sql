-- What lies in the tables while the statements of scene.sql are looked at.

select conductor.declare_tasks((
    select jsonb_agg(jsonb_build_object(
               'name', d.name, 'queue', 'plans', 'package', 'elsewhere', 'place', 'elsewhere.rs:1', 'docs', '',
               'priority', 0, 'max_attempts', 3, 'backoff_initial_ms', 15000, 'backoff_max_ms', 7200000,
               'jitter', 0.1, 'timeout_ms', null, 'time_window', null, 'keep_completed_ms', 0,
               'keep_failed_ms', 2592000000, 'payload_schema', true, 'output_schema', true, 'limits', d.limits))
      from (values ('plans.plain', '[]'::jsonb), ('plans.parent', '[]'), ('plans.child', '[]'),
                   ('plans.limited', '[{"kind": "concurrency", "path": ["tenant"], "amount": 5, "per_ms": null}]'))
           as d(name, limits)), true);
insert into conductor.subscriptions (task_id, event, n, filter, event_version, owner)
select t.id, 'plans.started', 0, null, 1, 'elsewhere' from conductor.tasks t where t.name = 'plans.plain';
-- Ours, and one whose executions run.
insert into conductor.orchestrators (host, pid, queue_ids, task_ids, started_at, lease_until)
select 'here', n, array[q.id], array(select t.id from conductor.tasks t where t.queue_id = q.id),
       clock_timestamp(), clock_timestamp() + interval '1 hour'
  from conductor.queues q, generate_series(1, 2) n where q.name = 'plans';

-- Delayed, suspended with a wait each, and finished.
insert into conductor.live_executions (id, run_at, created_at, queue_id, task_id, priority, state, claim, payload)
select conductor.uuid7(), d.run_at, conductor.now(), t.queue_id, t.id, d.priority, d.state, d.claim, '{}'
  from conductor.tasks t
 cross join (select conductor.now() + interval '1 day' as run_at, n % 3 as priority,
                    'pending'::conductor.execution_state as state, 0 as claim from generate_series(1, 10000) n
             union all
             select 'infinity', 0, 'suspended', 1 from generate_series(1, 10000)) d
 where t.name = 'plans.plain';
insert into conductor.waits (execution_id, key, kind, group_key, event_name, event_filter, event_hash)
select l.id, 'signal', 'event', 'signal', 'plans.signal', f.filter, conductor.filter_hash(f.filter)
  from conductor.live_executions l
 cross join lateral (
       select jsonb_build_object('op', 'eq', 'path', array['order'], 'value', l.id::text) as filter) f
 where l.state = 'suspended';
insert into conductor.steps (execution_id, key, kind, value, recorded_at)
select l.id, 'step', 'step', '1', conductor.now() from conductor.live_executions l where l.state = 'suspended';
insert into conductor.finished_executions (
       id, created_at, claimed_at, finished_at, expires_at, queue_id, task_id, priority, claim, failures, crashes,
       state, payload)
select conductor.uuid7(), conductor.now(), conductor.now(), conductor.now(), conductor.now() + interval '1 day',
       t.queue_id, t.id, 0, 1, 0, 0, 'completed', '{}'
  from conductor.tasks t cross join generate_series(1, 10000) where t.name = 'plans.plain';
insert into conductor.events (id, name, payload, emitted_at)
select conductor.uuid7(), 'plans.signal', json_build_object('order', n), conductor.now() - interval '1 hour'
  from generate_series(1, 10000) n;
insert into conductor.lanes (limit_id, task_id, key)
select c.id, c.task_id, 'tenant ' || n from conductor.limits c cross join generate_series(1, 10000) n;
