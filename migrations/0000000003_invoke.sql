-- How an execution comes into being.
--
-- Without options it is inserted (invoke_many). With a dedupe key it may be there already, as the index
-- live_executions_key lets a task have one execution of a key (invoke_keyed): one that has not
-- started, that is, which no worker ever claimed, takes the new payload, one that has is left alone.
-- Debounced ones have keys apart, and give them up to the worker. Throttled ones ask for their slot
-- before all that (invoke_mixed). Whoever comes second waits for the transaction of the first.
--
-- Ids are made by the callers, so that a repeated call (p_again, after a connection broke with the
-- commit's fate unknown) makes nothing twice and gives the same answer.

set local search_path = pg_catalog, pg_temp;

-- Whether a transaction of the user's may notify. One that has done so cannot be prepared for a two-phase
-- commit, so where the server takes part in such (max_prepared_transactions), orchestrators find by their
-- looks, once a second, what was done there. The setting conductor.notify decides otherwise: on, off, auto.
create function conductor.may_notify() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return case current_setting('conductor.notify', true)
                when 'on' then true when 'off' then false
                else current_setting('max_prepared_transactions') = '0' end;
end
$$;

-- Wakes the workers of these queues: those that sleep, or (p_always) all. A transaction of the
-- user's must not lock the queue's row, nor rely on a flag that may change before it commits.
create function conductor.wake(p_queues integer[], p_always boolean) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
    v_idle integer[];
begin
    if p_always then
        if conductor.may_notify() then
            perform pg_notify('conductor', 'queue:' || q) from unnest(p_queues) as q;
        end if;
    else
        v_idle := array(select q.id from conductor.queues q where q.id = any (p_queues) and q.idle);
        if cardinality(v_idle) > 0 then
            perform pg_notify('conductor', 'queue:' || q) from unnest(v_idle) as q;
            -- A row that a user's open transaction has locked, by a cancel or a pause, keeps its flag.
            update conductor.queues q set idle = false
             where q.id = any (array(select o.id from conductor.queues o
                                      where o.id = any (v_idle) for no key update skip locked));
        end if;
    end if;
end
$$;

create function conductor.refuse_unknown(p_tasks text[]) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_unknown text;
begin
    select g.task into v_unknown from unnest(p_tasks) as g(task)
     where not exists (select from conductor.tasks t where t.name = g.task) limit 1;
    if found then
        raise exception 'unknown task "%"', v_unknown using errcode = 'CD001',
            hint = 'Known tasks: ' || coalesce(
                (select string_agg(n.name, ', ') from
                    (select t.name from conductor.tasks t order by t.name limit 20) n),
                'none; start a worker once, or run its command "migrate"') || '.';
    end if;
end
$$;

-- Whether a call can be stored, run and shown. Inlined, as conductor.is_plain.
create function conductor.is_invoke(p_id uuid, p_payload text, p_run_at timestamptz, p_delay_ms bigint) returns boolean
language sql immutable parallel safe
return p_id is not null and p_payload is not null and octet_length(p_payload) <= 16777216
   and (p_run_at is null
        or p_run_at between '0001-01-01 00:00:00+00'::timestamptz and '9999-12-31 23:59:59.999999+00'::timestamptz)
   and (p_delay_ms is null or p_delay_ms between 0 and 31557600000000)
   and (strpos(p_payload, E'\\u') = 0 or conductor.json_fault(p_payload::json) is null);

-- What is wrong with a call that is not so.
create function conductor.refuse_invoke(
    p_n bigint, p_id uuid, p_payload text, p_run_at timestamptz, p_delay_ms bigint,
    p_key text, p_throttle_ms bigint, p_debounce_ms bigint, p_max_wait_ms bigint) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    c_longest constant bigint := 31557600000000;
    v_fault text;
begin
    v_fault := case
        when p_id is null then 'its id is null'
        when p_payload is null then 'its payload is null; JSON''s null is the text ''null'''
        when octet_length(p_payload) > 16777216
            then format('its payload has %s bytes and the limit is 16777216; store the data elsewhere and pass a reference',
                        octet_length(p_payload))
        when p_run_at not between '0001-01-01 00:00:00+00' and '9999-12-31 23:59:59.999999+00'
            then format('run_at %s lies outside the years 1 to 9999', p_run_at)
        when p_delay_ms not between 0 and c_longest
            then format('a delay of %s ms is negative or longer than 1000 years', p_delay_ms)
        when octet_length(p_key) not between 1 and 200
            then format('a dedupe key has 1 to 200 bytes, not %s', octet_length(p_key))
        when p_throttle_ms not between 1 and c_longest
            then format('a throttle of %s ms is shorter than a millisecond or longer than 1000 years', p_throttle_ms)
        when p_debounce_ms not between 1 and c_longest
            then format('a debounce of %s ms is shorter than a millisecond or longer than 1000 years', p_debounce_ms)
        when p_throttle_ms is not null and p_debounce_ms is not null
            then 'throttle lets the first call through and debounce the last one; give one of them'
        when p_debounce_ms is not null
             and (p_run_at is not null or p_delay_ms is not null)
            then 'debounce says when the execution is due; give no run_at or delay with it'
        when p_max_wait_ms is not null and p_debounce_ms is null
            then 'max_wait bounds a debounce; give one with it'
        when p_max_wait_ms not between p_debounce_ms and c_longest
            then format('a max_wait of %s ms is shorter than the debounce of %s ms or longer than 1000 years',
                        p_max_wait_ms, p_debounce_ms)
        else format('Postgres cannot read its payload: %s', conductor.json_fault(p_payload::json)) end;
    raise exception 'call % cannot be stored: %', p_n, v_fault using errcode = 'CD002';
end
$$;

-- Whether what a call says of its key is in order. Inlined.
create function conductor.is_keyed(
    p_key text, p_run_at timestamptz, p_delay_ms bigint, p_throttle_ms bigint, p_debounce_ms bigint,
    p_max_wait_ms bigint) returns boolean
language sql immutable parallel safe
return (p_key is null or octet_length(p_key) between 1 and 200)
   and (p_throttle_ms is null or p_throttle_ms between 1 and 31557600000000)
   and (p_debounce_ms is null
        or p_debounce_ms between 1 and 31557600000000
           and p_throttle_ms is null and p_run_at is null and p_delay_ms is null)
   and (p_max_wait_ms is null or coalesce(p_max_wait_ms between p_debounce_ms and 31557600000000, false));

-- Refuses calls that may have keys, of which one cannot be stored.
create function conductor.refuse_keyed(
    p_ids uuid[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_keys text[], p_throttle_ms bigint[], p_debounce_ms bigint[], p_max_wait_ms bigint[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    perform conductor.refuse_invoke(
                g.n, g.id, g.payload, g.run_at, g.delay_ms, g.key, g.throttle_ms, g.debounce_ms, g.max_wait_ms)
       from unnest(p_ids, p_payloads, p_run_at, p_delay_ms, p_keys, p_throttle_ms, p_debounce_ms, p_max_wait_ms)
            with ordinality as g(id, payload, run_at, delay_ms, key, throttle_ms, debounce_ms, max_wait_ms, n)
      where not conductor.is_invoke(g.id, g.payload, g.run_at, g.delay_ms)
         or not conductor.is_keyed(g.key, g.run_at, g.delay_ms, g.throttle_ms, g.debounce_ms, g.max_wait_ms)
      limit 1;
end
$$;

-- Whether one of these lives or has ended: the call is the same call again.
create function conductor.are_there(p_ids uuid[]) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    return exists (select from conductor.live_executions l where l.id = any (p_ids))
        or exists (select from conductor.finished_executions f where f.id = any (p_ids));
end
$$;

-- Invokes, of any kind and number. Gives in their order the executions and what came of each call:
-- created, replaced, existing or throttled; null where all were created as asked.
create function conductor.invoke_many(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_priorities integer[], p_in_transaction boolean, p_again boolean,
    p_keys text[] default null, p_throttle_ms bigint[] default null, p_debounce_ms bigint[] default null,
    p_max_wait_ms bigint[] default null,
    out ids uuid[], out came_of text[])
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_nestloop = off
set jit = off
as $$
declare
    v_now timestamptz;
    v_count bigint := cardinality(p_ids);
    v_queues integer[];
begin
    -- Roles of other languages call this, so it checks as `invoke` does.
    if cardinality(p_tasks) is distinct from v_count or cardinality(p_payloads) is distinct from v_count
       or cardinality(p_run_at) is distinct from v_count or cardinality(p_delay_ms) is distinct from v_count
       or cardinality(p_priorities) is distinct from v_count
       or p_keys is not null and (cardinality(p_keys) is distinct from v_count
                                  or cardinality(p_throttle_ms) is distinct from v_count
                                  or cardinality(p_debounce_ms) is distinct from v_count
                                  or cardinality(p_max_wait_ms) <> v_count) then
        raise exception 'the arrays of invoke_many have different lengths: each has one element a call'
            using errcode = 'CD002';
    end if;
    if p_keys is not null then
        -- Behind somebody's open transaction it ends soon, so that its caller brings the others alone.
        if not p_in_transaction then
            perform set_config('lock_timeout', '250ms', true);
        end if;
        if p_again or num_nonnulls(variadic p_throttle_ms) > 0
           or num_nulls(variadic p_keys) > 0 and exists (
                  select from unnest(p_keys, p_debounce_ms) as g(key, debounce_ms)
                   where g.key is null and g.debounce_ms is null) then
            perform conductor.refuse_keyed(
                p_ids, p_payloads, p_run_at, p_delay_ms, p_keys, p_throttle_ms, p_debounce_ms, p_max_wait_ms);
            select m.ids, m.came_of into ids, came_of
              from conductor.invoke_mixed(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms, p_priorities,
                                          p_in_transaction, p_again or conductor.are_there(p_ids),
                                          p_keys, p_throttle_ms, p_debounce_ms, p_max_wait_ms) m;
        else
            select k.ids, k.came_of into ids, came_of
              from conductor.invoke_keyed(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms, p_priorities,
                                          p_in_transaction, p_keys, p_debounce_ms, p_max_wait_ms) k;
        end if;
        return;
    end if;

    v_now := conductor.now();
    with given as (
        select g.id, g.task, g.payload, g.run_at, g.delay_ms, g.priority
          from unnest(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms, p_priorities)
               as g(id, task, payload, run_at, delay_ms, priority)
    ), inserted as (
        insert into conductor.live_executions as l (
               id, run_at, created_at, queue_id, task_id, priority, order_key, payload, bytes)
        select g.id, coalesce(g.run_at, v_now + g.delay_ms * interval '1 ms', v_now), v_now,
               t.queue_id, t.id, coalesce(g.priority, t.priority), conductor.order_key(t.ordered_by, g.payload::json),
               g.payload::json, octet_length(g.payload)
          from given g
          join conductor.tasks t on t.name = g.task
         where conductor.is_invoke(g.id, g.payload, g.run_at, g.delay_ms)
           -- What has ended is the same call again.
           and (select true from conductor.finished_executions f where f.id = g.id limit 1) is null
            on conflict (id) do nothing
        returning l.queue_id, l.run_at
    )
    select count(*), array_agg(distinct i.queue_id) filter (where i.run_at < v_now + interval '1s')
      into v_count, v_queues
      from inserted i;

    if v_count < cardinality(p_ids) then
        perform conductor.refuse_invoke(g.n, g.id, g.payload, g.run_at, g.delay_ms, null, null, null, null)
           from unnest(p_ids, p_payloads, p_run_at, p_delay_ms) with ordinality
                as g(id, payload, run_at, delay_ms, n)
          where not conductor.is_invoke(g.id, g.payload, g.run_at, g.delay_ms);
        perform conductor.refuse_unknown(p_tasks);
    end if;
    if p_again then
        -- One that ended while the insert waited for its end is the same call again as well. Nobody else has
        -- seen what was inserted.
        delete from conductor.live_executions l
         where l.id = any (p_ids) and l.claim = 0 and l.created_at = v_now
           and (select true from conductor.finished_executions f where f.id = l.id limit 1);
    end if;
    if v_queues is not null then
        perform conductor.wake(v_queues, p_in_transaction);
    end if;
end
$$;

-- Gives executions that have not started, and that the caller has locked, new payloads, times and priorities.
-- What the call itself has just made (its first id), or had made before its answer was lost, is as it should be.
-- Returns the queues in which something is due. The settings of who calls it are in force here, so that each kind of join
-- is named.
create function conductor.replace(
    p_ids uuid[], p_firsts uuid[], p_calls bigint[], p_payloads text[], p_run_at timestamptz[], p_wait_ms bigint[],
    p_max_wait_ms bigint[], p_priorities integer[], p_begun timestamptz) returns integer[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set enable_hashjoin = on set jit = off
as $$
declare
    -- Those who waited for a lock count from now.
    v_now timestamptz := conductor.now();
    v_queues integer[];
    -- Those that are ordered, by the keys of their old payloads.
    v_ordered uuid[];
    v_tasks integer[];
    v_order_keys text[];
begin
    select array_agg(o.id), array_agg(o.task_id), array_agg(o.order_key) into v_ordered, v_tasks, v_order_keys
      from (select l.id, l.task_id, l.order_key from conductor.live_executions l where l.id = any (p_ids) offset 0) o
     where o.order_key is not null;
    -- One that waits for a limit or its turn is looked at anew, as the payload may name another one.
    with replaced as (
        update conductor.live_executions l
           set payload = k.payload::json, bytes = octet_length(k.payload), priority = coalesce(k.priority, l.priority),
               queue_id = (select t.queue_id from conductor.tasks t where t.id = l.task_id),
               order_key = conductor.order_key(
                   (select t.ordered_by from conductor.tasks t where t.id = l.task_id), k.payload::json),
               -- The first of the calls has made it.
               run_at = coalesce(k.run_at, least(v_now + k.wait_ms * interval '1 ms',
                                                 l.created_at + k.max_wait_ms * interval '1 ms'), l.run_at),
               postponed = l.postponed and k.run_at is null and k.wait_ms is null
          from unnest(p_ids, p_firsts, p_calls, p_payloads, p_run_at, p_wait_ms, p_max_wait_ms, p_priorities)
               as k(id, first, calls, payload, run_at, wait_ms, max_wait_ms, priority)
         where l.id = any (p_ids) and l.id = k.id
           and (l.id <> k.first or k.calls > 1 and l.created_at = p_begun)
        returning l.queue_id, l.run_at
    )
    select array_agg(distinct r.queue_id) filter (where r.run_at < v_now + interval '1s')
      into v_queues
      from replaced r;
    if v_ordered is not null then
        select array_agg(g.id), array_agg(g.task_id), array_agg(g.key) into v_ordered, v_tasks, v_order_keys
          from unnest(v_ordered, v_tasks, v_order_keys) as g(id, task_id, key)
          join (select l.id, l.order_key from conductor.live_executions l where l.id = any (p_ids) offset 0) o
            on o.id = g.id and o.order_key is distinct from g.key;
        v_queues := v_queues || conductor.pass_turns(v_ordered, v_tasks, v_order_keys);
    end if;
    return v_queues;
end
$$;

-- Invokes whose keys are not all free: what has not started is replaced, what has is found. Of several
-- calls with one key, the first of which may just have been made (p_begun), the last one counts, as
-- if they came one by one. Gives beside the answers the queues to wake.
create function conductor.meet_keys(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_priorities integer[], p_in_transaction boolean, p_keys text[], p_debounce_ms bigint[], p_max_wait_ms bigint[],
    p_begun timestamptz,
    out ids uuid[], out came_of text[], out queues integer[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    -- One element a key, in the order of the keys: what its calls come to, ...
    v_task_ids integer[];
    v_debounced boolean[];
    v_keys text[];
    v_firsts uuid[];
    v_calls bigint[];
    v_payloads text[];
    v_run_at timestamptz[];
    v_wait_ms bigint[];
    v_max_wait_ms bigint[];
    v_priorities integer[];
    -- ... the execution that has not started, which this transaction has locked, ...
    v_locked uuid[];
    -- ... and that one, or else the one that has started.
    v_found uuid[];
    v_missing integer;
    v_busy uuid;
begin
    select array_agg(s.task_id), array_agg(s.key), array_agg(s.first), array_agg(s.calls),
           array_agg(s.payload), array_agg(s.run_at), array_agg(s.wait_ms), array_agg(s.priority),
           array_agg(s.debounced), array_agg(s.max_wait_ms)
      into v_task_ids, v_keys, v_firsts, v_calls, v_payloads, v_run_at, v_wait_ms, v_priorities, v_debounced,
           v_max_wait_ms
      from (select c.task_id, c.key, count(*) as calls,
                   (array_agg(c.id order by c.n))[1] as first,
                   (array_agg(c.payload order by c.n desc))[1] as payload,
                   (array_agg(c.run_at order by c.n desc) filter (where c.timed))[1] as run_at,
                   (array_agg(c.wait_ms order by c.n desc) filter (where c.timed))[1] as wait_ms,
                   (array_agg(c.max_wait_ms order by c.n desc) filter (where c.timed))[1] as max_wait_ms,
                   (array_agg(c.priority order by c.n desc) filter (where c.priority is not null))[1] as priority,
                   c.debounced
              from (select g.n, g.id, t.id as task_id, coalesce(g.key, '') collate "C" as key, g.payload,
                           g.run_at, coalesce(g.debounce_ms, g.delay_ms) as wait_ms, g.priority,
                           coalesce(g.debounce_ms, g.delay_ms) is not null or g.run_at is not null as timed,
                           g.debounce_ms is not null as debounced, g.max_wait_ms
                      from unnest(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms, p_priorities, p_keys,
                                  p_debounce_ms, p_max_wait_ms) with ordinality
                           as g(id, task, payload, run_at, delay_ms, priority, key, debounce_ms, max_wait_ms, n)
                      join conductor.tasks t on t.name = g.task) c
             group by c.task_id, c.debounced, c.key
             order by c.task_id, c.debounced, c.key) s;

    -- One row may be waited for. With several, one that a worker has just claimed would stay locked by
    -- us while we wait for the next, and the worker ends them in an order of its own.
    if cardinality(v_keys) = 1 then
        perform from conductor.live_executions l
          where l.holds_key and l.task_id = v_task_ids[1] and l.debounced = v_debounced[1]
            and l.dedupe_key = v_keys[1] and l.claim = 0 and l.state = 'pending'
            for no key update;
    end if;
    v_locked := array(
        select o.id
          from unnest(v_task_ids, v_debounced, v_keys) with ordinality as k(task_id, debounced, key, n)
          left join lateral (
               select l.id from conductor.live_executions l
                where l.holds_key and l.task_id = k.task_id and l.debounced = k.debounced
                  and l.dedupe_key = k.key and l.claim = 0 and l.state = 'pending'
                  for no key update skip locked) o on true
         order by k.n);
    v_found := array(
        select coalesce(k.locked, o.id)
          from unnest(v_task_ids, v_debounced, v_keys, v_locked) with ordinality
               as k(task_id, debounced, key, locked, n)
          left join lateral (
               select l.id from conductor.live_executions l
                where l.holds_key and l.task_id = k.task_id and l.debounced = k.debounced
                  and l.dedupe_key = k.key and (l.claim > 0 or l.state <> 'pending')
                limit 1) o on true
         order by k.n);
    v_missing := array_position(v_found, null);
    if v_missing is not null then
        select l.id into v_busy from conductor.live_executions l
         where l.holds_key and l.task_id = v_task_ids[v_missing] and l.debounced = v_debounced[v_missing]
           and l.dedupe_key = v_keys[v_missing];
        raise exception 'somebody else has the execution of a key' using errcode = 'CD006',
            detail = coalesce(v_busy::text, '');
    end if;

    queues := conductor.replace(
        v_locked, v_firsts, v_calls, v_payloads, v_run_at, v_wait_ms, v_max_wait_ms, v_priorities, p_begun);

    select array_agg(v_found[c.key_n] order by c.n),
           array_agg(case when c.id = v_found[c.key_n] then 'created'
                          when v_locked[c.key_n] is not null then 'replaced'
                          else 'existing' end order by c.n)
      into ids, came_of
      from (select g.n, g.id,
                   dense_rank() over (order by t.id, g.debounce_ms is not null,
                                               coalesce(g.key, '') collate "C") as key_n
              from unnest(p_ids, p_tasks, p_keys, p_debounce_ms) with ordinality
                   as g(id, task, key, debounce_ms, n)
              join conductor.tasks t on t.name = g.task) c;
    if not p_in_transaction then
        insert into conductor.replacements (id, execution_id, replaced_at)
        select g.id, g.execution_id, clock_timestamp()
          from unnest(p_ids, ids, came_of) as g(id, execution_id, came_of)
         where g.came_of = 'replaced'
         order by g.id
            on conflict (id) do nothing;
    end if;
end
$$;

-- Invokes that each have a dedupe key or are debounced, and no throttle.
--
-- Mostly nothing is in the way, and the first statement is all there is. It takes keys in their order
-- and holds no row that was there before; only then are such rows locked, again in order: two
-- batches with the same keys wait for one another in one direction. What has started is not locked,
-- so that no worker waits for an invoke. Where somebody else has the row, or it ended meanwhile, what
-- was done is undone, so that it waits with nothing in its hands, and begins anew.
create function conductor.invoke_keyed(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_priorities integer[], p_in_transaction boolean, p_keys text[], p_debounce_ms bigint[], p_max_wait_ms bigint[],
    out ids uuid[], out came_of text[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_begun timestamptz := conductor.now();
    v_made uuid[];
    v_queues integer[];
    v_due integer[];
    v_busy text;
begin
    for v_round in 1 .. 1000 loop
        begin
            with given as (
                select distinct on (t.id, g.debounce_ms is not null, coalesce(g.key, '') collate "C")
                       g.id, t.id as task_id, t.queue_id, g.debounce_ms is not null as debounced,
                       coalesce(g.key, '') collate "C" as key,
                       coalesce(g.run_at, v_begun + coalesce(g.debounce_ms, g.delay_ms) * interval '1 ms', v_begun) as run_at,
                       coalesce(g.priority, t.priority) as priority, g.payload::json as payload,
                       octet_length(g.payload) as bytes, conductor.order_key(t.ordered_by, g.payload::json) as order_key
                  from unnest(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms, p_priorities, p_keys, p_debounce_ms,
                              p_max_wait_ms) with ordinality
                       as g(id, task, payload, run_at, delay_ms, priority, key, debounce_ms, max_wait_ms, n)
                  join conductor.tasks t on t.name = g.task
                 where conductor.is_invoke(g.id, g.payload, g.run_at, g.delay_ms)
                   and conductor.is_keyed(g.key, g.run_at, g.delay_ms, null, g.debounce_ms, g.max_wait_ms)
                   -- What is there or has ended is the same call again; in one snapshot, as it may be on its way from
                   -- the one to the other.
                   and (select true from conductor.live_executions l where l.id = g.id limit 1) is null
                   and (select true from conductor.finished_executions f where f.id = g.id limit 1) is null
                 order by t.id, g.debounce_ms is not null, coalesce(g.key, '') collate "C", g.n
            ), inserted as (
                insert into conductor.live_executions as l (
                       id, run_at, created_at, queue_id, task_id, priority, holds_key, debounced, dedupe_key, order_key,
                       payload, bytes)
                select g.id, g.run_at, v_begun, g.queue_id, g.task_id, g.priority, true, g.debounced, g.key,
                       g.order_key, g.payload, g.bytes
                  from given g
                 order by g.task_id, g.debounced, g.key
                    on conflict do nothing
                returning l.id, l.queue_id, l.run_at
            )
            select array_agg(i.id), array_agg(distinct i.queue_id) filter (where i.run_at < v_begun + interval '1s')
              into v_made, v_queues
              from inserted i;
            exit when cardinality(v_made) = cardinality(p_ids);

            perform conductor.refuse_keyed(
                p_ids, p_payloads, p_run_at, p_delay_ms, p_keys,
                array_fill(null::bigint, array[cardinality(p_ids)]), p_debounce_ms, p_max_wait_ms);
            perform conductor.refuse_unknown(p_tasks);
            if conductor.are_there(array(select id from unnest(p_ids) as id
                                          where v_made is null or id <> all (v_made))) then
                raise exception using errcode = 'CD007';
            end if;
            select m.ids, m.came_of, m.queues into ids, came_of, v_due
              from conductor.meet_keys(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms, p_priorities,
                                       p_in_transaction, p_keys, p_debounce_ms, p_max_wait_ms, v_begun) m;
            v_queues := v_queues || v_due;
            exit;
        exception when sqlstate 'CD007' then
            select m.ids, m.came_of into ids, came_of
              from conductor.invoke_mixed(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms, p_priorities,
                                          p_in_transaction, true, p_keys,
                                          array_fill(null::bigint, array[cardinality(p_ids)]), p_debounce_ms,
                                          p_max_wait_ms) m;
            return;
        when sqlstate 'CD006' then
            if v_round = 1000 then
                raise exception 'a dedupe key changes hands too often; try again' using errcode = '40001';
            end if;
            get stacked diagnostics v_busy = pg_exception_detail;
        end;
        begin
            perform from conductor.live_executions l where l.id = nullif(v_busy, '')::uuid for no key update;
            raise exception using errcode = 'CD006';
        exception when sqlstate 'CD006' then
            null;
        end;
    end loop;
    if v_queues is not null then
        perform conductor.wake(v_queues, p_in_transaction);
    end if;
end
$$;

-- Invokes of which some have a dedupe key, some are throttled, and some are neither; and those that
-- are sent again.
create function conductor.invoke_mixed(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_priorities integer[], p_in_transaction boolean, p_again boolean,
    p_keys text[], p_throttle_ms bigint[], p_debounce_ms bigint[], p_max_wait_ms bigint[],
    out ids uuid[], out came_of text[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    -- Of each throttled call: whose slot it met.
    v_named uuid[];
    v_part record;
    v_ids uuid[];
    v_came text[];
    v_slot record;
begin
    perform conductor.refuse_unknown(p_tasks);
    ids := array_fill(null::uuid, array[cardinality(p_ids)]);
    came_of := array_fill(null::text, array[cardinality(p_ids)]);

    if p_again then
        -- The statement of the broken connection may still be under way; the locks wait for its end.
        perform from (select t.id as task_id, g.debounce_ms is not null as debounced,
                             coalesce(g.key, '') collate "C" as key
                        from unnest(p_tasks, p_debounce_ms, p_keys) as g(task, debounce_ms, key)
                        join conductor.tasks t on t.name = g.task
                       order by 1, 2, 3) k
          cross join lateral (
                select from conductor.live_executions l
                 where l.holds_key and l.task_id = k.task_id and l.debounced = k.debounced
                   and l.dedupe_key = k.key and l.claim = 0 and l.state = 'pending'
                   for no key update) l;
        select array_agg(case when e.id is not null then g.id else r.execution_id end order by g.n),
               array_agg(case when e.id is not null then 'created' when r.id is not null then 'replaced' end order by g.n)
          into ids, came_of
          from unnest(p_ids) with ordinality as g(id, n)
          left join lateral (
               (select l.id from conductor.live_executions l where l.id = g.id limit 1)
               union all
               (select f.id from conductor.finished_executions f where f.id = g.id limit 1)
               limit 1) e on true
          left join lateral (
               select r.id, r.execution_id from conductor.replacements r where r.id = g.id limit 1) r on true;
    end if;

    insert into conductor.throttles as s (task_id, key, execution_id, until, lasts)
    select k.task_id, k.key, k.id, v_now + k.lasts, k.lasts
      from (select distinct on (t.id, coalesce(g.key, '') collate "C")
                   t.id as task_id, coalesce(g.key, '') collate "C" as key, g.id,
                   g.throttle_ms * interval '1 ms' as lasts
              from unnest(p_ids, p_tasks, p_keys, p_throttle_ms, came_of) with ordinality
                   as g(id, task, key, throttle_ms, came_of, n)
              join conductor.tasks t on t.name = g.task
             where g.throttle_ms is not null and g.came_of is null
             order by t.id, coalesce(g.key, '') collate "C", g.n) k
     order by k.task_id, k.key
        on conflict (task_id, key) do update
       set execution_id = excluded.execution_id, until = excluded.until, lasts = excluded.lasts
     -- Or longer than it lasts: a clock was wrong.
     where s.until <= v_now or s.until > v_now + s.lasts + interval '1 s';
    v_named := array(
        select o.execution_id
          from unnest(p_tasks, p_keys, p_throttle_ms, came_of) with ordinality
               as g(task, key, throttle_ms, came_of, n)
          join conductor.tasks t on t.name = g.task
          left join lateral (
               select s.execution_id from conductor.throttles s
                where s.task_id = t.id and s.key = coalesce(g.key, '')
                  and g.throttle_ms is not null and g.came_of is null
                limit 1) o on true
         order by g.n);

    -- Those who have their slot, or need none: first the ones whose key decides.
    for v_part in
        select g.keyed, array_agg(g.n order by g.n) as n, array_agg(g.id order by g.n) as ids,
               array_agg(g.task order by g.n) as tasks, array_agg(g.payload order by g.n) as payloads,
               array_agg(g.run_at order by g.n) as run_at, array_agg(g.delay_ms order by g.n) as delay_ms,
               array_agg(g.priority order by g.n) as priorities, array_agg(g.key order by g.n) as keys,
               array_agg(g.debounce_ms order by g.n) as debounce_ms, array_agg(g.max_wait_ms order by g.n) as max_wait_ms
          from (select a.*, a.key is not null or a.debounce_ms is not null as keyed
                  from unnest(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms, p_priorities, p_keys, p_throttle_ms,
                              p_debounce_ms, p_max_wait_ms, v_named, came_of) with ordinality
                       as a(id, task, payload, run_at, delay_ms, priority, key, throttle_ms, debounce_ms, max_wait_ms,
                            named, came_of, n)
                 where a.came_of is null and (a.throttle_ms is null or a.named = a.id)) g
         group by g.keyed
         order by g.keyed desc
    loop
        if v_part.keyed then
            select k.ids, k.came_of into v_ids, v_came
              from conductor.invoke_keyed(
                   v_part.ids, v_part.tasks, v_part.payloads, v_part.run_at, v_part.delay_ms, v_part.priorities,
                   p_in_transaction, v_part.keys, v_part.debounce_ms, v_part.max_wait_ms) k;
        else
            v_ids := null;
            v_came := null;
            perform conductor.invoke_many(
                v_part.ids, v_part.tasks, v_part.payloads, v_part.run_at, v_part.delay_ms, v_part.priorities,
                p_in_transaction, p_again);
        end if;
        for v_i in 1 .. cardinality(v_part.n) loop
            ids[v_part.n[v_i]] := coalesce(v_ids[v_i], v_part.ids[v_i]);
            came_of[v_part.n[v_i]] := coalesce(v_came[v_i], 'created');
        end loop;
    end loop;

    -- A slot goes to what was made in it. Where the key's execution had started, nothing was made.
    for v_slot in
        select t.id as task_id, coalesce(g.key, '') collate "C" as key, g.answer, g.came_of
          from unnest(p_ids, p_tasks, p_keys, v_named, ids, came_of) as g(id, task, key, named, answer, came_of)
          join conductor.tasks t on t.name = g.task
         where g.named = g.id and g.came_of in ('replaced', 'existing')
    loop
        if v_slot.came_of = 'existing' then
            delete from conductor.throttles s where s.task_id = v_slot.task_id and s.key = v_slot.key;
        else
            update conductor.throttles s set execution_id = v_slot.answer
             where s.task_id = v_slot.task_id and s.key = v_slot.key;
        end if;
    end loop;

    -- The others have what the slot's first one has.
    select array_agg(coalesce(a.answer, case when a.named = a.first then a.first_answer else a.named end) order by a.n),
           array_agg(coalesce(a.came_of, case when a.named = a.first and a.first_came_of = 'existing' then 'existing'
                                              else 'throttled' end) order by a.n)
      into ids, came_of
      from (select g.n, g.answer, g.came_of, g.named, first_value(g.id) over s as first,
                   first_value(g.answer) over s as first_answer, first_value(g.came_of) over s as first_came_of
              from unnest(p_ids, p_tasks, p_keys, v_named, ids, came_of) with ordinality
                   as g(id, task, key, named, answer, came_of, n)
            window s as (partition by g.named is null, g.task, coalesce(g.key, '') collate "C" order by g.n)) a;
end
$$;

-- For psql, triggers and other languages:  select conductor.invoke('greet', '{"name": "Alice"}');
create function conductor.invoke(
    task text, payload jsonb default 'null', run_at timestamptz default null,
    delay interval default null, priority integer default null, dedupe_key text default null,
    throttle interval default null, debounce interval default null, max_wait interval default null) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid := conductor.uuid7();
    v_keyed boolean := dedupe_key is not null or throttle is not null or debounce is not null
                         or max_wait is not null;
begin
    if task is null then
        raise exception 'the task''s name is null' using errcode = 'CD002';
    end if;
    if jsonb_path_exists(payload, 'strict $.**{120} ? (@.type() == "array" || @.type() == "object")') then
        raise exception 'the payload nests more than 120 levels deep' using errcode = 'CD002';
    end if;
    -- What lies outside, infinity too, is more than clients and the arithmetic on times can hold.
    if run_at not between '0001-01-01 00:00:00+00' and '9999-12-31 23:59:59.999999+00' then
        raise exception 'run_at % lies outside the years 1 to 9999', run_at using errcode = 'CD002';
    end if;
    if delay not between '0' and '1000 years' then
        raise exception 'a delay of % is negative or longer than 1000 years', delay using errcode = 'CD002';
    end if;
    if octet_length(dedupe_key) not between 1 and 200 then
        raise exception 'a dedupe key has 1 to 200 bytes, not %', octet_length(dedupe_key) using errcode = 'CD002';
    end if;
    if throttle not between '1 millisecond' and '1000 years' then
        raise exception 'a throttle of % is shorter than a millisecond or longer than 1000 years', throttle
            using errcode = 'CD002';
    end if;
    if debounce not between '1 millisecond' and '1000 years' then
        raise exception 'a debounce of % is shorter than a millisecond or longer than 1000 years', debounce
            using errcode = 'CD002';
    end if;
    if max_wait is not null and debounce is null then
        raise exception 'max_wait bounds a debounce; give one with it' using errcode = 'CD002';
    end if;
    if max_wait not between debounce and '1000 years' then
        raise exception 'a max_wait of % is shorter than the debounce of % or longer than 1000 years', max_wait, debounce
            using errcode = 'CD002';
    end if;
    if throttle is not null and debounce is not null then
        raise exception 'throttle lets the first call through and debounce the last one; give one of them'
            using errcode = 'CD002';
    end if;
    if debounce is not null and (run_at is not null or delay is not null) then
        raise exception 'debounce says when the execution is due; give no run_at or delay with it'
            using errcode = 'CD002';
    end if;
    select coalesce(m.ids[1], v_id) into v_id
      from conductor.invoke_many(
           array[v_id], array[task], array[coalesce(payload, 'null')::text], array[run_at],
           array[(extract(epoch from delay) * 1000)::bigint], array[priority], true, false,
           case when v_keyed then array[dedupe_key] end,
           case when v_keyed then array[(extract(epoch from throttle) * 1000)::bigint] end,
           case when v_keyed then array[(extract(epoch from debounce) * 1000)::bigint] end,
           case when v_keyed then array[(extract(epoch from max_wait) * 1000)::bigint] end) m;
    return v_id;
end
$$;
