-- Claims what is due in a queue with tasks that have a window, a limit or an order. Called by finish_and_claim and claim,
-- which describes the arguments and the result.
-- Locks: as meet_windows, live_executions (candidates, if free), as take_turns,
--   as admit, as settle, queues.idle (if free), as close_lanes.
create or replace function conductor.claim_gated(
    p_orchestrator bigint, p_queue integer, p_tasks integer[], p_limit integer, p_paused boolean, p_idle boolean,
    p_windowed integer[] default '{}', p_opens timestamptz[] default '{}', p_closes timestamptz[] default '{}',
    p_lanes integer[] default '{}', p_used integer[] default '{}', p_back integer[] default '{}',
    p_most integer default 1, p_quick integer[] default '{}', p_ahead integer[] default '{}',
    p_roomy integer[] default '{}', p_roomy_limits integer[] default '{}', p_roomy_keys text[] default '{}',
    p_bytes bigint default 64 * 1024 * 1024, p_seen integer[] default null, p_from timestamptz[] default null)
returns setof conductor.claimed
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
-- No plan depends on statistics (tables/001_queue.sql).
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz;
    v_priority integer;
    v_left integer := case when p_paused then 0 else p_limit end;
    -- The candidates.
    v_due conductor.candidates;
    -- The bytes that the result may still have, the number of candidates that fit, and whether some do not.
    v_bytes bigint := p_bytes;
    v_fit integer;
    v_cut boolean;
    v_claimed integer;
    v_next timestamptz;
    v_tasks integer[] := p_tasks;
    v_windows record;
    -- Executions that were moved to the opening of their windows, that were parked in this step, and that were
    -- parked in all steps.
    v_moved integer := 0;
    v_parked integer;
    v_parks integer := 0;
    v_limits record;
    v_open_limited integer[];
    v_turns record;
    v_aside integer;
    -- Whether turns are in use, and the number of candidates whose turn was busy, in the last step and in all
    -- steps.
    v_any_turns boolean := false;
    v_stay integer := 0;
    v_stayed integer := 0;
    -- Executions with an unreadable key of a limit. They are returned without payload, and with the reason as
    -- memo.
    v_unreadable uuid[];
    v_open integer[] := '{}';
    v_open_most integer[];
    v_look integer[] := '{}';
    v_opened record;
    v_admitted record;
    v_lane integer[];
    v_lanes text[];
    v_starts integer[];
    -- What the worker holds in its lanes, including what this claim returns; and its slots there at the end.
    v_held integer[] := p_lanes;
    v_used integer[] := p_used;
    v_told integer[] := '{}';
    v_slots integer[] := '{}';
    v_told_limits integer[] := '{}';
    v_told_keys text[] := '{}';
    v_closed_lanes record;
    v_busy boolean := false;
    -- The run_at from which on this look reads a priority.
    v_start timestamptz;
    v_seen integer[];
    v_from timestamptz[];
    v_row conductor.claimed;
