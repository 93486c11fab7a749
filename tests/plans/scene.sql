-- Each hot statement, with 40 executions. A line "-- == NAME" begins a part; what stands before the first one
-- is not looked at.

create temporary table held (id uuid, claim integer, task text, state text);
create function pg_temp.me() returns bigint language sql as $$
    select max(o.id) from conductor.orchestrators o $$;
create function pg_temp.queue() returns integer language sql as $$
    select q.id from conductor.queues q where q.name = 'plans' $$;
create function pg_temp.tasks() returns integer[] language sql as $$
    select array_agg(t.id) from conductor.tasks t where t.queue_id = pg_temp.queue() $$;
create function pg_temp.invoke(p_task text, p_count integer, p_payload text, p_key text) returns void
language sql as $$
    select conductor.invoke_many(
        array(select conductor.uuid7() from generate_series(1, p_count)), array_fill(p_task, array[p_count]),
        array(select replace(p_payload, '#', n::text) from generate_series(1, p_count) n),
        array_fill(null::timestamptz, array[p_count]), array_fill(null::bigint, array[p_count]),
        array_fill(null::integer, array[p_count]), false, false,
        case when p_key is not null then array(select p_key || n from generate_series(1, p_count) n) end,
        case when p_key is not null then array_fill(null::bigint, array[p_count]) end,
        case when p_key is not null then array_fill(null::bigint, array[p_count]) end)
$$;
create function pg_temp.claim(p_count integer) returns void language sql as $$
    insert into held (id, claim, task)
    select c.id, c.claim, t.name
      from conductor.claim(pg_temp.me(), pg_temp.queue(), pg_temp.tasks(), p_count, false, p_most => 40) c
      join conductor.tasks t on t.id = c.task_id
$$;
create function pg_temp.ids(p_from integer, p_count integer) returns uuid[] language sql as $$
    select array_agg(o.id order by o.id) from (select h.id from held h order by h.id offset p_from limit p_count) o $$;
create function pg_temp.claims(p_from integer, p_count integer) returns integer[] language sql as $$
    select array_agg(o.claim order by o.id)
      from (select h.id, h.claim from held h order by h.id offset p_from limit p_count) o $$;
create function pg_temp.mine(p_count integer) returns bigint[] language sql as $$
    select array_fill(pg_temp.me(), array[p_count]) $$;
create function pg_temp.complete() returns void language sql as $$
    select conductor.complete(pg_temp.ids(0, 1000), pg_temp.claims(0, 1000),
                              array(select 'null'::text from held), array(select pg_temp.me() from held));
    delete from held
$$;
create function pg_temp.suspend(p_kind text, p_wake_ms bigint, p_child text, p_event text) returns void
language sql as $$
    select conductor.suspend(
        pg_temp.ids(0, 1000), pg_temp.claims(0, 1000), pg_temp.ids(0, 1000),
        array(select p_kind from held), array(select p_kind from held), array(select p_kind from held),
        array(select p_wake_ms from held), array(select null::timestamptz from held),
        array(select case when p_child is not null then conductor.uuid7() end from held),
        array(select p_child from held), array(select case when p_child is not null then '{}' end from held),
        array(select false from held), array(select p_event from held),
        array(select case when p_event is not null
                          then json_build_object('op', 'eq', 'path', array['order'], 'value', h.id::text)::text end
                from (select id from held order by id) h),
        p_orchestrators => array(select pg_temp.me() from held));
    delete from held
$$;

-- == invoke
select pg_temp.invoke('plans.plain', 40, '{}', null);
-- == claim
select pg_temp.claim(40);
-- == complete
select conductor.complete(pg_temp.ids(0, 10), pg_temp.claims(0, 10), array_fill('null'::text, array[10]),
                          pg_temp.mine(10));
-- == fail
select conductor.fail(pg_temp.ids(10, 10), pg_temp.claims(10, 10), array_fill('no'::text, array[10]),
                      array_fill(true, array[10]), array_fill(null::bigint, array[10]), pg_temp.mine(10));
