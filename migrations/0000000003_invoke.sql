-- How an execution comes into being.

set local search_path = pg_catalog, pg_temp;

-- Wakes the workers of these queues: those that sleep, or (p_always) all. A transaction of the
-- user's must not lock the queue's row, nor rely on a flag that may change before it commits.
create function conductor.wake(p_queues integer[], p_always boolean) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
    v_woken bigint;
begin
    if p_always then
        perform pg_notify('conductor', 'queue:' || q) from unnest(p_queues) as q;
    else
        with woken as (
            update conductor.queues q set idle = false
             where q.id = any (p_queues) and q.idle
            returning q.id
        )
        select count(pg_notify('conductor', 'queue:' || w.id)) into v_woken from woken w;
    end if;
end
$$;

-- Inserts executions with ids that the caller made, so that a repeated call (p_again, after a
-- connection broke with the commit's fate unknown) makes nothing twice.
create function conductor.invoke_many(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_priorities integer[], p_in_transaction boolean, p_again boolean) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_unknown text;
    v_count bigint;
    v_queues integer[];
begin
    with given as (
        select g.id, g.task, g.payload, g.run_at, g.delay_ms, g.priority
          from unnest(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms, p_priorities)
               as g(id, task, payload, run_at, delay_ms, priority)
    ), inserted as (
        insert into conductor.live_executions as l (id, run_at, created_at, queue_id, task_id, priority, payload)
        select g.id, coalesce(g.run_at, v_now + g.delay_ms * interval '1 ms', v_now), v_now,
               t.queue_id, t.id, coalesce(g.priority, t.priority), g.payload::json
          from given g
          join conductor.tasks t on t.name = g.task
         where not (p_again and exists (select from conductor.finished_executions f where f.id = g.id))
            on conflict (id) do nothing
        returning l.queue_id, l.run_at
    )
    select count(*), array_agg(distinct i.queue_id) filter (where i.run_at < v_now + interval '1s')
      into v_count, v_queues
      from inserted i;

    if v_count < cardinality(p_ids) then
        select g.task into v_unknown from unnest(p_tasks) as g(task)
         where not exists (select from conductor.tasks t where t.name = g.task) limit 1;
        if found then
            raise exception 'unknown task "%"', v_unknown using errcode = 'CD001',
                hint = 'Known tasks: ' || coalesce(
                    (select string_agg(n.name, ', ') from
                        (select t.name from conductor.tasks t order by t.name limit 20) n),
                    'none; start a worker once, or run its command "migrate"') || '.';
        end if;
    end if;
    if v_queues is not null then
        perform conductor.wake(v_queues, p_in_transaction);
    end if;
end
$$;

-- For psql, triggers and other languages:  select conductor.invoke('greet', '{"name": "Alice"}');
create function conductor.invoke(
    task text, payload jsonb default 'null', run_at timestamptz default null,
    delay interval default null, priority integer default null) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid := conductor.uuid7();
begin
    if task is null then
        raise exception 'the task''s name is null' using errcode = 'CD002';
    end if;
    -- What lies outside, infinity too, is more than clients and the arithmetic on times can hold.
    if run_at not between '0001-01-01 00:00:00+00' and '9999-12-31 23:59:59.999999+00' then
        raise exception 'run_at % lies outside the years 1 to 9999', run_at using errcode = 'CD002';
    end if;
    if delay not between '0' and '1000 years' then
        raise exception 'a delay of % is negative or longer than 1000 years', delay using errcode = 'CD002';
    end if;
    perform conductor.invoke_many(
        array[v_id], array[task], array[coalesce(payload, 'null')::text], array[run_at],
        array[(extract(epoch from delay) * 1000)::bigint], array[priority], true, false);
    return v_id;
end
$$;
