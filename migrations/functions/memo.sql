-- Returns how many bytes the records and waits of one execution may have together. A worker refuses records
-- that would exceed it. Outcomes of children and events may exceed it.
create or replace function conductor.most_records() returns bigint
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
    -- Must equal MAX_RECORDS_BYTES in codec.rs.
    select 268435456::bigint
$$;

-- Returns what is known of an execution that was claimed before, as a JSON array of [key, kind, value, fresh,
-- at]: its steps, its sleeps that are over (their value is null), and its other waits, with only key and kind.
-- fresh is true if the value came to a wait since the last suspension, so that no run has had it. at is the
-- time when the value came about, in microseconds since 1970. kind ends with # and the fingerprint of what the
-- call was given, if it has one. If there are too many records, returns
-- {"records": n, "bytes": n} instead: then the attempt fails, and not the claim. Called by claim.
create or replace function conductor.memo(p_id uuid, p_now timestamptz, p_suspended_claim integer) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
begin
    -- One statement, whose parts run one after the other: the records are put together only if they fit.
    return (
        select case when f.bytes > conductor.most_records()
                    then json_build_object('records', f.records, 'bytes', f.bytes)::text
                    else (
            select json_agg(m.entry)::text
              from (select json_build_array(
                               s.key, s.kind || coalesce('#' || s.input, ''), s.value,
                               coalesce(s.claim >= p_suspended_claim, false),
                               (extract(epoch from coalesce(s.ended_at, s.recorded_at)) * 1000000)::bigint) as entry
                      from conductor.steps s where s.execution_id = p_id
                    union all
                    select case when w.child_id is null and w.event_name is null and w.wake_at <= p_now
                                then json_build_array(w.key, w.kind, null, false,
                                                      (extract(epoch from w.wake_at) * 1000000)::bigint)
                                else json_build_array(w.key, w.kind || coalesce('#' || w.input, '')) end
                      from conductor.waits w where w.execution_id = p_id) m) end
          from (select count(o.record) as records, sum(o.bytes) as bytes
                  from (select true as record, s.bytes from conductor.steps s where s.execution_id = p_id
                        union all
                        select null, octet_length(w.key) + 60 from conductor.waits w where w.execution_id = p_id) o) f);
end
$$;
