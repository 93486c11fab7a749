//! An error that a handler goes on from is recorded, and reads the same in the first run and in each replay (G20, G21).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::anyhow;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Failure, Status};
use serde::{Deserialize, Serialize};

use crate::support::{info, number, run_sql};

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error, Serialize, Deserialize, PartialEq)]
enum Bank {
    #[error("the card was declined: {reason}")]
    Declined { reason: String },
    #[error("the bank is away")]
    Away,
}
conductor::failures!(Bank);

/// Not named in `failures!`.
#[derive(Debug, thiserror::Error)]
#[error("out of stock")]
struct Stock;

/// How often each body has run, and what the handlers have seen.
#[derive(Default)]
struct Seen {
    runs: Mutex<HashMap<&'static str, usize>>,
    said: Mutex<Vec<(String, String)>>,
}

impl Seen {
    fn run(&self, body: &'static str) -> usize {
        let mut runs = self.runs.lock().unwrap();
        let count = runs.entry(body).or_default();
        *count += 1;
        *count
    }

    fn runs(&self, body: &str) -> usize {
        self.runs.lock().unwrap().get(body).copied().unwrap_or(0)
    }

    fn say(&self, way: &str, text: String) {
        self.said.lock().unwrap().push((way.to_owned(), text));
    }

    fn said(&self, way: &str) -> Vec<String> {
        let said = self.said.lock().unwrap();
        let of_way = said.iter().filter(|(said, _)| said == way);
        of_way.map(|(_, text)| text.clone()).collect()
    }
}

type SeenByAll = Arc<Seen>;

fn declined() -> Bank {
    Bank::Declined {
        reason: "empty".to_owned(),
    }
}

/// Fails the first time and never again.
fn charge(seen: &Seen, body: &'static str) -> Result<u64, Bank> {
    match seen.run(body) {
        1 => Err(declined()),
        _ => Ok(7),
    }
}

#[task(name = "errors.caught", retry(max_attempts = 1))]
async fn caught(ctx: &TaskContext, way: String) -> anyhow::Result<String> {
    let seen = ctx.state::<SeenByAll>();
    let charged: anyhow::Result<u64> = match way.as_str() {
        "step" => ctx.step("charge", async || charge(seen, "step")).await,
        "retry_step" => {
            let once = RetryPolicy::attempts(1);
            let body = async || charge(seen, "retry_step");
            ctx.retry_step("charge", once, body).await
        }
        "timeout" => {
            let body = async || {
                if seen.run("timeout") == 1 {
                    std::future::pending::<()>().await;
                }
                anyhow::Ok(7)
            };
            let step = ctx.step("charge", body);
            step.timeout(Duration::from_millis(50)).await
        }
        "transaction" => {
            let body = async |_: &mut conductor::Tx| charge(seen, "transaction");
            ctx.transaction("charge", body).await
        }
        "race" => {
            ctx.race("charge or late")
                .branch(async { ctx.step("charge", async || charge(seen, "race")).await })
                .branch(async {
                    ctx.sleep("late", HOUR * 9).await?;
                    anyhow::Ok(0)
                })
                .await
        }
        "race that deals with it" => ctx
            .race("charge or late")
            .branch(async {
                let body = async || charge(seen, "race that deals with it");
                let charged = ctx.step("charge", body).await;
                anyhow::Ok(charged.map_or(0, |cents| cents))
            })
            .await
            .and_then(|cents| match cents {
                0 => Err(anyhow!("declined in the race")),
                cents => Ok(cents),
            }),
        other => anyhow::bail!("no way {other}"),
    };
    let said = match &charged {
        Ok(cents) => format!("charged {cents}"),
        Err(error) => {
            let failure = ctx.failure(error);
            let details = failure.as_ref().and_then(Failure::details::<Bank>);
            let code = failure.as_ref().and_then(|failure| failure.code());
            format!("{error:#} / {error} / {code:?} {details:?}")
        }
    };
    seen.say(&way, said.clone());
    ctx.step("tell the customer", async || anyhow::Ok(()))
        .await?;
    ctx.sleep("a while", HOUR).await?;
    Ok(said)
}

