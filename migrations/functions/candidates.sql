-- Returns what a claim must know of the limits of these tasks. limited are those that have one. plain are those
-- that have exactly one, which is for concurrency and not shared, with its id and the place of its key. whole are
-- limited as a whole, without a key. shared has the owners of lanes that several tasks share: -limit_id. If all keys
-- are at one place of the payloads, one_path is true and path is that place. Called by claim_gated, under whose
-- settings it runs.
create or replace function conductor.limits_of(
    p_tasks integer[], out limited integer[], out plain integer[], out plain_limits integer[], out plain_paths text[],
    out whole integer[], out shared integer[], out one_path boolean, out path text[])
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_other text[];
    v_shares boolean;
begin
    shared := '{}';
    select coalesce(array_agg(k.task_id), '{}'), array_agg(k.task_id) filter (where k.plain),
           array_agg(k.limit_id) filter (where k.plain), array_agg(k.path::text) filter (where k.plain),
           array_agg(k.task_id) filter (where k.whole), min(k.first), max(k.last), bool_or(k.shares)
      into limited, plain, plain_limits, plain_paths, whole, path, v_other, v_shares
      from (select c.task_id, min(c.id) as limit_id,
                   count(*) = 1 and min(c.kind) = 'concurrency' and max(c.shared_id) is null as plain,
                   min(c.path) as path, max(cardinality(c.path)) = 0 as whole,
                   min(c.path) filter (where cardinality(c.path) > 0) as first,
                   max(c.path) filter (where cardinality(c.path) > 0) as last,
                   max(c.shared_id) is not null as shares
              from conductor.limits c where c.task_id = any (p_tasks) group by c.task_id) k;
    one_path := path is not distinct from v_other;
    if v_shares then
        shared := array(select distinct -c.shared_id from conductor.limits c
                         where c.task_id = any (limited) and c.shared_id is not null);
    end if;
end
$$;

-- Locks and returns what is due in a queue with one priority, at most p_most, and with it the tasks and the keys of
-- limits. Called by claim_gated, under whose settings it runs; the
-- last arguments are results of limits_of.
-- Locks: live_executions (candidates, if free).
create or replace function conductor.due_gated(
    p_queue integer, p_priority integer, p_tasks integer[], p_start timestamptz, p_now timestamptz, p_most integer,
    p_limited integer[], p_whole integer[], p_one_path boolean, p_path text[], p_plain integer[], p_plain_paths text[])
returns conductor.candidates
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_due conductor.candidates;
begin
    select coalesce(array_agg(d.id), '{}'), array_agg(d.task_id),
           array_agg(case when not d.limited then null when d.task_id = any (p_whole) then ''
                          when d.key is null then 'null' when octet_length(d.key) > 200 then md5(d.key) else d.key end),
           array_agg(d.bytes), sum(d.bytes), count(*), count(*) < p_most, max(d.run_at),
           coalesce(bool_or(d.limited), false), bool_or(d.claim > 0), bool_or(d.ordered)
      into v_due
      from (select l.id, l.run_at, l.task_id, l.claim, l.bytes, l.task_id = any (p_limited) as limited,
                   l.order_key is not null as ordered,
                   case when l.task_id = any (p_limited) and (l.task_id = any (p_whole)) is not true
                        then conductor.lane_key(l.payload, case when p_one_path then p_path
                             else p_plain_paths[array_position(p_plain, l.task_id)]::text[] end) end as key
              from conductor.live_executions l
             where l.queue_id = p_queue and l.priority = p_priority
               and l.run_at >= coalesce(p_start, '-infinity') and l.run_at <= p_now
               and l.state in ('pending', 'suspended') and l.task_id = any (p_tasks)
               -- A pause that committed before an invoke is seen by whoever sees the invoke.
               and not exists (select from conductor.queues q where q.id = p_queue and q.paused)
             order by l.run_at, l.id
             limit p_most
               for no key update skip locked) d;
    return v_due;
end
$$;

-- Adds to these candidates what is parked in these lanes with the same priority, and returns the first p_left of
-- them together. Called by claim_gated, under whose settings it runs.
-- Locks: live_executions (candidates, if free).
create or replace function conductor.due_in_lanes(
    p_queue integer, p_priority integer, p_tasks integer[], p_now timestamptz, p_left integer, p_path text[], p_lanes integer[],
    p_most integer[], p_due conductor.candidates)
returns conductor.candidates
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_due conductor.candidates := p_due;
begin
    v_due.limited := true;
    select coalesce(array_agg(s.id), '{}'), array_agg(s.task_id), array_agg(s.key), bool_or(s.claim > 0),
           bool_or(s.order_key is not null), array_agg(s.bytes), sum(s.bytes)
      into v_due.ids, v_due.of, v_due.keys, v_due.again, v_due.ordered, v_due.sizes, v_due.bytes
      from (select o.id, o.task_id, o.claim, o.order_key, o.bytes, conductor.lane_key(o.payload, p_path) as key
              from (select l.id, l.run_at, l.task_id, l.claim, l.order_key, l.bytes, l.payload
                      from conductor.live_executions l where l.id = any (p_due.ids)
                    union all
                    select k.id, k.run_at, k.task_id, k.claim, k.order_key, k.bytes, k.payload
                      from unnest(p_lanes, p_most) as g(lane, most)
                     cross join lateral (
                           select l.id, l.run_at, l.task_id, l.claim, l.order_key, l.bytes, l.payload
                             from conductor.live_executions l
                            where l.queue_id = -g.lane and l.priority = p_priority and l.run_at <= p_now
                              and l.state in ('pending', 'suspended') and l.task_id = any (p_tasks)
                              and not exists (select from conductor.queues q where q.id = p_queue and q.paused)
                            order by l.run_at, l.id
                            limit least(p_left, g.most)
                              for no key update skip locked) k) o
             order by o.run_at, o.id
             limit p_left) s;
    return v_due;
end
$$;

-- Returns those of these candidates that have an unreadable key of a limit. p_limited and p_whole are results of
-- limits_of. Called by claim_gated.
create or replace function conductor.unreadable_of(
    p_ids uuid[], p_of integer[], p_keys text[], p_limited integer[], p_whole integer[]) returns uuid[]
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select g.id from unnest(p_ids, p_of, p_keys) as g(id, task_id, key)
         where g.key = conductor.unreadable_key() and g.task_id = any (p_limited)
           and (g.task_id = any (p_whole)) is not true);
end
$$;
