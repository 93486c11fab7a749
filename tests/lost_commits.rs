//! A claim whose commit was lost with its server: the standby that took over, or the server after its crash, gives
//! the number of that claim once more, to somebody else. Who had it before changes nothing.

use std::sync::Arc;
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Handle, Status};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::support::{Gate, eventually, info, number, run_sql, start_with};

#[task(name = "lost.gated", retry(max_attempts = 1))]
async fn lost_gated(ctx: &TaskContext, how: String) -> anyhow::Result<String> {
    ctx.state::<Arc<Gate>>().pass().await;
    match how.as_str() {
        "complete" => {}
        "fail" => anyhow::bail!("late"),
        "step" => ctx
            .step("late", || async { anyhow::Ok(1) })
            .await
            .map(drop)?,
        "sleep" => ctx.sleep("late", Duration::from_secs(3600)).await?,
        "transaction" => {
            let body = async |tx: &mut conductor::Tx| {
                sqlx::query("insert into late values (1)")
                    .execute(tx)
                    .await
                    .map(drop)
            };
            ctx.transaction("late", body).await?;
        }
        other => anyhow::bail!("how is {other}?"),
    }
    Ok("late".to_owned())
}

/// A worker made of SQL, and one execution.
struct Claimant<'t> {
    test: &'t TestConductor,
    orchestrator: i64,
    id: Uuid,
}

impl<'t> Claimant<'t> {
    async fn new(test: &'t TestConductor, id: Uuid) -> anyhow::Result<Self> {
        let orchestrator = sqlx::query_scalar(
            "select conductor.start_orchestrator('h', 1, array[t.queue_id], array[t.id], '1 hour')
               from conductor.tasks t where t.name = 'lost.gated'",
        )
        .fetch_one(test.pool())
        .await?;
        Ok(Self {
            test,
            orchestrator,
            id,
        })
    }

    /// Its first claim; before it, the row is what a server has that lacks the claim of somebody else.
    async fn claim(&self) -> anyhow::Result<()> {
        let mut tx = self.test.pool().begin().await?;
        sqlx::query(
            "update conductor.live_executions
                set state = 'pending', claim = 0, orchestrator_id = null, claimed_at = null where id = $1",
        )
        .bind(self.id)
        .execute(&mut *tx)
        .await?;
        let claim: i32 = sqlx::query_scalar(
            "select c.claim from conductor.tasks t, conductor.claim($1, t.queue_id, array[t.id], 1, false) c
              where t.name = 'lost.gated' and c.id is not null",
        )
        .bind(self.orchestrator)
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        assert_eq!(claim, 1);
        Ok(())
    }

    /// Whether this writes under its claim: one of `WRITES`.
    async fn writes(&self, sql: &str) -> Result<bool, sqlx::Error> {
        let sql = sql
            .replace("{id}", &format!("'{}'::uuid", self.id))
            .replace("{me}", &self.orchestrator.to_string());
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(self.test.pool())
            .await
    }

    /// That the execution is as its claim has left it.
    async fn is_untouched(&self) -> anyhow::Result<()> {
        let info = info(self.test, self.id).await?;
        assert_eq!(
            (info.state, info.claim, info.failures),
            (Status::Running, 1, 0)
        );
        let held = format!(
            "select count(*) from conductor.live_executions l
              where l.id = '{}' and l.orchestrator_id = {} and not exists (select from conductor.steps)
                and not exists (select from conductor.waits)",
            self.id, self.orchestrator
        );
        assert_eq!(number(self.test, &held).await, 1);
        Ok(())
    }
}

