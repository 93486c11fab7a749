-- Gives the turns of these keys, which no execution has, and returns those that it has given, with the executions that
-- have them now. Executions that had been set aside return to their queue. Called by take_turns, which has the right
-- to give turns and under whose settings it runs.
-- Locks: live_executions (the first of each key, if free), turns (inserts), queues.idle (if free).
create or replace function conductor.give_turns(
    p_tasks integer[], p_keys text[], out tasks integer[], out keys text[], out turns uuid[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_queues integer[];
begin
    -- To the first execution that exists. It is locked, so that it neither ends nor gets another key
    -- meanwhile.
    with first as materialized (
        select g.task_id, g.key, f.id
          from unnest(p_tasks, p_keys) as g(task_id, key)
         cross join lateral (
               select l.id from conductor.live_executions l
                where l.task_id = g.task_id and l.order_key = g.key
                order by l.created_at, l.id limit 1) f
    ), held as materialized (
        select l.id, l.queue_id, l.order_key from conductor.live_executions l
         where l.id = any (array(select f.id from first f)) for no key update skip locked
    ), given as (
        insert into conductor.turns as t (task_id, key, execution_id)
        select f.task_id, f.key, f.id from first f join held h on h.id = f.id and h.order_key = f.key
            on conflict do nothing
        returning t.task_id, t.key, t.execution_id
    ), back as (
        update conductor.live_executions l
           set queue_id = (select t.queue_id from conductor.tasks t where t.id = l.task_id)
         where l.id = any (array(select h.id from held h where h.queue_id = 0))
        returning l.queue_id
    )
    select array_agg(g.task_id), array_agg(g.key), array_agg(g.execution_id),
           (select array_agg(distinct b.queue_id) from back b)
      into tasks, keys, turns, v_queues
      from given g;
    if v_queues is not null then
        perform conductor.wake(v_queues, false);
    end if;
end
$$;

-- Returns which of these executions have their turn or need none, in their order, with what the caller knows of
-- them (p_of, p_keys). Called by claim, which has locked the executions. Waits for nothing.
--
-- Executions whose turn another execution has are set aside; moved is their number. If another session is
-- claiming or ending an execution of the key just now, the others of the key stay where they are; busy is their
-- number. With p_all these are set aside, too, and noted, so that a chore brings them back.
-- Locks: turns (if free), the right to give new turns (tries one of 512 advisory locks), live_executions (the
--   first of each key, if free), turns (inserts), queues.idle (if free), deferred (inserts).
create or replace function conductor.take_turns(
    p_ids uuid[], p_of integer[], p_keys text[], p_all boolean default false,
    out ids uuid[], out "of" integer[], out keys text[], out moved integer, out busy integer)
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = on set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    -- One element for each execution that is ordered.
    v_ids uuid[];
    v_tasks integer[];
    v_keys text[];
    -- One element for each key whose turn is locked or given here, with the execution that has it.
    v_turn_tasks integer[];
    v_turn_keys text[];
    v_turns uuid[];
    v_free_tasks integer[];
    v_free_keys text[];
    v_given record;
    v_aside uuid[];
    v_busy uuid[];
begin
    -- With `offset 0`, so that the index of ordered executions is not used instead of that of the ids.
    select array_agg(o.id), array_agg(o.task_id), array_agg(o.order_key) into v_ids, v_tasks, v_keys
      from (select l.id, l.task_id, l.order_key from conductor.live_executions l where l.id = any (p_ids) offset 0) o
     where o.order_key is not null;
    -- The end of the execution that has the turn waits for this lock, and then sees what was set aside.
    select array_agg(o.task_id), array_agg(o.key), array_agg(o.execution_id)
      into v_turn_tasks, v_turn_keys, v_turns
      from (select distinct g.task_id, g.key from unnest(v_tasks, v_keys) as g(task_id, key)) d
     cross join lateral (
           select t.task_id, t.key, t.execution_id from conductor.turns t
            where t.task_id = d.task_id and t.key = d.key limit 1 for no key update skip locked) o;
    -- New turns are given by one claim at a time.
    select array_agg(f.task_id), array_agg(f.key) into v_free_tasks, v_free_keys
      from (select d.task_id, d.key
              from (select g.task_id, g.key from unnest(v_tasks, v_keys) as g(task_id, key)
                    except
                    select h.task_id, h.key from unnest(v_turn_tasks, v_turn_keys) as h(task_id, key)) d
             where (select true from conductor.turns t where t.task_id = d.task_id and t.key = d.key limit 1) is null offset 0) f
     where pg_try_advisory_xact_lock(hashtext('conductor.turns'), hashtext(f.task_id || ' ' || f.key) & 511);
    if v_free_keys is not null then
        v_given := conductor.give_turns(v_free_tasks, v_free_keys);
        v_turn_tasks := v_turn_tasks || v_given.tasks;
        v_turn_keys := v_turn_keys || v_given.keys;
        v_turns := v_turns || v_given.turns;
    end if;
    select coalesce(array_agg(o.id order by o.n) filter (where o.goes), '{}'),
           array_agg(o.of order by o.n) filter (where o.goes), array_agg(o.key order by o.n) filter (where o.goes),
           array_agg(o.id) filter (where not o.goes and o.turn is not null),
           array_agg(o.id) filter (where not o.goes and o.turn is null)
      into ids, "of", keys, v_aside, v_busy
      from (select g.n, g.id, g.of, g.key, t.turn, k.id is null or coalesce(t.turn = g.id, false) as goes
              from unnest(p_ids, p_of, p_keys) with ordinality as g(id, of, key, n)
              left join unnest(v_ids, v_tasks, v_keys) as k(id, task_id, key) on k.id = g.id
              left join unnest(v_turn_tasks, v_turn_keys, v_turns) as t(task_id, key, turn)
                on t.task_id = k.task_id and t.key = k.key) o;
    busy := coalesce(cardinality(v_busy), 0);
    if p_all and busy > 0 then
        insert into conductor.deferred (execution_id, what)
        select id, 'turn' from unnest(v_busy) as id on conflict do nothing;
        v_aside := v_aside || v_busy;
    end if;
    moved := 0;
    if v_aside is not null then
        update conductor.live_executions l set queue_id = 0 where l.id = any (v_aside) and l.queue_id <> 0;
        get diagnostics moved = row_count;
    end if;
end
$$;
