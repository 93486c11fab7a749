-- Returns the answers of calls with keys that were sent before, for those that have one already: the execution that
-- they have made, or that they have replaced. Called by invoke_mixed, under whose settings it runs.
-- Locks: live_executions (unstarted ones of these keys, waits, by task and key).
create or replace function conductor.answer_again(
    p_ids uuid[], p_tasks text[], p_keys text[], p_debounce_ms bigint[], out ids uuid[], out came_of text[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    -- The statement of the broken connection may still run. These locks wait for its end.
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
end
$$;

-- Takes the slots of throttled calls that have no answer yet, if they are free. Returns for each of these calls the
-- execution that its slot belongs to. Called by invoke_mixed, under whose settings it runs.
-- Locks: throttles (inserts, waits, by task and key).
create or replace function conductor.take_slots(
    p_ids uuid[], p_tasks text[], p_keys text[], p_throttle_ms bigint[], p_came_of text[], p_now timestamptz)
returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    insert into conductor.throttles as s (task_id, key, execution_id, until, lasts)
    select k.task_id, k.key, k.id, p_now + k.lasts, k.lasts
      from (select distinct on (t.id, coalesce(g.key, '') collate "C")
                   t.id as task_id, coalesce(g.key, '') collate "C" as key, g.id,
                   g.throttle_ms * interval '1 ms' as lasts
              from unnest(p_ids, p_tasks, p_keys, p_throttle_ms, p_came_of) with ordinality
                   as g(id, task, key, throttle_ms, came_of, n)
              join conductor.tasks t on t.name = g.task
             where g.throttle_ms is not null and g.came_of is null
             order by t.id, coalesce(g.key, '') collate "C", g.n) k
     order by k.task_id, k.key
        on conflict (task_id, key) do update
       set execution_id = excluded.execution_id, until = excluded.until, lasts = excluded.lasts
     -- A slot that lasts longer than it can was written by a wrong clock.
     where s.until <= p_now or s.until > p_now + s.lasts + interval '1 s';
    return array(
        select o.execution_id
          from unnest(p_tasks, p_keys, p_throttle_ms, p_came_of) with ordinality
               as g(task, key, throttle_ms, came_of, n)
          join conductor.tasks t on t.name = g.task
          left join lateral (
               select s.execution_id from conductor.throttles s
                where s.task_id = t.id and s.key = coalesce(g.key, '')
                  and g.throttle_ms is not null and g.came_of is null
                limit 1) o on true
         order by g.n);
end
$$;

-- Gives the slots that these calls have taken to the executions that the calls have replaced, and frees them if the
-- execution of the key had started. Then returns the answers of all calls: those without one get the answer of the
-- first call of their slot. p_named are the executions that the slots belonged to, p_answers and p_came_of the answers
-- that are known. Called by invoke_mixed, under whose settings it runs.
-- Locks: throttles (that this transaction has written).
create or replace function conductor.close_slots(
    p_ids uuid[], p_tasks text[], p_keys text[], p_named uuid[], p_answers uuid[], p_came_of text[],
    out ids uuid[], out came_of text[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_slot record;
begin
    -- A slot belongs to the execution that was made in it. If the execution of the key had started, none was
    -- made.
    for v_slot in
        select t.id as task_id, coalesce(g.key, '') collate "C" as key, g.answer, g.came_of
          from unnest(p_ids, p_tasks, p_keys, p_named, p_answers, p_came_of) as g(id, task, key, named, answer, came_of)
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
    select array_agg(coalesce(a.answer, case when a.named = a.first then a.first_answer else a.named end) order by a.n),
           array_agg(coalesce(a.came_of, case when a.named = a.first and a.first_came_of = 'existing' then 'existing'
                                              else 'throttled' end) order by a.n)
      into ids, came_of
      from (select g.n, g.answer, g.came_of, g.named, first_value(g.id) over s as first,
                   first_value(g.answer) over s as first_answer, first_value(g.came_of) over s as first_came_of
              from unnest(p_ids, p_tasks, p_keys, p_named, p_answers, p_came_of) with ordinality
                   as g(id, task, key, named, answer, came_of, n)
            window s as (partition by g.named is null, g.task, coalesce(g.key, '') collate "C" order by g.n)) a;
end
$$;

-- Invokes calls of which some have a dedupe key, some are throttled and some neither, and calls with keys that
-- are sent again (p_again). Called by invoke_with_keys and invoke_keyed. Returns as invoke_many.
-- Locks: live_executions (unstarted ones of these keys, waits, by task and key; only with p_again), throttles
--   (inserts, waits, by task and key), as invoke_keyed, as invoke_many without keys, throttles (its own rows).
create or replace function conductor.invoke_mixed(
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
    -- For each throttled call, the execution that its slot belongs to.
    v_named uuid[];
    v_answers record;
    v_part record;
    v_ids uuid[];
    v_came text[];
begin
    perform conductor.refuse_unknown(p_tasks);
    ids := array_fill(null::uuid, array[cardinality(p_ids)]);
    came_of := array_fill(null::text, array[cardinality(p_ids)]);

    if p_again then
        select a.ids, a.came_of into ids, came_of
          from conductor.answer_again(p_ids, p_tasks, p_keys, p_debounce_ms) a;
    end if;
    v_named := conductor.take_slots(p_ids, p_tasks, p_keys, p_throttle_ms, came_of, v_now);
    -- The calls that have their slot, or need none. Those with a key come first.
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
            v_answers := conductor.invoke_keyed(
                p_ids => v_part.ids, p_tasks => v_part.tasks, p_payloads => v_part.payloads,
                p_run_at => v_part.run_at, p_delay_ms => v_part.delay_ms, p_priorities => v_part.priorities,
                p_in_transaction => p_in_transaction, p_keys => v_part.keys, p_debounce_ms => v_part.debounce_ms,
                p_max_wait_ms => v_part.max_wait_ms);
            v_ids := v_answers.ids;
            v_came := v_answers.came_of;
        else
            v_ids := null;
            v_came := null;
            perform conductor.invoke_many(
                p_ids => v_part.ids, p_tasks => v_part.tasks, p_payloads => v_part.payloads,
                p_run_at => v_part.run_at, p_delay_ms => v_part.delay_ms, p_priorities => v_part.priorities,
                p_in_transaction => p_in_transaction, p_again => p_again);
        end if;
        for v_i in 1 .. cardinality(v_part.n) loop
            ids[v_part.n[v_i]] := coalesce(v_ids[v_i], v_part.ids[v_i]);
            came_of[v_part.n[v_i]] := coalesce(v_came[v_i], 'created');
        end loop;
    end loop;

    v_answers := conductor.close_slots(p_ids, p_tasks, p_keys, v_named, ids, came_of);
    ids := v_answers.ids;
    came_of := v_answers.came_of;
end
$$;
