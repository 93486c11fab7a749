//! What a list reads of a deep history.

use std::time::Duration;

use conductor::testing::TestConductor;
use conductor::{Conductor, Filter, Status};
use sqlx::postgres::PgPoolOptions;

use super::explained::{tell_plans, told};
use crate::support::{declare, run_sql};

/// Two executions a second for 100,000 s: one in 20,000 has failed, and one in 50,000 is of another task.
async fn deep_history(test: &TestConductor) -> anyhow::Result<()> {
    declare(test, "common").await?;
    declare(test, "rare").await?;
    run_sql(
        test,
        "insert into conductor.finished_executions (
             id, created_at, finished_at, expires_at, queue_id, task_id, priority, claim, failures, crashes,
             state, payload)
         select (lpad(to_hex(floor(extract(epoch from a.at) * 1000)::bigint), 12, '0') || '70008'
                 || substr(md5(a.n::text), 1, 15))::uuid,
                a.at + interval '3 ms', a.at + interval '1 second', a.at + interval '7 days', t.queue_id, t.id, 0, 1, 0, 0,
                (case when a.n % 20000 = 7 then 'failed' else 'completed' end)::conductor.execution_state, '{}'
           from (select n, clock_timestamp() - n * interval '0.5 second' as at from generate_series(1, 200000) n) a
           join conductor.tasks t on t.name = case when a.n % 50000 = 49999 then 'rare' else 'common' end;
         analyze conductor.finished_executions",
    )
    .await?;
    Ok(())
}

#[conductor::test]
async fn a_list_does_not_read_a_deep_history(test: TestConductor) -> anyhow::Result<()> {
    let made = std::time::Instant::now();
    deep_history(&test).await?;
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.after_connect(|session, _| {
        Box::pin(async move {
            assert!(tell_plans(session).await, "auto_explain is missing");
            Ok(())
        })
    });
    let conductor = Conductor::from_pool(pool.connect(test.url()).await?);
    // What it does but once.
    conductor.list(&Filter::default()).await?;
    let task = |name: &str| Some(name.to_owned());
    let day = Some(Duration::from_secs(86_400));
    let all = Filter::default;
    let failed = || Filter {
        state: Some(Status::Failed),
        ..all()
    };
    let newer = |seconds| Filter {
        newer_than: Some(Duration::from_secs(seconds)),
        ..all()
    };
    for (what, filter, found) in [
        ("all", all(), 50),
        ("failed", failed(), 10),
        (
            "cancelled",
            Filter {
                state: Some(Status::Cancelled),
                ..all()
            },
            0,
        ),
        (
            "failed, of a task",
            Filter {
                task: task("common"),
                ..failed()
            },
            10,
        ),
        (
            "failed, lately",
            Filter {
                newer_than: day,
                ..failed()
            },
            9,
        ),
        (
            "a common task",
            Filter {
                task: task("common"),
                ..all()
            },
            50,
        ),
        (
            "running",
            Filter {
                state: Some(Status::Running),
                ..all()
            },
            0,
        ),
        (
            "completed",
            Filter {
                state: Some(Status::Completed),
                ..all()
            },
            50,
        ),
        ("newer", newer(600), 50),
        (
            "newer, all",
            Filter {
                limit: 2000,
                ..newer(60)
            },
            120,
        ),
        (
            "newer, a rare task",
            Filter {
                task: task("rare"),
                ..newer(600)
            },
            0,
        ),
        (
            "newer, a queue",
            Filter {
                queue: task("default"),
                ..newer(600)
            },
            50,
        ),
    ] {
        let (list, explained) = told(conductor.list(&filter)).await?;
        // The last ones of the minute are over by now: two a second since they were made.
        let over = i32::try_from(made.elapsed().as_secs() * 2)?;
        let found = found - 10 - over..=found;
        let listed = i32::try_from(list?.len())?;
        assert!(found.contains(&listed), "{what}: {listed}");
        let reads: Vec<String> = explained
            .reads
            .iter()
            .filter(|read| read.rows > 0.0)
            .map(|read| format!("{:?} of {}: {}", read.index, read.table, read.rows))
            .collect();
        assert!(!explained.reads.is_empty(), "{what}");
        // An hour of this history, which ids are not exact by, has 7200 rows.
        assert!(
            explained.blocks < 2500,
            "{what}: {} blocks, {reads:#?}",
            explained.blocks
        );
    }
    // What nothing bounds is found all the same.
    let rare = Filter {
        task: task("rare"),
        ..all()
    };
    assert_eq!(conductor.list(&rare).await?.len(), 4);
    Ok(())
}
