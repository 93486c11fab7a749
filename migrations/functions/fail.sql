-- Returns those of these executions in which a failure was counted after all these errors had been recorded. A
-- crash counts separately. Called by fail, which writes the end of their attempts.
create or replace function conductor.counted_before(p_ids uuid[], p_of uuid[], p_keys text[]) returns uuid[]
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
begin
    return array(
        select r.id
          from (select i.id, max(k.recorded_at) as recorded_at
                  from unnest(p_ids) as i(id)
                  join unnest(p_of, p_keys) as g(execution_id, key) on g.execution_id = i.id
                 cross join lateral (
                       select s.recorded_at from conductor.steps s
                        where s.execution_id = g.execution_id and s.key = g.key limit 1) k
                 group by i.id) r
         cross join lateral (
               select from conductor.failures f
                where f.execution_id = r.id and f.failed_at >= r.recorded_at
                  -- Counted while the server's clock was ahead: it says nothing.
                  and f.failed_at <= conductor.now() and f.error <> conductor.crash_text()
                limit 1) f);
end
$$;

-- Writes the outcomes of attempts that failed. An execution is due again after p_delay_ms (null: the backoff of
-- its task), or fails if p_permanent is set or no attempt is left. A cancelled one ends as cancelled. Called by
-- finish_and_claim. Returns the number of outcomes that matched a claim.
--
-- Arguments: p_failures has codes and details of errors as JSON. p_forgotten_of and p_forgotten have the keys
-- of recorded errors with which attempts ended; these records are removed, so that the next attempt runs the
-- steps again. p_replayed is true for an attempt in which no step failed and which ended with errors that an
-- earlier attempt had recorded: if a failure was counted since (counted_before), the execution is due again at
-- once, and nothing is counted.
-- Locks: live_executions (waits), failures (inserts), steps (as forget_errors), as conclude.
create or replace function conductor.fail(
    p_ids uuid[], p_claims integer[], p_errors text[], p_permanent boolean[], p_delay_ms bigint[],
    p_orchestrators bigint[] default null, p_failures text[] default null,
    p_forgotten_of uuid[] default null, p_forgotten text[] default null, p_replayed boolean[] default null)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_count integer;
    v_final uuid[];
    v_failures text[];
    v_again uuid[];
    v_cancelled uuid[];
    v_free uuid[];
begin
    if true = any (p_replayed) then
        v_free := conductor.counted_before(
            array(select o.id from unnest(p_ids, p_replayed) as o(id, replayed) where o.replayed),
            p_forgotten_of, p_forgotten);
    end if;
    -- The backoff doubles with each failure. It is computed in seconds, because an interval would overflow.
    with failed as (
        update conductor.live_executions l
           set state = 'pending', orchestrator_id = null, failures = l.failures + case when l.id = any (v_free) then 0 else 1 end,
               error = case when l.id = any (v_free) then l.error else o.error end,
               met = null, astray = null, astray_key = null,
               queue_id = (select t.queue_id from conductor.tasks t where t.id = l.task_id),
               run_at = v_now + coalesce(
                   case when l.id = any (v_free) then interval '0' end,
                   o.delay_ms * interval '1 ms',
                   (select least(extract(epoch from t.backoff_initial)::float8 * power(2, least(l.failures, 60)),
                                 extract(epoch from t.backoff_max)::float8)
                               * (1 + t.jitter * (2 * random() - 1)) * interval '1 s'
                      from conductor.tasks t where t.id = l.task_id))
          from unnest(p_ids, p_claims, p_errors, p_permanent, p_delay_ms, p_orchestrators, p_failures)
               as o(id, claim, error, permanent, delay_ms, orchestrator, failure)
         where l.id = any (p_ids) and l.id = o.id and l.claim = o.claim and l.state = 'running'
           and (o.orchestrator is null or o.orchestrator = l.orchestrator_id)
        returning l.id, l.failures, l.crashes, l.error, l.cancelled, o.failure,
                  o.permanent or l.failures >= (select t.max_attempts from conductor.tasks t
                                                 where t.id = l.task_id) as final
    ), noted as (
        insert into conductor.failures (execution_id, attempt, failed_at, error)
        select f.id, f.failures + f.crashes, v_now, f.error from failed f
            on conflict do nothing
    )
    select count(*), array_agg(f.id) filter (where f.cancelled),
           array_agg(f.id) filter (where f.final and not f.cancelled),
           array_agg(f.failure) filter (where f.final and not f.cancelled),
           array_agg(f.id) filter (where not f.final and not f.cancelled)
      into v_count, v_cancelled, v_final, v_failures, v_again
      from failed f;
    if cardinality(p_forgotten_of) > 0 and v_again is not null then
        perform conductor.forget_errors(v_again, p_forgotten_of, p_forgotten);
    end if;
    if v_cancelled is not null then
        perform conductor.conclude(v_cancelled, 'cancelled', null);
    end if;
    if v_final is not null then
        perform conductor.conclude(v_final, 'failed', null, v_failures);
    end if;
    return v_count;
end
$$;
