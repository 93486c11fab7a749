-- Writes the outcomes of attempts that failed. An execution is due again after p_delay_ms (null: the backoff of
-- its task), or fails if p_permanent is set or no attempt is left. A cancelled one ends as cancelled. Called by
-- finish_and_claim. Returns the number of outcomes that matched a claim.
--
-- Arguments: p_failures has codes and details of errors as JSON. p_forgotten_of and p_forgotten have the keys
-- of recorded errors with which attempts ended; these records are removed, so that the next attempt runs the
-- steps again.
-- Locks: live_executions (waits), failures (inserts), steps (as forget_errors), as conclude.
create or replace function conductor.fail(
    p_ids uuid[], p_claims integer[], p_errors text[], p_permanent boolean[], p_delay_ms bigint[],
    p_orchestrators bigint[] default null, p_failures text[] default null,
    p_forgotten_of uuid[] default null, p_forgotten text[] default null) returns integer
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
begin
    -- The backoff doubles with each failure. It is computed in seconds, because an interval would overflow.
    with failed as (
        update conductor.live_executions l
           set state = 'pending', orchestrator_id = null, failures = l.failures + 1, error = o.error,
               met = null, astray = null, astray_key = null,
               queue_id = (select t.queue_id from conductor.tasks t where t.id = l.task_id),
               run_at = v_now + coalesce(
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
