//! What cannot be a schedule, and names that are only odd: from the client, a handler and SQL.

use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Status};

use crate::support::{count, number, sqlstate};

const HOUR: Duration = Duration::from_secs(60 * 60);

#[task(name = "refused.report")]
async fn refused_report(_ctx: &TaskContext, word: String) -> anyhow::Result<String> {
    Ok(word)
}

fn word() -> RefusedReport {
    RefusedReport {
        word: "x".to_owned(),
    }
}

/// Name, rule and zone, and a part of what is said.
struct Case(String, &'static str, &'static str, &'static str);

fn cases() -> Vec<Case> {
    let rule = |rule, said| Case("n".to_owned(), rule, "UTC", said);
    let zone = |zone, said| Case("n".to_owned(), "@daily", zone, said);
    let name = |name: &str, said| Case(name.to_owned(), "@daily", "UTC", said);
    vec![
        rule("61 * * * *", "minutes go from 0 to 59"),
        rule("0 0 30 2 *", "never comes"),
        rule("0 9 * * 1", "write `Mon`"),
        rule("", "cannot be empty"),
        rule("@dayly", "did you mean `@daily`"),
        rule("0 9 * * *\0", "control characters"),
        rule("0 0 0 1 1 * 2020", "no tick to come"),
        zone("Europe/Berlim", "did you mean `Europe/Berlin`"),
        zone("", "no time zone"),
        zone("UT\0C", "no time zone"),
        name("", "it is empty"),
        name("a\0b", "control character"),
        name("a\nb", "control character"),
        name(&"x".repeat(201), "longer than 200"),
        name(&"x".repeat(10_000), "longer than 200"),
    ]
}

#[conductor::test]
async fn the_client_refuses_what_cannot_be_a_schedule(test: TestConductor) -> anyhow::Result<()> {
    for Case(name, cron, zone, said) in cases() {
        let schedule = test.schedule::<RefusedReport>(name, cron, word());
        match schedule.timezone(zone).await {
            Err(Error::Invalid(text)) => assert!(text.contains(said), "{text}"),
            other => panic!("{said}: {other:?}"),
        }
    }
    assert!(!test.unschedule::<RefusedReport>("a\0b").await?);
    assert!(test.schedules().await?.is_empty());
    Ok(())
}

#[task(name = "refused.makes", retry(max_attempts = 1))]
async fn refused_makes(ctx: &TaskContext, case: usize) -> anyhow::Result<()> {
    let Case(name, cron, zone, _) = cases().swap_remove(case);
    assert!(!ctx.unschedule::<RefusedReport>(name.clone()).await?);
    ctx.schedule::<RefusedReport>(name, cron, word())
        .timezone(zone)
        .await
}

#[conductor::test]
async fn in_a_handler_it_fails_the_attempt(test: TestConductor) -> anyhow::Result<()> {
    for (case, Case(_, _, _, said)) in cases().into_iter().enumerate() {
        let run = test.invoke::<RefusedMakes>(RefusedMakes { case }).await?;
        test.drain().await?;
        match run.result().await {
            Err(Error::Failed { error, .. }) => assert!(error.contains(said), "{error}"),
            other => panic!("{said}: {other:?}"),
        }
    }
    assert!(test.schedules().await?.is_empty());
    Ok(())
}

#[conductor::test]
async fn sql_refuses_names_that_a_client_could_not_say(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    for name in [
        "",
        "a\nb",
        "a\u{7f}b",
        "a\u{9f}b",
        &"x".repeat(201),
        &"ü".repeat(101),
        &"x".repeat(10_000),
    ] {
        let error = sqlx::query("select conductor.schedule('refused.report', $1, '@daily')")
            .bind(name)
            .execute(test.pool())
            .await
            .unwrap_err();
        assert_eq!(sqlstate(&error).as_deref(), Some("CD002"), "{name:?}");
    }
    assert!(test.schedules().await?.is_empty());
    Ok(())
}

#[task(name = "refused.odd")]
async fn refused_odd(ctx: &TaskContext, name: String) -> anyhow::Result<()> {
    ctx.schedule::<RefusedReport>(name, "0 * * * *", word())
        .await
}

#[conductor::test]
async fn odd_names_are_names(test: TestConductor) -> anyhow::Result<()> {
    let mut names = vec![
        "it's \"x\"".to_owned(),
        "'; drop table conductor.schedules; --".to_owned(),
        "a::b".to_owned(),
        "MiXed".to_owned(),
        "mixed".to_owned(),
        " ".to_owned(),
        "$1 %s {0} \\".to_owned(),
        "Grüße 🙂".to_owned(),
        "x".repeat(199) + "a",
        "x".repeat(199) + "b",
    ];
    test.drain().await?;
    for (n, name) in names.iter().enumerate() {
        match n % 3 {
            0 => {
                test.schedule::<RefusedReport>(name, "0 * * * *", word())
                    .await?;
            }
            1 => {
                let name = name.clone();
                test.invoke::<RefusedOdd>(RefusedOdd { name }).await?;
            }
            _ => {
                sqlx::query(
                    r#"select conductor.schedule('refused.report', $1, '0 * * * *', '{"word": "x"}')"#,
                )
                .bind(name)
                .execute(test.pool())
                .await?;
            }
        }
    }
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    let mut ticked: Vec<String> = sqlx::query_scalar(
        "select trigger->>'name' from conductor.finished where task = 'refused.report' and state = 'completed'",
    )
    .fetch_all(test.pool())
    .await?;
    ticked.sort();
    names.sort();
    assert_eq!(ticked, names);
    for name in &names {
        assert!(test.pause_schedule("refused.report", name).await?);
        assert!(test.resume_schedule("refused.report", name).await?);
        assert!(
            test.trigger_schedule("refused.report", name)
                .await?
                .is_some()
        );
        assert!(test.unschedule::<RefusedReport>(name).await?, "{name}");
        assert!(!test.unschedule::<RefusedReport>(name).await?, "{name}");
    }
    assert!(test.schedules().await?.is_empty());
    Ok(())
}

#[conductor::test]
async fn a_payload_that_does_not_fit_keeps_its_own_executions_waiting(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.drain().await?;
    sqlx::raw_sql(
        r#"select conductor.schedule('refused.report', 'other field', '0 * * * *', '{"wrd": "x"}');
           select conductor.schedule('refused.report', 'none', '0 * * * *');"#,
    )
    .execute(test.pool())
    .await?;
    let nul =
        r#"select conductor.schedule('refused.report', 'nul', '0 * * * *', '{"word": "\u0000"}')"#;
    let refused = sqlx::raw_sql(nul).execute(test.pool()).await.unwrap_err();
    assert_eq!(sqlstate(&refused).as_deref(), Some("CD002"));
    test.schedule::<RefusedReport>("good", "0 * * * *", word())
        .await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    // For a build that can read them, and charged with nothing.
    let left = "select count(*) from conductor.unreadable";
    assert_eq!(number(&test, left).await, 2);
    assert_eq!(count(&test, "state = 'pending' and failures = 0").await?, 2);
    let good = test.schedules().await?;
    let good = good
        .iter()
        .find(|schedule| schedule.name == "good")
        .unwrap();
    let run = test.execution::<RefusedReport>(good.last_execution.unwrap());
    assert_eq!(run.status().await?, Status::Completed);
    Ok(())
}
