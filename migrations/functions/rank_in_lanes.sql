-- Decides by the place of each execution in its lanes which may start, at most p_left. p_numbers and p_lanes have the
-- number of an execution and its lane, for each limit of each execution. The other arrays have one element for each
-- lane: its id, how many may start, and of a rate its next start, the distance of starts and how much earlier they may
-- come. p_busy are the lanes that another session has locked.
--
-- Returns ids, lanes, starts, busy and full_lanes as admit, in parked the executions to be parked and in full_of the
-- lane of each, and for each lane how many start there (taken) and the place of the last of them (last). Called by
-- admit, under whose settings it runs.
create or replace function conductor.rank_in_lanes(
    p_ids uuid[], p_left integer, p_now timestamptz, p_numbers bigint[], p_lanes integer[], p_lane_ids integer[],
    p_rooms integer[], p_kinds text[], p_bases timestamptz[], p_steps interval[], p_leads interval[], p_busy integer[],
    out ids uuid[], out lanes text[], out starts integer[], out busy boolean, out full_lanes integer[], out parked uuid[],
    out full_of integer[], out taken integer[], out last bigint[])
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_fits boolean[];
begin
    with place as (
        select g.n, g.lane, case when b.lane is null then k.room end as room, k.kind, k.base, k.step, k.lead,
               row_number() over (partition by g.lane order by g.n) as place
          from unnest(p_numbers, p_lanes) as g(n, lane)
          left join unnest(p_lane_ids, p_rooms, p_kinds, p_bases, p_steps, p_leads)
                 as k(lane, room, kind, base, step, lead)
            on k.lane = g.lane
          left join unnest(p_busy) as b(lane) on b.lane = g.lane
    ), verdict as (
        select p.n, bool_or(p.room is null) as busy, bool_and(p.room is not null and p.place <= p.room) as fits,
               min(p.lane) filter (where p.place > p.room) as lane,
               array_agg(p.lane) filter (where p.kind = 'concurrency') as lanes,
               max(case when p.kind = 'rate' then greatest(p_now, p.base + (p.place - 1) * p.step - p.lead) end)
                   as start_at
          from place p
         group by p.n
    ), ranked as (
        select i.id, i.n, v.busy, v.lane, v.lanes, v.start_at, v.n is null or v.fits as fits,
               row_number() over (partition by v.n is null or v.fits order by i.n) as rank
          from unnest(p_ids) with ordinality as i(id, n)
          left join verdict v on v.n = i.n
    )
    select array_agg(r.id) filter (where r.goes), array_agg(r.lanes::text) filter (where r.goes),
           array_agg(ceil(extract(epoch from r.start_at - p_now) * 1000)::integer) filter (where r.goes),
           array_agg(r.goes),
           array_agg(r.id) filter (where r.lane is not null and not r.busy),
           array_agg(r.lane) filter (where r.lane is not null and not r.busy),
           coalesce(bool_or(r.busy), false)
      into ids, lanes, starts, v_fits, parked, full_of, busy
      from (select o.id, o.busy, o.lane, o.lanes, o.start_at, o.fits and o.rank <= p_left as goes
              from ranked o order by o.n) r;
    ids := coalesce(ids, '{}');
    full_lanes := array(select distinct lane from unnest(full_of) as lane);
    select array_agg(coalesce(o.count, 0) order by k.n), array_agg(o.last order by k.n)
      into taken, last
      from unnest(p_lane_ids) with ordinality as k(lane, n)
      left join (select p.lane, count(*) filter (where v_fits[p.n]) as count,
                        max(p.place) filter (where v_fits[p.n]) as last
                   from (select g.lane, g.n, row_number() over (partition by g.lane order by g.n) as place
                           from unnest(p_numbers, p_lanes) as g(n, lane)) p
                  group by p.lane) o on o.lane = k.lane;
end
$$;