/// Everything that writes under a claim; true where it held.
const WRITES: [(&str, &str); 8] = [
    ("complete", "select conductor.complete(array[{id}], array[1], array['1'], array[{me}]) = 1"),
    (
        "fail",
        "select conductor.fail(array[{id}], array[1], array['late'], array[true], array[0::bigint], array[{me}]) = 1",
    ),
    ("release", "select conductor.release(array[{id}], array[1], array[{me}]) = 1"),
    (
        "postpone",
        "select conductor.postpone(array[{id}], array[1], array[now() + interval '1 hour'], array[{me}]) = 1",
    ),
    (
        "leave_unreadable",
        "select conductor.leave_unreadable({me}, array[{id}], array[1], array['why'], array[{me}]) = 1",
    ),
    (
        "record_steps",
        "select (conductor.record_steps(array[{id}], array[1], array['late'], array['step'], array['1'],
                 p_orchestrators => array[{me}]))[1]",
    ),
    (
        "suspend",
        "select conductor.suspend(array[{id}], array[1], array[{id}], array['late'], array['sleep'], array['late'],
                 array[3600000::bigint], array[null::timestamptz], array[null::uuid], array[null::text],
                 array[null::text], array[false], array[null::text], array[null::text],
                 p_orchestrators => array[{me}]) = 1",
    ),
    (
        "wait_beside",
        "select (conductor.wait_beside(array[{id}], array[1], array[{id}], array['late'], array['sleep'], array['late'],
                 array[3600000::bigint], array[null::timestamptz], array[null::uuid], array[null::text],
                 array[null::text], array[false], array[null::text], array[null::text],
                 p_orchestrators => array[{me}]))[1]",
    ),
];

#[conductor::test]
async fn a_lost_claim_writes_nothing_though_its_number_is_given_again(
    test: TestConductor,
) -> anyhow::Result<()> {
    for (name, sql) in WRITES {
        let run = test
            .invoke::<LostGated>(LostGated {
                how: "complete".to_owned(),
            })
            .await?;
        let first = Claimant::new(&test, run.id()).await?;
        let second = Claimant::new(&test, run.id()).await?;
        first.claim().await?;
        second.claim().await?;
        assert!(!first.writes(sql).await?, "{name}");
        second.is_untouched().await?;
        assert!(second.writes(sql).await?, "{name}");
        run_sql(&test, "delete from conductor.live_executions; delete from conductor.steps; delete from conductor.waits").await?;
    }
    Ok(())
}

/// The outcomes of a round trip, which are completions and failures.
#[conductor::test]
async fn a_round_trip_of_a_lost_claim_ends_nothing(test: TestConductor) -> anyhow::Result<()> {
    let [completes, fails] = [
        ("array[{id}], array[1], array['1'], '{}', '{}', '{}', '{}', '{}'", "p_orchestrators"),
        (
            "'{}', '{}', '{}', array[{id}], array[1], array['late'], array[true], array[0::bigint]",
            "p_failed_orchestrators",
        ),
    ]
    .map(|(outcomes, whose)| {
        format!(
            "select count(*) = 0 from conductor.finish_and_claim({outcomes}, '{{}}', {{me}}, 1, '{{}}', '{{}}', '{{}}',
                 '{{}}', 0, false, '{{}}', '{{}}', '{{}}', 1, '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', 0,
                 {whose} => array[{{me}}])"
        )
    });
    for (sql, end) in [(completes, Status::Completed), (fails, Status::Failed)] {
        let run = test
            .invoke::<LostGated>(LostGated {
                how: "complete".to_owned(),
            })
            .await?;
        let first = Claimant::new(&test, run.id()).await?;
        let second = Claimant::new(&test, run.id()).await?;
        first.claim().await?;
        second.claim().await?;
        assert!(first.writes(&sql).await?);
        second.is_untouched().await?;
        assert!(second.writes(&sql).await?);
        assert_eq!(info(&test, run.id()).await?.state, end);
    }
    Ok(())
}