begin
    v_limits := conductor.limits_of(p_tasks);
    v_any_turns := p_seen <> '{}'
        and (select true from conductor.turns t where t.task_id = any (p_tasks) limit 1) is not null;

    loop
        -- As conductor.now(), without the call.
        v_now := (select clock_timestamp() + c.shift from conductor.clock c where c.only_row);
        v_next := null;
        v_open_limited := v_limits.limited;
        if cardinality(p_windowed) > 0 then
            v_windows := conductor.meet_windows(
                p_orchestrator => p_orchestrator, p_queue => p_queue, p_tasks => p_tasks, p_limited => v_limits.limited,
                p_windowed => p_windowed, p_opens => p_opens, p_closes => p_closes, p_now => v_now);
            v_tasks := v_windows.tasks;
            v_open_limited := v_windows.limited;
            v_moved := coalesce(v_windows.moved, v_moved);
        end if;
        if cardinality(v_open_limited) > 0 then
            v_opened := conductor.open_lanes(
                p_orchestrator => p_orchestrator, p_tasks => v_open_limited || v_limits.shared, p_lanes => v_held,
                p_used => v_used, p_now => v_now, p_most => p_most, p_quick => p_quick, p_ahead => p_ahead);
            v_open := v_opened.lanes;
            v_open_most := v_opened.most;
            v_look := v_look || v_opened.look;
        end if;
        v_seen := '{}';
        v_from := '{}';
        v_priority := conductor.next_priority(p_queue, null, p_seen);
        if cardinality(v_open) > 0 then
            v_priority := greatest(v_priority, conductor.lane_priority(v_open, null));
        end if;
        v_parked := 0;
        while v_priority is not null and v_left > 0 loop
            -- An execution that was brought back for its turn may be due before the place where the last look
            -- ended.
            v_start := case when not v_any_turns then p_from[array_position(p_seen, v_priority)] end;
            -- Behind many parked executions, small steps would take long: each step reads twice as many.
            v_due := conductor.due_gated(
                p_queue => p_queue, p_priority => v_priority, p_tasks => v_tasks, p_start => v_start, p_now => v_now,
                p_most => v_left + 2 * (v_parked + v_stayed), p_limited => v_limits.limited, p_whole => v_limits.whole,
                p_one_path => v_limits.one_path, p_path => v_limits.path, p_plain => v_limits.plain,
                p_plain_paths => v_limits.plain_paths);
            -- Once only: executions that are parked there and stay would be read again and again.
            if cardinality(v_open) > 0 and v_parked = 0 and v_stay = 0 then
                v_due := conductor.due_in_lanes(
                    p_queue => p_queue, p_priority => v_priority, p_tasks => v_tasks, p_now => v_now, p_left => v_left,
                    p_path => v_limits.path, p_lanes => v_open, p_most => v_open_most, p_due => v_due);
            end if;
            v_cut := false;
            if v_due.again or v_due.bytes > v_bytes then
                select w.fit, w.bytes into v_fit, v_due.bytes
                  from conductor.within_bytes(v_due.ids, v_due.sizes, v_due.again, v_bytes, v_left = p_limit) w;
                v_cut := v_fit < cardinality(v_due.ids);
                exit when v_cut and v_fit = 0;
                v_due.ids := v_due.ids[1:v_fit];
                v_due.of := v_due.of[1:v_fit];
                v_due.keys := v_due.keys[1:v_fit];
            end if;
            v_aside := 0;
            v_stay := 0;
            if v_due.ordered then
                v_turns := conductor.take_turns(v_due.ids, v_due.of, v_due.keys, v_stayed > 200);
                v_due.ids := v_turns.ids;
                v_due.of := v_turns.of;
                v_due.keys := v_turns.keys;
                v_aside := v_turns.moved;
                v_stay := v_turns.busy;
                v_stayed := v_stayed + v_stay;
            end if;
            v_unreadable := null;
            if v_due.limited and conductor.unreadable_key() = any (v_due.keys) then
                v_unreadable := conductor.unreadable_of(
                    v_due.ids, v_due.of, v_due.keys, v_limits.limited, v_limits.whole);
            end if;
            v_lane := null;
            if v_due.limited and cardinality(p_roomy) > 0 and v_open = '{}' and cardinality(v_due.ids) <= v_left then
                v_lane := conductor.roomy_lanes(
                    p_of => v_due.of, p_keys => v_due.keys, p_plain => v_limits.plain, p_limits => v_limits.plain_limits,
                    p_lanes => p_roomy, p_lane_limits => p_roomy_limits, p_lane_keys => p_roomy_keys);
            end if;
            v_parked := 0;
            if v_lane is not null then
                v_lanes := null;
                v_starts := null;
                -- Only if a later step reads it.
                if v_left > cardinality(v_due.ids) or cardinality(p_back) > 0 or cardinality(v_look) > 0 then
                    select coalesce(array_agg(k.lane), '{}'), coalesce(array_agg(k.used), '{}') into v_held, v_used
                      from (select g.lane, sum(g.used)::integer as used
                              from (select unnest(v_held) as lane, unnest(v_used) as used
                                    union all
                                    select unnest(v_lane), 1) g
                             where g.lane is not null
                             group by g.lane) k;
                end if;
            elsif v_due.limited then
                v_admitted := conductor.admit(
                    p_orchestrator => p_orchestrator, p_ids => v_due.ids, p_of => v_due.of,
                    p_keys => case when v_limits.one_path then coalesce(v_due.keys, '{}') end, p_left => v_left,
                    p_now => v_now, p_most => p_most, p_lanes => v_held, p_used => v_used, p_tasks => p_quick,
                    p_ahead => p_ahead);
                v_due.ids := v_admitted.ids;
                v_lane := v_admitted.one_lane;
                v_lanes := v_admitted.lanes;
                v_starts := v_admitted.starts;
                v_held := v_admitted.held;
                v_used := v_admitted.used;
                v_told := v_told || v_admitted.grown;
                v_slots := v_slots || v_admitted.slots;
                v_told_limits := v_told_limits || v_admitted.grown_limits;
                v_told_keys := v_told_keys || v_admitted.grown_keys;
                v_look := v_look || v_admitted.full_lanes;
                v_busy := v_busy or v_admitted.busy;
                v_parked := v_admitted.moved;
            else
                v_due.ids := v_due.ids[1:v_left];
                v_lane := null;
                v_lanes := null;
                v_starts := null;
            end if;
            v_claimed := 0;
            if cardinality(v_due.ids) > 0 then
                return query select * from conductor.take(
                    p_orchestrator => p_orchestrator, p_ids => v_due.ids, p_again => v_due.again, p_now => v_now,
                    p_lane => v_lane, p_lanes => v_lanes, p_starts => v_starts, p_unreadable => v_unreadable);
                get diagnostics v_claimed = row_count;
            end if;
            v_left := v_left - v_claimed;
            v_parked := v_parked + v_aside;
            if v_claimed > 0 then
                v_bytes := v_bytes - coalesce(v_due.bytes, 0);
            end if;
            v_parks := v_parks + v_parked;
            -- A deep backlog is parked in pieces. The next claim follows at once.
            exit when v_parks >= 250;
            -- Candidates that stay lie before others, so the range is read again.
            continue when v_parked > 0 or v_stay > 0 and not v_due.is_all and v_stayed < 1000;
            exit when v_cut;

            -- The place moves only if everything was claimed: executions that stay for a limit or a window are
            -- read again.
            if p_seen is not null then
                if v_claimed = v_due.count and v_open = '{}' and cardinality(p_windowed) = 0 then
                    v_start := conductor.next_place(v_start, v_now, v_due.is_all, v_due.last);
                end if;
                v_seen := v_seen || v_priority;
                v_from := v_from || v_start;
            end if;
            if p_idle and v_left = p_limit then
                v_next := least(v_next, conductor.next_due(p_queue, v_priority, v_now));
            end if;
            exit when v_left = 0;
            v_priority := greatest(
                conductor.next_priority(p_queue, v_priority, p_seen),
                case when cardinality(v_open) > 0 then conductor.lane_priority(v_open, v_priority) end);
            v_stay := 0;
        end loop;

        -- A deep backlog behind closed windows is moved in pieces, too.
        if v_moved >= 1000 or v_parks >= 250 then
            v_next := v_now;
            exit;
        end if;
        -- Nothing is due: set the flag and look once more, because an invoke may have missed the flag.
        exit when not p_idle or v_left < p_limit or not conductor.go_idle(p_queue);
    end loop;

    if cardinality(p_back) > 0 or cardinality(v_look) > 0 then
        v_closed_lanes := conductor.close_lanes(p_orchestrator, p_queue, v_held, v_used, p_back, v_look);
        v_told := v_told || v_closed_lanes.lanes;
        v_slots := v_slots || v_closed_lanes.slots;
    end if;
    if v_left = p_limit and cardinality(v_limits.limited) > 0 then
        v_next := least(v_next, conductor.lanes_due(v_open_limited, v_limits.shared, v_now, v_busy));
    end if;
    if v_stayed > 0 and v_left = p_limit then
        v_next := least(v_next, v_now + interval '50 ms');
    end if;
    v_row := conductor.closing_row(
        p_seen => p_seen, p_from => p_from, p_new_seen => v_seen, p_new_from => v_from, p_more => v_priority is not null,
        p_due => v_next - v_now, p_lanes => v_told, p_slots => v_slots, p_limits => v_told_limits, p_keys => v_told_keys);
    if v_row.seen is not null or p_idle and v_left = p_limit or cardinality(v_told) > 0 or cardinality(p_back) > 0 then
        return next v_row;
    end if;
end
$$;
