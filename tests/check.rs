//! `check`: whether a binary fits a database, looked at without a change.

use conductor::check::{Finding, Report};
use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Conductor, Error, event};
use uuid::Uuid;

use crate::support::{Role, declare, emptied, number, run_sql};

#[event(name = "check-paid")]
struct CheckPaid {
    cents: i64,
}

#[task(name = "check-child")]
async fn check_child(_ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    Ok(n)
}

#[task(name = "check-parent")]
async fn check_parent(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    let child = ctx.invoke::<CheckChild>("child", CheckChild { n }).await?;
    let paid = ctx.wait_for_event::<CheckPaid>("paid").await?;
    ctx.step("own", || async { anyhow::Ok(1) }).await?;
    ctx.wait_for_event::<CheckPaid>("again").await?;
    Ok(child + paid.cents)
}

#[task(name = "check-started", event(CheckPaid, when = cents == 1_000_001))]
async fn check_started(_ctx: &TaskContext, payload: CheckPaid) -> anyhow::Result<i64> {
    Ok(payload.cents)
}

/// What is found, without what comes of no process being there.
async fn found(conductor: &Conductor) -> anyhow::Result<Vec<Finding>> {
    let mut findings = conductor.check().await?.findings;
    findings.retain(|finding| !matches!(finding, Finding::Unserved { .. }));
    Ok(findings)
}

async fn insert(test: &TestConductor, task: &str, payload: &str) -> anyhow::Result<Uuid> {
    Ok(
        sqlx::query_scalar("select conductor.invoke($1, $2::json::jsonb)")
            .bind(task)
            .bind(payload)
            .fetch_one(test.pool())
            .await?,
    )
}

#[conductor::test]
async fn where_all_is_well_nothing_is_found(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    for n in 0..1200 {
        test.invoke::<CheckChild>(CheckChild { n }).await?;
    }
    let mut told = Vec::new();
    let report: Report = test.check().on_progress(|n| told.push(n)).await?;
    assert_eq!(
        report.findings,
        [Finding::Unserved {
            queue: "default".to_owned(),
            executions: 1200
        }]
    );
    assert_eq!((report.executions, report.complete), (1200, true));
    assert_eq!(report.database_version, report.binary_version);
    assert_eq!(told, [500, 1000, 1200]);
    let part = test.check().at_most(700).await?;
    assert_eq!((part.executions, part.complete), (700, false));
    let all = test.check().at_most(1200).await?;
    assert!(all.complete);
    Ok(())
}

#[conductor::test]
async fn an_empty_database_is_told_and_stays_empty(test: TestConductor) -> anyhow::Result<()> {
    emptied(&test).await;
    let conductor = Conductor::open_url(test.url()).await?;
    let report = conductor.check().await?;
    assert!(matches!(
        report.findings[..],
        [Finding::SchemaMissing { .. }]
    ));
    assert_eq!(report.database_version, 0);
    let schemas = "select count(*) from pg_namespace where nspname = 'conductor'";
    assert_eq!(number(&test, schemas).await, 0);
    Ok(())
}

#[conductor::test]
async fn the_version_of_the_schema_is_told(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    run_sql(
        &test,
        "insert into conductor.migrations (id, name, checksum, breaking) values (998, 'later', 'x', false)",
    )
    .await?;
    assert_eq!(found(&test).await?, []);
    run_sql(
        &test,
        "insert into conductor.migrations (id, name, checksum, breaking) values (999, 'later', 'x', true)",
    )
    .await?;
    assert!(matches!(
        found(&test).await?[..],
        [Finding::SchemaNewer { migration: 999, .. }]
    ));
    run_sql(
        &test,
        "delete from conductor.migrations where id > 900;
         update conductor.migrations set checksum = 'x' where id = 2",
    )
    .await?;
    assert_eq!(
        found(&test).await?,
        [Finding::SchemaChanged { migration: 2 }]
    );
    run_sql(
        &test,
        "update conductor.migrations set checksum = 'x' where id = 2;
         delete from conductor.migrations where id >= 2",
    )
    .await?;
    assert!(matches!(
        found(&test).await?[..],
        [Finding::SchemaOlder {
            database: 1,
            breaking: true,
            ..
        }]
    ));
    Ok(())
}

#[conductor::test]
async fn tasks_that_this_binary_does_not_have(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    declare(&test, "check-gone").await?;
    assert_eq!(found(&test).await?, []);
    for _ in 0..3 {
        insert(&test, "check-gone", "{}").await?;
    }
    let unknown = |served| Finding::UnknownTask {
        task: "check-gone".to_owned(),
        executions: 3,
        served,
    };
    assert_eq!(found(&test).await?, [unknown(false)]);
    run_sql(
        &test,
        "select conductor.start_orchestrator('h', 1, '{}', array_agg(id), '1 minute') from conductor.tasks
          where name = 'check-gone'",
    )
    .await?;
    assert_eq!(found(&test).await?, [unknown(true)]);
    Ok(())
}