#[conductor::test]
async fn a_transaction_of_a_lost_claim_does_not_commit(test: TestConductor) -> anyhow::Result<()> {
    let record = "select conductor.record_in_transaction({id}, 1, 'late', 'transaction', '1', {me})::text = ''";
    let recorded = "select conductor.recorded({id}, 'late', 1, {me})";
    let lost = "select conductor.recorded({id}, 'late', 1, {me}) is null";
    let run = test
        .invoke::<LostGated>(LostGated {
            how: "complete".to_owned(),
        })
        .await?;
    let first = Claimant::new(&test, run.id()).await?;
    let second = Claimant::new(&test, run.id()).await?;
    first.claim().await?;
    assert!(!first.writes(recorded).await?);
    second.claim().await?;
    let refused = first.writes(record).await.unwrap_err();
    let code = refused.as_database_error().and_then(|error| error.code());
    assert_eq!(code.as_deref(), Some("CD004"), "{refused}");
    second.is_untouched().await?;
    assert!(second.writes(record).await?);
    assert!(second.writes(recorded).await?);
    // The record is not that of the first one, whose commit may be in doubt.
    assert!(first.writes(lost).await?);
    Ok(())
}

/// What a worker does not know it gives back, and a claim of its old identity is not one of the new one's.
#[conductor::test]
async fn a_worker_does_not_take_a_claim_for_that_of_its_old_identity(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test
        .invoke::<LostGated>(LostGated {
            how: "complete".to_owned(),
        })
        .await?;
    let claimant = Claimant::new(&test, run.id()).await?;
    claimant.claim().await?;
    for (known, given_back) in [(claimant.orchestrator, 0), (claimant.orchestrator - 1, 1)] {
        let count: i32 = sqlx::query_scalar(
            "select conductor.disown($1, t.queue_id, array[$2], array[1], '{}', 1, array[$3])
               from conductor.tasks t where t.name = 'lost.gated'",
        )
        .bind(claimant.orchestrator)
        .bind(run.id())
        .bind(known)
        .fetch_one(test.pool())
        .await?;
        assert_eq!(count, given_back);
    }
    Ok(())
}

/// A real worker runs the execution; meanwhile its claim is lost, and given to somebody else.
async fn late(test: &TestConductor, how: &str) -> anyhow::Result<()> {
    let gate = Gate::new();
    // One slot: it cannot take the execution again itself.
    let worker: Handle = start_with(test, 1, gate.clone()).await?;
    let run = test
        .invoke::<LostGated>(LostGated {
            how: how.to_owned(),
        })
        .await?;
    gate.entered(1).await;
    let next = Claimant::new(test, run.id()).await?;
    next.claim().await?;
    gate.open(1);
    // It brings its outcome before it has stopped.
    worker.stop().await?;
    next.is_untouched().await?;
    assert!(next.writes(WRITES[0].1).await?, "{how}");
    Ok(())
}

#[conductor::test]
async fn a_worker_whose_claim_was_lost_ends_nothing(test: TestConductor) -> anyhow::Result<()> {
    late(&test, "complete").await?;
    late(&test, "fail").await
}

#[conductor::test]
async fn a_worker_whose_claim_was_lost_records_nothing(test: TestConductor) -> anyhow::Result<()> {
    late(&test, "step").await?;
    late(&test, "sleep").await
}

#[conductor::test]
async fn a_worker_whose_claim_was_lost_commits_nothing(test: TestConductor) -> anyhow::Result<()> {
    run_sql(&test, "create table late (n integer)").await?;
    late(&test, "transaction").await?;
    assert_eq!(number(&test, "select count(*) from late").await, 0);
    Ok(())
}

/// A server that has lost the latest of its rows, and of its sequences, takes none of its orchestrators for another.
#[conductor::test]
async fn the_id_of_an_orchestrator_is_not_given_again(test: TestConductor) -> anyhow::Result<()> {
    let run = test
        .invoke::<LostGated>(LostGated {
            how: "complete".to_owned(),
        })
        .await?;
    let first = Claimant::new(&test, run.id()).await?.orchestrator;
    // Its id is made of milliseconds.
    eventually("another moment", || async {
        number(
            &test,
            "select (extract(epoch from clock_timestamp()) * 1000)::bigint",
        )
        .await
            > first >> 10
    })
    .await;
    run_sql(
        &test,
        "delete from conductor.orchestrators;
         alter table conductor.orchestrators alter number restart",
    )
    .await?;
    let second = Claimant::new(&test, run.id()).await?.orchestrator;
    assert!(second > first && second < 1 << 53, "{first} {second}");
    Ok(())
}
