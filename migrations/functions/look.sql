-- Returns in fit how many of these candidates, from the first one on, fit into p_most bytes, and in bytes their
-- size; with p_first at least one. p_sizes has the sizes of their payloads. With p_again some have been claimed
-- before, so the sizes of their records are looked up. The records of an execution that has too many count as
-- nothing, because memo returns only their size. Called by claim_plain and claim_gated.
create or replace function conductor.within_bytes(
    p_ids uuid[], p_sizes integer[], p_again boolean, p_most bigint, p_first boolean, out fit integer, out bytes bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
begin
    select count(*), coalesce(max(w.total), 0) into fit, bytes
      from (select g.n, sum(g.size + case when p_again then coalesce(m.bytes, 0) else 0 end) over (order by g.n) as total
              from unnest(p_ids, p_sizes) with ordinality as g(id, size, n)
              left join lateral (
                   select case when sum(s.bytes) <= conductor.most_records() then sum(s.bytes) end as bytes
                     from conductor.steps s where s.execution_id = g.id) m on p_again) w
     where w.total <= p_most or p_first and w.n = 1;
end
$$;

-- Returns the next priority below p_below (null: the highest of all) that is in use in a queue. Those in p_known
-- count as in use without a look, so that no dead rows are read between them. Called by claim_plain and
-- claim_gated, under whose settings it runs.
create or replace function conductor.next_priority(p_queue integer, p_below integer, p_known integer[])
returns integer
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_known integer;
    v_found integer;
    v_k integer;
begin
    -- A loop, because a statement would cost more than this short list.
    foreach v_k in array coalesce(p_known, '{}') loop
        if (p_below is null or v_k < p_below) and (v_known is null or v_k > v_known) then
            v_known := v_k;
        end if;
    end loop;
    select l.priority into v_found from conductor.live_executions l
     where l.queue_id = p_queue and l.priority < coalesce(p_below::bigint, 2147483648)
       and l.priority > coalesce(v_known, -2147483649)
     order by l.priority desc limit 1;
    return coalesce(v_found, v_known);
end
$$;

-- Returns when the next execution of a priority is due, after p_now. Called by claim_plain and claim_gated, under
-- whose settings it runs.
create or replace function conductor.next_due(p_queue integer, p_priority integer, p_now timestamptz)
returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select l.run_at from conductor.live_executions l
         where l.queue_id = p_queue and l.priority = p_priority and l.run_at > p_now and l.run_at < 'infinity'
         order by l.run_at limit 1);
end
$$;

-- Returns the run_at from which on the next look at a priority begins, after a look from p_start on that claimed
-- all that it found: all that was due (p_all), or what was due until p_last. Called by claim_plain and claim_gated.
create or replace function conductor.next_place(
    p_start timestamptz, p_now timestamptz, p_all boolean, p_last timestamptz) returns timestamptz
language sql stable parallel safe
return greatest(
    p_start, p_now - interval '1 year', case when p_all then p_now - interval '1 s' else p_last - interval '200 ms' end);

-- Returns the row without id: when something is due, the slots of the worker that it may not know, and where the next
-- look begins. If p_more is true, the look ended before its last priority, and the lower ones keep their places. Called
-- by claim_plain and claim_gated. It returns one row and no set, which costs a third.
create or replace function conductor.closing_row(
    p_seen integer[], p_from timestamptz[], p_new_seen integer[], p_new_from timestamptz[], p_more boolean,
    p_due interval, p_lanes integer[] default null, p_slots integer[] default null,
    p_limits integer[] default null, p_keys text[] default null)
returns conductor.claimed
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_row conductor.claimed;
begin
    if p_seen is not null and cardinality(p_new_seen) <= 50 then
        v_row.seen := p_new_seen;
        v_row.seen_from := p_new_from;
        if p_more and not p_seen <@ p_new_seen then
            select p_new_seen || array_agg(g.seen order by g.n), p_new_from || array_agg(g.since order by g.n)
              into v_row.seen, v_row.seen_from
              from unnest(p_seen, p_from) with ordinality as g(seen, since, n)
             where g.seen <> all (p_new_seen);
        end if;
    end if;
    v_row.lanes := p_lanes;
    v_row.slots := p_slots;
    v_row.lane_limits := p_limits;
    v_row.lane_keys := p_keys;
    v_row.next_due_ms := ceil(extract(epoch from p_due) * 1000)::bigint;
    return v_row;
end
$$;

-- Notes that the worker of a queue is about to sleep, so that the next invoke wakes it. Returns whether that is
-- new: then an invoke may have missed it, and the claim looks once more. Called by claim_plain and claim_gated.
-- Locks: queues.idle (if free).
create or replace function conductor.go_idle(p_queue integer) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    update conductor.queues q set idle = true
     where q.id = any (array(select o.id from conductor.queues o
                              where o.id = p_queue and not o.idle for no key update skip locked));
    return found;
end
$$;
