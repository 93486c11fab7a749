-- Returns all queues with the number of executions that are due, that run, and that wait for a limit or a turn,
-- each counted up to p_most; and the number of living processes that serve the queue. Called by clients.
create or replace function conductor.queue_counts(p_most integer)
returns table (name text, paused boolean, waiting bigint, running bigint, parked bigint, workers bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
begin
    return query
    select q.name, q.paused, c.waiting, c.running, c.parked,
           (select count(*) from conductor.orchestrators o
             where q.id = any (o.queue_ids) and o.lease_until > clock_timestamp())
      from conductor.queues q
     cross join lateral (
           select least(count(*) filter (where k.lane is null and k.state <> 'running'), p_most) as waiting,
                  least(count(*) filter (where k.state = 'running'), p_most) as running,
                  least(count(*) filter (where k.lane is not null and k.state <> 'running'), p_most) as parked
             from ((select null::integer as lane, d.state
                      from conductor.priorities(q.id) as p
                     cross join lateral (
                           select l.state from conductor.live_executions l
                            where l.queue_id = q.id and l.priority = p and l.run_at <= v_now
                            order by l.run_at, l.id limit 2 * p_most) d
                     limit 2 * p_most)
                   union all
                   (select a.id, d.state
                      from (select c.id from conductor.tasks t
                              join conductor.limits c on c.task_id = t.id and c.shared_id is null
                             where t.queue_id = q.id
                            union all
                            select c.id from conductor.limits c where c.task_id is null and c.queue_id = q.id) m
                      join conductor.lanes a on a.limit_id = m.id
                     cross join lateral (
                           select l.state from conductor.live_executions l
                            where l.queue_id = -a.id limit 2 * p_most) d
                     limit 2 * p_most)
                   union all
                   (select 0, d.state
                      from conductor.tasks t
                     cross join lateral (
                           select l.state from conductor.live_executions l
                            where l.task_id = t.id and l.queue_id = 0
                            order by l.task_id, l.order_key, l.created_at, l.id limit 2 * p_most) d
                     where t.queue_id = q.id
                     limit 2 * p_most)) k) c
     order by q.name;
end
$$;
