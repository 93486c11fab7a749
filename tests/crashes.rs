//! Five crashes end an execution that does not get on, and no other.

use conductor::Status;
use conductor::testing::TestConductor;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::support::{declare, give_back, info, run_sql};

/// One execution of a task that no binary has, claimed by an orchestrator of the test's own.
struct Claimant<'t> {
    test: &'t TestConductor,
    task: &'static str,
    id: Uuid,
}

impl<'t> Claimant<'t> {
    async fn new(test: &'t TestConductor, task: &'static str) -> anyhow::Result<Self> {
        declare(test, task).await?;
        let start = format!(
            "select conductor.start_orchestrator('h', 1, array[t.queue_id], array[t.id], '1 hour')
               from conductor.tasks t where t.name = '{task}'"
        );
        run_sql(test, &start).await?;
        let id = sqlx::query_scalar("select conductor.invoke($1)")
            .bind(task)
            .fetch_one(test.pool())
            .await?;
        Ok(Self { test, task, id })
    }

    async fn claim(&self) -> anyhow::Result<i32> {
        let due = "update conductor.live_executions set run_at = now() - interval '1 s'";
        run_sql(self.test, due).await?;
        let claim = format!(
            "select c.claim from conductor.tasks t,
                    conductor.claim((select max(id) from conductor.orchestrators), t.queue_id, array[t.id], 1, false) c
              where t.name = '{}'",
            self.task
        );
        Ok(sqlx::query_scalar(AssertSqlSafe(claim))
            .fetch_one(self.test.pool())
            .await?)
    }

    async fn record(&self, claim: i32, key: &str) -> anyhow::Result<()> {
        sqlx::query("select conductor.record_steps(array[$1], array[$2], array[$3], array['step'], array['1'])")
            .bind(self.id)
            .bind(claim)
            .bind(key)
            .execute(self.test.pool())
            .await?;
        Ok(())
    }

    async fn sleep(&self, claim: i32, key: &str) -> anyhow::Result<()> {
        sqlx::query(
            "select conductor.suspend(array[$1], array[$2], array[$1], array[$3], array['sleep'], array[$3],
                array[1::bigint], array[null::timestamptz], array[null::uuid], array[null::text], array[null::text],
                array[false], array[null::text], array[null::text])",
        )
        .bind(self.id)
        .bind(claim)
        .bind(key)
        .execute(self.test.pool())
        .await?;
        Ok(())
    }

    async fn crash(&self) -> anyhow::Result<()> {
        give_back(self.test, self.id).await
    }

    async fn state(&self) -> anyhow::Result<(Status, i32)> {
        let info = info(self.test, self.id).await?;
        Ok((info.state, info.crashes))
    }
}

#[conductor::test]
async fn one_that_records_a_step_between_crashes_goes_on(
    test: TestConductor,
) -> anyhow::Result<()> {
    let one = Claimant::new(&test, "crashes.steps").await?;
    for n in 0..12 {
        let claim = one.claim().await?;
        one.record(claim, &format!("step {n}")).await?;
        one.crash().await?;
    }
    assert_eq!(one.state().await?, (Status::Pending, 12));
    // From now on it records nothing new; the last one of those counts.
    for _ in 0..4 {
        assert_eq!(one.state().await?.0, Status::Pending);
        let claim = one.claim().await?;
        one.record(claim, "step 3").await?;
        one.crash().await?;
    }
    assert_eq!(one.state().await?, (Status::Failed, 16));
    Ok(())
}

/// A child that ends, or an event that comes, is no work of the handler's that died.
#[conductor::test]
async fn what_others_record_between_crashes_does_not_count(
    test: TestConductor,
) -> anyhow::Result<()> {
    let one = Claimant::new(&test, "crashes.others").await?;
    for (n, kind) in ["invoke", "event", "row", "invoke", "event"]
        .iter()
        .enumerate()
    {
        assert_eq!(one.state().await?.0, Status::Pending, "after {n}");
        one.claim().await?;
        let record = format!(
            "insert into conductor.steps (execution_id, key, kind, value, recorded_at)
             values ('{}', '{kind} {n}', '{kind}', '{{}}', clock_timestamp())",
            one.id
        );
        run_sql(&test, &record).await?;
        one.crash().await?;
    }
    assert_eq!(one.state().await?, (Status::Failed, 5));
    Ok(())
}

#[conductor::test]
async fn one_that_suspends_between_crashes_goes_on(test: TestConductor) -> anyhow::Result<()> {
    let one = Claimant::new(&test, "crashes.sleeps").await?;
    for n in 0..8 {
        one.claim().await?;
        one.crash().await?;
        let claim = one.claim().await?;
        one.sleep(claim, &format!("sleep {n}")).await?;
    }
    assert_eq!(one.state().await?, (Status::Suspended, 8));
    for n in 0..5 {
        assert_ne!(one.state().await?.0, Status::Failed, "after {n}");
        one.claim().await?;
        one.crash().await?;
    }
    assert_eq!(one.state().await?, (Status::Failed, 13));
    Ok(())
}

/// Such as one that makes its keys of random numbers.
#[conductor::test]
async fn one_that_records_something_new_each_time_ends_too(
    test: TestConductor,
) -> anyhow::Result<()> {
    let one = Claimant::new(&test, "crashes.random").await?;
    for n in 0..100 {
        assert_eq!(one.state().await?, (Status::Pending, n));
        let claim = one.claim().await?;
        one.record(claim, &format!("step {n}")).await?;
        one.crash().await?;
    }
    assert_eq!(one.state().await?, (Status::Failed, 100));
    let error = info(&test, one.id).await?.error.unwrap_or_default();
    assert!(error.contains("100 crashes in all"), "{error}");
    Ok(())
}