-- == release
select conductor.release(pg_temp.ids(20, 5), pg_temp.claims(20, 5), pg_temp.mine(5));
-- == leave unreadable
select conductor.leave_unreadable((select max(o.id) from conductor.orchestrators o), pg_temp.ids(25, 5), pg_temp.claims(25, 5),
                                  array_fill('no'::text, array[5]), pg_temp.mine(5));
-- == postpone
select conductor.postpone(pg_temp.ids(30, 10), pg_temp.claims(30, 10),
                          array_fill(conductor.now() + interval '1 day', array[10]), pg_temp.mine(10));
delete from held;
-- == claim again
select pg_temp.claim(40);
select pg_temp.complete();
-- == invoke with keys
select pg_temp.invoke('plans.plain', 40, '{}', 'k');
-- == invoke with keys that are taken
select pg_temp.invoke('plans.plain', 40, '{}', 'k');
-- == record steps
select pg_temp.claim(40);
select conductor.record_steps(pg_temp.ids(0, 40), pg_temp.claims(0, 40), array(select 'step'::text from held),
                              array(select 'step'::text from held), array(select '1'::text from held),
                              p_orchestrators => pg_temp.mine(40));
-- == suspend by a sleep
select pg_temp.suspend('sleep', 0, null, null);
-- == claim with a memo
select pg_temp.claim(40);
-- == suspend by a child
select pg_temp.suspend('invoke', null, 'plans.child', null);
-- == children end
select pg_temp.claim(40);
select pg_temp.complete();
-- == suspend by an event
select pg_temp.claim(40);
select pg_temp.suspend('event', 1, null, 'plans.signal');
-- == the deadline of an event
select pg_temp.claim(40);
-- == suspend by an event that comes
update held set state = 'waits';
insert into held (id, claim, task, state)
select h.id, h.claim, h.task, 'copy' from held h;
delete from held where state = 'waits';
create temporary table waiting as select id from held;
select pg_temp.suspend('event 2', null, null, 'plans.signal');
-- == events come
select conductor.emit_many(
    array(select conductor.uuid7() from waiting), array(select 'plans.signal'::text from waiting),
    array(select json_build_object('order', w.id)::text from waiting w), false);
-- == events come in transactions
select conductor.emit_many(
    array(select conductor.uuid7() from waiting), array(select 'plans.signal'::text from waiting),
    array(select json_build_object('order', w.id)::text from waiting w), true);
select conductor.dispatch(1000);
-- == events start executions
select conductor.emit_many(
    array(select conductor.uuid7() from waiting), array(select 'plans.started'::text from waiting),
    array(select '{}'::text from waiting), false);
-- == those end
select pg_temp.claim(100);
select pg_temp.complete();
-- == limited
select pg_temp.invoke('plans.limited', 40, '{"tenant": "tenant #"}', null);
select pg_temp.claim(40);
select pg_temp.complete();
-- == limited by one key
select pg_temp.invoke('plans.limited', 40, '{"tenant": "tenant 1"}', null);
select pg_temp.claim(40);
select pg_temp.complete();
-- == watch, cancel, retry
select pg_temp.invoke('plans.plain', 40, '{}', null);
select pg_temp.claim(40);
create temporary table gone as select h.id from held h order by h.id limit 10;
select conductor.watch(g.id), conductor.cancel(g.id) from gone g;
select pg_temp.complete();
select conductor.retry(g.id) from gone g;
-- == locked
select pg_temp.claim(40);
select conductor.locked(pg_temp.ids(0, 40));
select pg_temp.complete();
-- == prune
select conductor.prune_finished(40, '-infinity');
-- == many waits of one execution
select pg_temp.invoke('plans.plain', 1, '{}', null);
select pg_temp.claim(1);
select conductor.suspend(
    array_agg(distinct m.id), array_agg(distinct m.claim),
    array_agg(m.id), array_agg('many ' || n), array_agg('event'::text), array_agg('many ' || n),
    array_agg(0::bigint), array_agg(null::timestamptz), array_agg(null::uuid), array_agg(null::text),
    array_agg(null::text), array_agg(false), array_agg('plans.many'::text), array_agg(null::text))
  from held m cross join generate_series(1, 200) n;
delete from held;
select pg_temp.claim(1);
delete from held;
-- == nothing is due
select pg_temp.claim(1);
