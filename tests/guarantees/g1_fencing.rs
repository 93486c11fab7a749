//! G1: a worker that lost its claim changes nothing.

use std::sync::Arc;

use anyhow::anyhow;
use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use sqlx::Row;
use uuid::Uuid;

use crate::support::{Gate, eventually, give_back, info, soon, start_with};

/// What one orchestrator's handlers do.
struct Side {
    gate: Arc<Gate>,
    answer: Result<&'static str, &'static str>,
}

#[task(name = "g1-gated", retry(max_attempts = 1))]
async fn g1_gated(ctx: &TaskContext) -> anyhow::Result<String> {
    let side = ctx.state::<Side>();
    side.gate.pass().await;
    side.answer
        .map(|text| format!("{text} {}", ctx.attempt()))
        .map_err(|text| anyhow!(text))
}

async fn everything_of(test: &TestConductor, id: Uuid) -> anyhow::Result<(String, Vec<String>)> {
    let execution = sqlx::query_scalar(
        "select to_json(f)::text from conductor.finished_executions f where id = $1",
    )
    .bind(id)
    .fetch_one(test.pool())
    .await?;
    let failures = sqlx::query_scalar(
        "select to_json(f)::text from conductor.failures f where execution_id = $1 order by attempt",
    )
    .bind(id)
    .fetch_all(test.pool())
    .await?;
    Ok((execution, failures))
}

async fn late_outcome(
    test: TestConductor,
    answer: Result<&'static str, &'static str>,
) -> anyhow::Result<()> {
    let (gate, other) = (Gate::new(), Gate::new());
    let slow = Side {
        gate: gate.clone(),
        answer,
    };
    let quick = Side {
        gate: other.clone(),
        answer: Ok("second"),
    };
    other.open(1);
    // One slot: the first orchestrator cannot take the execution again itself.
    let first = start_with(&test, 1, slow).await?;
    let run = test.invoke::<G1Gated>(()).await?;
    gate.entered(1).await;
    give_back(&test, run.id()).await?;
    let second = start_with(&test, 1, quick).await?;
    assert_eq!(soon("the result", run.result()).await?, "second 2");
    let before = everything_of(&test, run.id()).await?;
    second.stop().await?;

    gate.open(1);
    // It brings its outcome before it has stopped.
    first.stop().await?;
    assert_eq!(everything_of(&test, run.id()).await?, before);
    let info = info(&test, run.id()).await?;
    assert_eq!((info.claim, info.crashes, info.failures), (3, 1, 0));
    Ok(())
}

#[conductor::test]
async fn a_late_output_changes_nothing(test: TestConductor) -> anyhow::Result<()> {
    late_outcome(test, Ok("first")).await
}

#[conductor::test]
async fn a_late_error_changes_nothing(test: TestConductor) -> anyhow::Result<()> {
    late_outcome(test, Err("first")).await
}