#[conductor::test]
async fn what_the_handler_goes_on_from_is_recorded(test: TestConductor) -> anyhow::Result<()> {
    let typed = r#"the card was declined: empty / the card was declined: empty / Some("Bank") Some(Declined { reason: "empty" })"#;
    let seen = SeenByAll::default();
    let test = test.state(Arc::clone(&seen));
    let mut runs = Vec::new();
    for (way, told) in [
        ("step", typed),
        ("retry_step", typed),
        ("transaction", typed),
        ("race", typed),
        (
            "timeout",
            "step \"charge\" timed out after 50ms / step \"charge\" timed out after 50ms / None None",
        ),
        (
            "race that deals with it",
            "declined in the race / declined in the race / None None",
        ),
    ] {
        let way_of = way.to_owned();
        runs.push((
            way,
            told,
            test.invoke::<Caught>(Caught { way: way_of }).await?,
        ));
    }
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    for (way, told, run) in runs {
        assert_eq!(run.result().await?, told, "{way}");
        assert_eq!(seen.runs(way), 1, "{way}: the body ran again");
        assert_eq!(seen.said(way), [told, told], "{way}: the runs saw");
    }
    Ok(())
}

#[task(name = "errors.passed", retry(max_attempts = 2, backoff = "1h..1h"))]
async fn passed(ctx: &TaskContext, way: String) -> anyhow::Result<u64> {
    let seen = ctx.state::<SeenByAll>();
    let (key, body) = match way.as_str() {
        "at once" => ("charge", "passed at once"),
        "beside" => ("charge", "passed beside"),
        "in a race" => ("charge", "passed in a race"),
        "after a word" => ("charge", "passed on after a word"),
        _ => ("charge", "passed on after a checkpoint"),
    };
    let step = ctx.step(key, async || charge(seen, body));
    match way.as_str() {
        "at once" => step.await,
        "beside" => {
            // Both were there before the error was.
            let other = ctx.step("other", async || {
                seen.run("other");
                tokio::task::yield_now().await;
                anyhow::Ok(1)
            });
            let (charged, other) = tokio::join!(step, other);
            Ok(charged? + other?)
        }
        "in a race" => {
            let late = async {
                ctx.sleep("late", HOUR * 9).await?;
                anyhow::Ok(0)
            };
            ctx.race("charge or late").branch(step).branch(late).await
        }
        "after a word" => {
            let charged = step.await;
            ctx.step("tell", async || anyhow::Ok(())).await?;
            charged
        }
        _ => {
            let charged = step.await;
            ctx.checkpoint().await?;
            charged.map_err(|error| anyhow!(Hidden::Other(error)))
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Hidden {
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

#[conductor::test]
async fn what_ends_the_attempt_is_not_recorded(test: TestConductor) -> anyhow::Result<()> {
    let seen = SeenByAll::default();
    let test = test.state(Arc::clone(&seen));
    let mut runs = Vec::new();
    for way in [
        "at once",
        "beside",
        "in a race",
        "after a word",
        "after a checkpoint",
    ] {
        let way_of = way.to_owned();
        runs.push((way, test.invoke::<Passed>(Passed { way: way_of }).await?));
    }
    test.drain().await?;
    for (way, run) in &runs {
        let state = info(&test, run.id()).await?.state;
        assert_eq!(state, Status::Pending, "{way}");
    }
    test.advance(HOUR * 2).await?;
    test.drain().await?;
    for (way, run) in &runs {
        let expected = if *way == "beside" { 8 } else { 7 };
        assert_eq!(run.result().await?, expected, "{way}");
    }
    assert_eq!(seen.runs("other"), 1, "what was recorded stays");
    Ok(())
}

#[task(name = "errors.begins")]
async fn begins(ctx: &TaskContext) -> anyhow::Result<i64> {
    let failed = ctx.step("charge", async || Err::<u64, _>(Stock)).await;
    let error = failed.unwrap_err();
    anyhow::ensure!(
        error.downcast_ref::<Stock>().is_none(),
        "a replay has no such type"
    );
    let pool = ctx.state::<sqlx::PgPool>();
    let id = ctx.execution_id();
    ctx.step("count", async || {
        sqlx::query_scalar(
            "select count(*) from conductor.steps where execution_id = $1 and kind = 'failed step'",
        )
        .bind(id)
        .fetch_one(pool)
        .await
    })
    .await
}

#[conductor::test]
async fn the_record_is_there_before_the_next_call_begins(
    test: TestConductor,
) -> anyhow::Result<()> {
    let pool = sqlx::PgPool::connect(test.url()).await?;
    let test = test.state(pool);
    let run = test.invoke::<Begins>(()).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, 1);
    Ok(())
}

/// Two branches that fail apart from each other. The error of the second one is recorded, as the first one goes on.
#[task(
    name = "errors.apart",
    retry(max_attempts = 3, backoff = "1s", jitter = 0)
)]
async fn apart(ctx: &TaskContext, fails: usize) -> anyhow::Result<usize> {
    let seen = ctx.state::<SeenByAll>();
    let go = tokio::sync::Notify::new();
    let first = async {
        ctx.step("before", async || {
            go.notified().await;
            anyhow::Ok(())
        })
        .await?;
        ctx.step("first", async || match seen.run("first") {
            run if run <= fails => Err(anyhow!("first, run {run}")),
            run => Ok(run),
        })
        .await
    };
    let second = ctx.step("second", async || {
        go.notify_one();
        match seen.run("second") {
            1 => Err(anyhow!("second")),
            run => Ok(run),
        }
    });
    let (first, second) = tokio::join!(first, second);
    Ok(first? * 10 + second?)
}

#[conductor::test]
async fn an_error_that_only_a_branch_beside_it_had_recorded_costs_no_attempt(
    test: TestConductor,
) -> anyhow::Result<()> {
    let seen = SeenByAll::default();
    let test = test.state(Arc::clone(&seen));
    let run = test.invoke::<Apart>(Apart { fails: 2 }).await?;
    test.drain().await?;
    let kept = "select count(*) from conductor.steps where kind = 'failed step'";
    assert_eq!(number(&test, kept).await, 1);
    for _ in 0..2 {
        test.advance(HOUR).await?;
        test.drain().await?;
    }
    assert_eq!(run.result().await?, 32);
    let ended = info(&test, run.id()).await?;
    // The third attempt ended with the error of the first one, was not counted, and ran again.
    assert_eq!((ended.failures, ended.claim), (2, 4));
    assert_eq!((seen.runs("first"), seen.runs("second")), (3, 2));
    assert_eq!(number(&test, kept).await, 0);
    Ok(())
}

/// Otherwise a crash between the record and the end of the attempt would let the step run once too often.
#[conductor::test]
async fn it_costs_an_attempt_if_none_was_counted_since(test: TestConductor) -> anyhow::Result<()> {
    let id = test.invoke::<Apart>(Apart { fails: 0 }).await?.id();
    run_sql(
        &test,
        &format!(
            "insert into conductor.steps (execution_id, key, kind, value, recorded_at)
             values ('{id}', 'second', 'failed step', '{{}}', conductor.now())"
        ),
    )
    .await?;
    let free = format!(
        "select cardinality(conductor.counted_before(array['{id}'::uuid], array['{id}'::uuid], array['second']))::bigint"
    );
    assert_eq!(number(&test, &free).await, 0);
    for (attempt, error, counted) in [(1, "conductor.crash_text()", 0), (2, "'a failure'", 1)] {
        let failed = format!(
            "insert into conductor.failures (execution_id, attempt, failed_at, error)
             values ('{id}', {attempt}, conductor.now(), {error})"
        );
        run_sql(&test, &failed).await?;
        assert_eq!(number(&test, &free).await, counted, "{error}");
    }
    Ok(())
}

#[task(name = "errors.child", retry(max_attempts = 1))]
async fn child(ctx: &TaskContext, way: String) -> anyhow::Result<u64> {
    match way.as_str() {
        "typed" => Err(declined().into()),
        "permanent" => Err(Bank::Away).permanent(),
        "wrapped" => Err(anyhow!(declined()).context("order 7")),
        "coded" => Err(Failure::new("late", "too late")
            .with_details(&[1, 2])
            .into()),
        "in a step" => ctx.step("charge", async || Err(declined())).await,
        "plain" => Err(Stock.into()),
        _ => Ok(1),
    }
}

#[task(name = "errors.middle", retry(max_attempts = 1))]
async fn middle(ctx: &TaskContext) -> anyhow::Result<u64> {
    let way = "typed".to_owned();
    Ok(ctx.invoke::<Child>("child", Child { way }).await?)
}

const WAYS: [&str; 7] = [
    "typed",
    "permanent",
    "wrapped",
    "coded",
    "in a step",
    "plain",
    "fine",
];

#[task(name = "errors.parent")]
async fn parent(ctx: &TaskContext) -> anyhow::Result<Vec<String>> {
    let children = WAYS.map(|way| Child {
        way: way.to_owned(),
    });
    let ends = ctx.invoke_all::<Child>("all", children).settle().await?;
    let mut said = Vec::new();
    for end in ends {
        said.push(match end {
            Ok(n) => format!("{n}"),
            Err(error) => {
                let failure = ctx.failure(&error).expect("a failed child has a failure");
                format!("{:?} {:?}", failure.code(), failure.details::<Bank>())
            }
        });
    }
    let error = ctx.invoke::<Middle>("middle", ()).await.unwrap_err();
    let failure = ctx.failure(&anyhow!(error).context("in context"));
    said.push(format!(
        "{:?}",
        failure.and_then(|failure| failure.details::<Bank>())
    ));
    let seen = ctx.state::<SeenByAll>();
    seen.say("parent", said.join("; "));
    ctx.sleep("a while", HOUR).await?;
    Ok(said)
}

#[conductor::test]
async fn a_parent_matches_the_errors_of_its_children(test: TestConductor) -> anyhow::Result<()> {
    let seen = SeenByAll::default();
    let test = test.state(Arc::clone(&seen));
    let run = test.invoke::<Parent>(()).await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    let declined = r#"Some("Bank") Some(Declined { reason: "empty" })"#;
    assert_eq!(
        run.result().await?,
        [
            declined,
            r#"Some("Bank") Some(Away)"#,
            declined,
            r#"Some("late") None"#,
            declined,
            "None None",
            "1",
            r#"Some(Declined { reason: "empty" })"#,
        ]
    );
    let said = seen.said("parent");
    assert_eq!(said[0], said[1], "the runs saw");
    Ok(())
}

#[conductor::test]
async fn whoever_waits_for_the_result_matches_it(test: TestConductor) -> anyhow::Result<()> {
    let test = test.state(SeenByAll::default());
    let way = "coded".to_owned();
    let run = test.invoke::<Child>(Child { way }).await?;
    assert!(run.failure().await?.is_none(), "it has not ended");
    test.drain().await?;
    let failure = run.failure().await?.expect("it has failed");
    assert_eq!(failure.code(), Some("late"));
    assert_eq!(failure.details::<Vec<u32>>(), Some(vec![1, 2]));
    assert_eq!(failure.details::<Bank>(), None);
    assert_eq!(failure.to_string(), "too late");
    let info = info(&test, run.id()).await?;
    assert_eq!(info.output.map(|output| output.to_string()), None);
    let stored = info.failure.map(|failure| failure.to_string());
    assert_eq!(
        stored.as_deref(),
        Some(r#"{"code":"late","details":[1,2]}"#)
    );
    Ok(())
}

#[task(name = "errors.large", retry(max_attempts = 1))]
async fn large(ctx: &TaskContext) -> anyhow::Result<String> {
    let long = "x".repeat(100_000);
    let body = async || Err::<(), _>(Failure::new("large", "a\0b").with_details(&long));
    let error = ctx.step("large", body).await.unwrap_err();
    ctx.checkpoint().await?;
    ctx.sleep("a while", HOUR).await?;
    Ok(format!("{error:#}"))
}

#[conductor::test]
async fn details_that_cannot_be_stored_are_left_out(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<Large>(()).await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    let text = run.result().await?;
    assert!(
        text.starts_with("a\u{fffd}b: its details were left out"),
        "{text}"
    );
    Ok(())
}

#[task(
    name = "errors.made-before",
    retry(max_attempts = 2, backoff = "1ms..1ms")
)]
async fn made_before(ctx: &TaskContext, way: String) -> anyhow::Result<String> {
    let seen = ctx.state::<SeenByAll>();
    match way.as_str() {
        // The second call was made before the first one had failed.
        "in order" => {
            let (one, two) = (
                ctx.step("one", async || charge(seen, "one")),
                ctx.step("two", async || anyhow::Ok("two".to_owned())),
            );
            match one.await {
                Ok(_) => Ok("one".to_owned()),
                Err(_) => {
                    let two = two.await?;
                    ctx.sleep("a while", HOUR).await?;
                    Ok(two)
                }
            }
        }
        // The attempt ends with another error that reads the same.
        "same text" => {
            let one = ctx.step("one", async || charge(seen, "same text")).await;
            if one.is_err() {
                ctx.step("two", async || anyhow::Ok(())).await?;
                anyhow::ensure!(ctx.attempt() > 1, "the card was declined: empty");
                return Ok("two".to_owned());
            }
            Ok("one".to_owned())
        }
        // The body of a step goes on from the error of a step inside of it, and then fails.
        _ => {
            ctx.step("outer", async || {
                let inner = ctx.step("inner", async || charge(seen, "inner")).await;
                ctx.step("beside", async || anyhow::Ok(())).await?;
                inner.map(|cents| format!("inner {cents}"))
            })
            .await
        }
    }
}

#[conductor::test]
async fn it_is_the_error_that_was_acted_on(test: TestConductor) -> anyhow::Result<()> {
    let seen = SeenByAll::default();
    let test = test.state(Arc::clone(&seen));
    for (way, expected) in [
        ("in order", "two"),
        ("same text", "two"),
        ("nested", "inner 7"),
    ] {
        let payload = MadeBefore {
            way: way.to_owned(),
        };
        let run = test.invoke::<MadeBefore>(payload).await?;
        for _ in 0..2 {
            test.drain().await?;
            test.advance(HOUR).await?;
        }
        test.drain().await?;
        assert_eq!(run.result().await?, expected, "{way}");
    }
    assert_eq!(seen.runs("one"), 1);
    assert_eq!(seen.runs("same text"), 1);
    assert_eq!(seen.runs("inner"), 2);
    Ok(())
}
