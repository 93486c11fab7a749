-- How executions are made.
--
-- Without options an execution is inserted (invoke_new, invoke_one; invoke_again if the call is sent again).
-- With a dedupe key it may exist already: the index live_executions_key allows a task one execution for each
-- key. If no worker has ever claimed it, it takes the new payload; otherwise it stays as it is (invoke_keyed; one
-- call whose key is free: invoke_one_keyed).
-- Debounced executions have keys of their own kind, and release them when a worker claims them. Throttled calls
-- ask for their slot before all this (invoke_mixed). If two calls meet, the second one waits for the
-- transaction of the first.
--
-- The callers make the ids. So a call that is sent again (p_again, if the connection broke and the commit is in
-- doubt) makes nothing twice, and returns the same answer.

-- Fails with CD001 if one of these tasks does not exist; otherwise does nothing.
create or replace function conductor.refuse_unknown(p_tasks text[]) returns void
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
                'none; start a worker once, or invoke a task from its program') || '.';
    end if;
end
$$;

-- Returns whether a call can be stored, run and shown. Inlined into the statement of the caller, as is_plain.
create or replace function conductor.is_invoke(p_id uuid, p_payload text, p_run_at timestamptz, p_delay_ms bigint) returns boolean
language sql immutable parallel safe
return p_id is not null and p_payload is not null and octet_length(p_payload) <= 16777216
   and (p_run_at is null
        or p_run_at between '0001-01-01 00:00:00+00'::timestamptz and '9999-12-31 23:59:59.999999+00'::timestamptz)
   and (p_delay_ms is null or p_delay_ms between 0 and 31557600000000)
   and (strpos(p_payload, E'\\u') = 0 or conductor.json_fault(p_payload::json) is null);