#[conductor::test]
async fn a_late_outcome_does_not_end_the_next_attempt(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let side = Side {
        gate: gate.clone(),
        answer: Ok("attempt"),
    };
    let worker = start_with(&test, 1, side).await?;
    let run = test.invoke::<G1Gated>(()).await?;
    gate.entered(1).await;
    give_back(&test, run.id()).await?;
    // The late outcome and the next claim travel in one round trip.
    gate.open(1);
    gate.entered(1).await;
    assert_eq!(run.status().await?, Status::Running);
    gate.open(1);
    assert_eq!(soon("the result", run.result()).await?, "attempt 2");
    assert_eq!(info(&test, run.id()).await?.claim, 3);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_process_that_lost_its_lease_drops_its_handlers_and_works_on_anew(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let side = Side {
        gate: gate.clone(),
        answer: Ok("attempt"),
    };
    let worker = start_with(&test, 5, side).await?;
    let run = test.invoke::<G1Gated>(()).await?;
    gate.entered(1).await;
    let old: i64 = sqlx::query_scalar("select id from conductor.orchestrators")
        .fetch_one(test.pool())
        .await?;
    // A claim that is under way holds the row, and recovery passes by.
    eventually("its burial", || async {
        let mut tx = test.pool().begin().await.unwrap();
        sqlx::query("update conductor.orchestrators set lease_until = '-infinity' where id = $1")
            .bind(old)
            .execute(&mut *tx)
            .await
            .unwrap();
        let recovered: i32 = sqlx::query_scalar("select conductor.recover(5)")
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        recovered == 1
    })
    .await;
    gate.dropped().await;
    gate.entered(1).await;
    gate.open(1);
    assert_eq!(soon("the result", run.result()).await?, "attempt 2");
    let new: Vec<i64> = sqlx::query_scalar("select id from conductor.orchestrators")
        .fetch_all(test.pool())
        .await?;
    assert!(new.len() == 1 && new[0] > old, "{old} {new:?}");
    worker.stop().await?;
    Ok(())
}

/// A worker made of SQL.
struct Bare {
    orchestrator: i64,
    queue: i32,
    task: i32,
}

impl Bare {
    async fn new(test: &TestConductor) -> anyhow::Result<Self> {
        let (task, queue) =
            sqlx::query_as("select id, queue_id from conductor.tasks where name = 'g1-gated'")
                .fetch_one(test.pool())
                .await?;
        let orchestrator = sqlx::query_scalar(
            "select conductor.start_orchestrator('test', 1, array[$1], array[$2], '1 hour')",
        )
        .bind(queue)
        .bind(task)
        .fetch_one(test.pool())
        .await?;
        Ok(Self {
            orchestrator,
            queue,
            task,
        })
    }

    /// What a round trip under this fence claims.
    async fn trip(&self, test: &TestConductor, fence: i32) -> anyhow::Result<Vec<Uuid>> {
        let claimed = sqlx::query_scalar(
            "select id from conductor.finish_and_claim('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', $1, $2,
                 array[$3], '{}', '{}', '{}', 10, false, '{}', '{}', '{}', 1, '{}', '{}', '{}', '{}', '{}', $4)",
        )
        .bind(self.orchestrator)
        .bind(self.queue)
        .bind(self.task)
        .bind(fence)
        .fetch_all(test.pool())
        .await?;
        Ok(claimed)
    }

    async fn claim(&self, test: &TestConductor) -> anyhow::Result<i32> {
        let row = sqlx::query("select claim from conductor.claim($1, $2, array[$3], 1, false)")
            .bind(self.orchestrator)
            .bind(self.queue)
            .bind(self.task)
            .fetch_one(test.pool())
            .await?;
        Ok(row.try_get(0)?)
    }
}

async fn complete(test: &TestConductor, id: Uuid, claim: i32, output: &str) -> anyhow::Result<i32> {
    Ok(
        sqlx::query_scalar("select conductor.complete(array[$1], array[$2], array[$3])")
            .bind(id)
            .bind(claim)
            .bind(output)
            .fetch_one(test.pool())
            .await?,
    )
}

async fn fail(test: &TestConductor, id: Uuid, claim: i32) -> anyhow::Result<i32> {
    Ok(sqlx::query_scalar(
        "select conductor.fail(array[$1], array[$2], array['late'], array[true], array[0::bigint])",
    )
    .bind(id)
    .bind(claim)
    .fetch_one(test.pool())
    .await?)
}

async fn release(test: &TestConductor, id: Uuid, claim: i32) -> anyhow::Result<i32> {
    Ok(
        sqlx::query_scalar("select conductor.release(array[$1], array[$2])")
            .bind(id)
            .bind(claim)
            .fetch_one(test.pool())
            .await?,
    )
}

#[conductor::test]
async fn writes_with_an_old_claim_number_match_nothing(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G1Gated>(()).await?;
    let bare = Bare::new(&test).await?;
    let old = bare.claim(&test).await?;
    give_back(&test, run.id()).await?;
    // Given back and not claimed again.
    assert_eq!(complete(&test, run.id(), old, "1").await?, 0);
    let new = bare.claim(&test).await?;
    assert_eq!(complete(&test, run.id(), old, "1").await?, 0);
    assert_eq!(fail(&test, run.id(), old).await?, 0);
    assert_eq!(release(&test, run.id(), old).await?, 0);
    let live = info(&test, run.id()).await?;
    assert_eq!((live.state, live.claim), (Status::Running, new));
    Ok(())
}