#[conductor::test]
async fn payloads_that_cannot_be_read(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    insert(&test, "check-child", r#"{"n": 1}"#).await?;
    let bad = insert(&test, "check-child", r#"{"n": "one"}"#).await?;
    insert(&test, "check-child", r#"{"m": 1}"#).await?;
    // One that an event has started is read as that event.
    run_sql(
        &test,
        r#"select conductor.emit('check-paid', '{"cents": 1000001}')"#,
    )
    .await?;
    run_sql(&test, "select conductor.dispatch(100)").await?;
    assert_eq!(
        number(&test, "select count(*) from conductor.live_executions").await,
        4
    );
    let findings = found(&test).await?;
    let [
        Finding::Payload {
            task,
            executions: 2,
            execution,
            error,
        },
    ] = &findings[..]
    else {
        panic!("{findings:?}");
    };
    assert_eq!((task.as_str(), *execution), ("check-child", bad));
    assert!(error.contains("one") && error.contains("i64"), "{error}");
    run_sql(
        &test,
        r#"update conductor.live_executions set payload = '{"cents": null}' where trigger is not null"#,
    )
    .await?;
    let findings = found(&test).await?;
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert_eq!(findings[1].subject(), "check-started");
    Ok(())
}

#[conductor::test]
async fn records_that_cannot_be_read(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<CheckParent>(CheckParent { n: 1 }).await?;
    test.drain().await?;
    test.emit(CheckPaid { cents: 2 }).await?;
    test.drain().await?;
    assert_eq!(found(&test).await?, []);
    let report = test.check().await?;
    assert_eq!(report.records, 4, "child, paid, own, and the wait");

    run_sql(
        &test,
        r#"update conductor.steps set value = jsonb_set(value::jsonb, '{output}', '"x"')::json where key = 'child';
           update conductor.steps set value = jsonb_set(value::jsonb, '{payload,cents}', '"y"')::json where key = 'paid';
           update conductor.steps set kind = 'comet' where key = 'own'"#,
    )
    .await?;
    let findings = found(&test).await?;
    let texts: Vec<(&str, &str, Uuid)> = findings
        .iter()
        .map(|finding| match finding {
            Finding::Record {
                step,
                records: 1,
                execution,
                key,
                ..
            } => (step.as_str(), key.as_str(), *execution),
            other => panic!("{other:?}"),
        })
        .collect();
    let id = run.id();
    assert_eq!(
        texts,
        [
            ("comet", "own", id),
            ("event", "paid", id),
            ("invoke", "child", id)
        ]
    );
    Ok(())
}

#[conductor::test]
async fn schedules_made_at_run_time(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    declare(&test, "check-gone").await?;
    run_sql(
        &test,
        r#"select conductor.schedule('check-child', 'good', '0 9 1 1 *', '{"n": 1}');
           select conductor.schedule('check-child', 'bad', '0 9 1 1 *', '{"n": "one"}');
           select conductor.schedule('check-gone', 'gone', '0 9 1 1 *')"#,
    )
    .await?;
    let findings = found(&test).await?;
    assert!(
        matches!(
            &findings[..],
            [
                Finding::ScheduledPayload { schedule: bad, .. },
                Finding::UnknownScheduledTask { schedule: gone, .. }
            ] if bad == "bad" && gone == "gone"
        ),
        "{findings:?}"
    );
    Ok(())
}

#[conductor::test]
async fn a_role_that_may_only_read_is_enough(test: TestConductor) -> anyhow::Result<()> {
    test.invoke::<CheckParent>(CheckParent { n: 1 }).await?;
    test.drain().await?;
    let role = Role::new(&test).await;
    let conductor = Conductor::from_pool(role.pool());
    let refused = conductor.check().await;
    let Err(Error::Schema(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(text.contains("grant select on all tables"), "{text}");
    role.owner_runs(
        &test,
        "grant usage on schema conductor to {role}; grant select on all tables in schema conductor to {role};
         alter role {role} set default_transaction_read_only = on",
    )
    .await;
    let conductor = Conductor::from_pool(role.pool());
    assert_eq!(found(&conductor).await?, []);
    assert_eq!(conductor.check().await?.executions, 1);
    Ok(())
}

#[conductor::test]
async fn a_strict_start_is_refused_and_the_usual_one_is_not(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.drain().await?;
    let bad = insert(&test, "check-child", r#"{"n": "one"}"#).await?;
    let refused = test.orchestrator().strict().build()?.drain().await;
    let Err(Error::Refused(texts)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(
        texts[0].starts_with("check-child: 1 execution with a payload"),
        "{texts:?}"
    );
    // It waits for a build that can read it, or for somebody who does without.
    test.drain().await?;
    assert!(test.orchestrator().strict().build()?.drain().await.is_err());
    test.cancel(bad).await?;
    test.orchestrator().strict().build()?.drain().await?;
    Ok(())
}