-- Fails with CD002 and what is wrong with a call that is_invoke or is_keyed rejects. p_n is the number of the
-- call in its array.
create or replace function conductor.refuse_invoke(
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

-- Returns whether the key of a call, and the options that go with it, are valid. Inlined into the statement of
-- the caller.
create or replace function conductor.is_keyed(
    p_key text, p_run_at timestamptz, p_delay_ms bigint, p_throttle_ms bigint, p_debounce_ms bigint,
    p_max_wait_ms bigint) returns boolean
language sql immutable parallel safe
return (p_key is null or octet_length(p_key) between 1 and 200)
   and (p_throttle_ms is null or p_throttle_ms between 1 and 31557600000000)
   and (p_debounce_ms is null
        or p_debounce_ms between 1 and 31557600000000
           and p_throttle_ms is null and p_run_at is null and p_delay_ms is null)
   and (p_max_wait_ms is null or coalesce(p_max_wait_ms between p_debounce_ms and 31557600000000, false));

-- Fails with CD002 if one of these calls, which may have keys, cannot be stored; otherwise does nothing.
create or replace function conductor.refuse_keyed(
    p_ids uuid[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_keys text[], p_throttle_ms bigint[], p_debounce_ms bigint[], p_max_wait_ms bigint[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    perform conductor.refuse_invoke(
        p_n => g.n, p_id => g.id, p_payload => g.payload, p_run_at => g.run_at, p_delay_ms => g.delay_ms,
        p_key => g.key, p_throttle_ms => g.throttle_ms, p_debounce_ms => g.debounce_ms, p_max_wait_ms => g.max_wait_ms)
       from unnest(p_ids, p_payloads, p_run_at, p_delay_ms, p_keys, p_throttle_ms, p_debounce_ms, p_max_wait_ms)
            with ordinality as g(id, payload, run_at, delay_ms, key, throttle_ms, debounce_ms, max_wait_ms, n)
      where not conductor.is_invoke(g.id, g.payload, g.run_at, g.delay_ms)
         or not conductor.is_keyed(g.key, g.run_at, g.delay_ms, g.throttle_ms, g.debounce_ms, g.max_wait_ms)
      limit 1;
end
$$;

-- Fails if one of these calls, which have no keys, cannot be stored (CD002) or names an unknown task (CD001);
-- otherwise does nothing.
create or replace function conductor.refuse_invokes(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    perform conductor.refuse_invoke(
        p_n => g.n, p_id => g.id, p_payload => g.payload, p_run_at => g.run_at, p_delay_ms => g.delay_ms,
        p_key => null, p_throttle_ms => null, p_debounce_ms => null, p_max_wait_ms => null)
       from unnest(p_ids, p_payloads, p_run_at, p_delay_ms) with ordinality as g(id, payload, run_at, delay_ms, n)
      where not conductor.is_invoke(g.id, g.payload, g.run_at, g.delay_ms);
    perform conductor.refuse_unknown(p_tasks);
end
$$;

-- Returns whether one of these executions exists or has ended: then the call is sent again.
create or replace function conductor.are_there(p_ids uuid[]) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    return exists (select from conductor.live_executions l where l.id = any (p_ids))
        or exists (select from conductor.finished_executions f where f.id = any (p_ids));
end
$$;

-- Invokes calls of which at least one has a dedupe key, a throttle or a debounce. Called by invoke_many, whose
-- settings are in force here. Returns as invoke_many.
-- Locks: as invoke_keyed or invoke_mixed.
create or replace function conductor.invoke_with_keys(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_priorities integer[], p_in_transaction boolean, p_again boolean,
    p_keys text[], p_throttle_ms bigint[], p_debounce_ms bigint[], p_max_wait_ms bigint[],
    out ids uuid[], out came_of text[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_answers record;
begin
    if p_again or num_nonnulls(variadic p_throttle_ms) > 0
       or num_nulls(variadic p_keys) > 0 and exists (
              select from unnest(p_keys, p_debounce_ms) as g(key, debounce_ms)
               where g.key is null and g.debounce_ms is null) then
        perform conductor.refuse_keyed(
            p_ids => p_ids, p_payloads => p_payloads, p_run_at => p_run_at, p_delay_ms => p_delay_ms,
            p_keys => p_keys, p_throttle_ms => p_throttle_ms, p_debounce_ms => p_debounce_ms,
            p_max_wait_ms => p_max_wait_ms);
        v_answers := conductor.invoke_mixed(
            p_ids => p_ids, p_tasks => p_tasks, p_payloads => p_payloads, p_run_at => p_run_at,
            p_delay_ms => p_delay_ms, p_priorities => p_priorities, p_in_transaction => p_in_transaction,
            p_again => p_again or conductor.are_there(p_ids), p_keys => p_keys, p_throttle_ms => p_throttle_ms,
            p_debounce_ms => p_debounce_ms, p_max_wait_ms => p_max_wait_ms);
    else
        v_answers := conductor.invoke_keyed(
            p_ids => p_ids, p_tasks => p_tasks, p_payloads => p_payloads, p_run_at => p_run_at,
            p_delay_ms => p_delay_ms, p_priorities => p_priorities, p_in_transaction => p_in_transaction,
            p_keys => p_keys, p_debounce_ms => p_debounce_ms, p_max_wait_ms => p_max_wait_ms);
    end if;
    ids := v_answers.ids;
    came_of := v_answers.came_of;
end
$$;

-- Invokes calls of any kind and number. Called by clients, invoke and invoke_mixed. Returns, in the order of
-- the calls, the executions and what came of each call (created, replaced, existing or throttled), or nulls if
-- all were created as requested.
--
-- If two calls with one id run at the same time, the second one may fail (unique_violation): a caller that
-- sends a call again must set p_again.
-- Locks: as invoke_one, invoke_new or invoke_again; with keys as invoke_one_keyed or invoke_with_keys.
create or replace function conductor.invoke_many(
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
    v_count bigint := cardinality(p_ids);
    -- A single call, whose arrays have one dimension and begin at 1.
    v_one boolean := v_count = 1
                 and array_lower(p_ids, 1) = 1 and array_lower(p_tasks, 1) = 1 and array_lower(p_payloads, 1) = 1
                 and array_lower(p_run_at, 1) = 1 and array_lower(p_delay_ms, 1) = 1
                 and array_lower(p_priorities, 1) = 1
                 and array_ndims(p_run_at) = 1 and array_ndims(p_delay_ms) = 1 and array_ndims(p_priorities) = 1;
    v_answers record;
begin
    -- Other languages call this directly, so it checks its arguments as invoke does.
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
        -- If an open transaction holds a lock, this ends soon, so that its caller can send the other calls
        -- alone.
        if not p_in_transaction then
            perform set_config('lock_timeout', '250ms', true);
        end if;
        if v_one and not p_again
           and num_nonnulls(variadic p_throttle_ms) + num_nonnulls(variadic p_debounce_ms) = 0
           and coalesce(num_nonnulls(variadic p_max_wait_ms), 0) = 0
           and conductor.invoke_one_keyed(
               p_id => p_ids[1], p_task => p_tasks[1], p_payload => p_payloads[1], p_run_at => p_run_at[1],
               p_delay_ms => p_delay_ms[1], p_priority => p_priorities[1], p_in_transaction => p_in_transaction,
               p_key => p_keys[1]) then
            return;
        end if;
        v_answers := conductor.invoke_with_keys(
            p_ids => p_ids, p_tasks => p_tasks, p_payloads => p_payloads, p_run_at => p_run_at,
            p_delay_ms => p_delay_ms, p_priorities => p_priorities, p_in_transaction => p_in_transaction,
            p_again => p_again, p_keys => p_keys, p_throttle_ms => p_throttle_ms, p_debounce_ms => p_debounce_ms,
            p_max_wait_ms => p_max_wait_ms);
        ids := v_answers.ids;
        came_of := v_answers.came_of;
        return;
    end if;
    if p_again then
        perform conductor.invoke_again(
            p_ids => p_ids, p_tasks => p_tasks, p_payloads => p_payloads, p_run_at => p_run_at,
            p_delay_ms => p_delay_ms, p_priorities => p_priorities, p_in_transaction => p_in_transaction);
    elsif v_one then
        perform conductor.invoke_one(
            p_id => p_ids[1], p_task => p_tasks[1], p_payload => p_payloads[1], p_run_at => p_run_at[1],
            p_delay_ms => p_delay_ms[1], p_priority => p_priorities[1], p_in_transaction => p_in_transaction);
    else
        perform conductor.invoke_new(
            p_ids => p_ids, p_tasks => p_tasks, p_payloads => p_payloads, p_run_at => p_run_at,
            p_delay_ms => p_delay_ms, p_priorities => p_priorities, p_in_transaction => p_in_transaction);
    end if;
end
$$;