/// A worker gives up on a claim whose answer does not come; a network may bring its statement later.
#[conductor::test]
async fn a_claim_that_comes_late_claims_nothing(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G1Gated>(()).await?;
    let bare = Bare::new(&test).await?;
    let disown = async |fence: i32| {
        sqlx::query_scalar::<_, i32>("select conductor.disown($1, $2, '{}', '{}', '{}', $3)")
            .bind(bare.orchestrator)
            .bind(bare.queue)
            .bind(fence)
            .fetch_one(test.pool())
            .await
    };
    assert_eq!(bare.trip(&test, 0).await?, [run.id()]);
    assert_eq!(disown(1).await?, 1);
    assert!(bare.trip(&test, 0).await?.is_empty());
    assert_eq!(bare.trip(&test, 1).await?, [run.id()]);
    // The fences of other queues are other ones.
    sqlx::query("select conductor.disown($1, $2, '{}', '{}', '{}', 7)")
        .bind(bare.orchestrator)
        .bind(bare.queue + 1)
        .execute(test.pool())
        .await?;
    assert_eq!(disown(2).await?, 1);
    assert_eq!(bare.trip(&test, 2).await?, [run.id()]);
    // A claim that the worker knows is no later one of the same execution.
    let claim = info(&test, run.id()).await?.claim;
    for (known, given_back) in [(claim, 0), (claim - 1, 1)] {
        let count: i32 =
            sqlx::query_scalar("select conductor.disown($1, $2, array[$3], array[$4], '{}', 3)")
                .bind(bare.orchestrator)
                .bind(bare.queue)
                .bind(run.id())
                .bind(known)
                .fetch_one(test.pool())
                .await?;
        assert_eq!(count, given_back);
    }
    Ok(())
}

#[conductor::test]
async fn writing_an_outcome_twice_is_harmless(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G1Gated>(()).await?;
    let bare = Bare::new(&test).await?;
    let claim = bare.claim(&test).await?;
    assert_eq!(complete(&test, run.id(), claim, "\"once\"").await?, 1);
    let before = everything_of(&test, run.id()).await?;
    assert_eq!(complete(&test, run.id(), claim, "\"twice\"").await?, 0);
    assert_eq!(fail(&test, run.id(), claim).await?, 0);
    assert_eq!(release(&test, run.id(), claim).await?, 0);
    assert_eq!(everything_of(&test, run.id()).await?, before);
    assert_eq!(run.result().await?, "once");
    Ok(())
}

#[conductor::test]
async fn claim_numbers_only_grow(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G1Gated>(()).await?;
    let bare = Bare::new(&test).await?;
    let mut last = 0;
    for round in 0..10 {
        let claim = bare.claim(&test).await?;
        assert!(claim > last, "{claim} after {last}");
        last = claim;
        match round % 2 {
            0 => assert_eq!(release(&test, run.id(), claim).await?, 1),
            _ => {
                sqlx::query("select conductor.give_back(array[$1], 1000)")
                    .bind(run.id())
                    .execute(test.pool())
                    .await?;
                // One that has crashed twice is not due at once.
                test.advance(Duration::from_secs(3600)).await?;
            }
        }
    }
    Ok(())
}

#[conductor::test]
async fn an_orchestrator_that_is_gone_cannot_claim(test: TestConductor) -> anyhow::Result<()> {
    test.invoke::<G1Gated>(()).await?;
    let bare = Bare::new(&test).await?;
    sqlx::query("select conductor.stop_orchestrator($1)")
        .bind(bare.orchestrator)
        .execute(test.pool())
        .await?;
    let refused = bare.claim(&test).await.unwrap_err();
    assert!(
        refused.to_string().contains("has lost its lease"),
        "{refused}"
    );
    Ok(())
}
