//! What an error says of its retries is heard, whatever it is wrapped in on its way out of the handler.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{RetryVerdict, Status, Verdict};

use crate::support::info;

/// The usual error type of an application.
#[derive(Debug, thiserror::Error)]
enum Own {
    #[error("the card was declined")]
    Declined,
    #[error(transparent)]
    Conductor(#[from] conductor::Error),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl RetryVerdict for Own {
    fn verdict(&self) -> Verdict {
        match self {
            Own::Declined => Verdict::Permanent,
            Own::Conductor(_) | Own::Other(_) => Verdict::Policy,
        }
    }
}
conductor::retry_verdicts!(Own);

fn judged() -> anyhow::Error {
    let failed: anyhow::Result<()> = Err(anyhow!("no such card"));
    failed.permanent().unwrap_err()
}

#[task(name = "verdicts.wraps", retry(max_attempts = 3, backoff = "1h..1h"))]
async fn wraps(ctx: &TaskContext, way: String) -> Result<(), Own> {
    match way.as_str() {
        "transparent" => Err(judged().into()),
        "context" => Err(judged().context("order 7").into()),
        "twice" => Err(anyhow!(Own::from(judged())).into()),
        "arc" => Err(anyhow!(Arc::new(Own::from(judged()))).into()),
        "box" => {
            let boxed: Box<dyn std::error::Error + Send + Sync> = judged().into();
            Err(anyhow!(boxed).into())
        }
        "text" => Err(anyhow!("{:#}", judged()).into()),
        "says it itself" => Err(Own::Declined),
        "says it in a report" => Err(anyhow!(Own::Declined).context("order 7").into()),
        "step" => {
            let body = async || Err::<(), Own>(judged().into());
            Ok(ctx.step("charge", body).await?)
        }
        "step that says it itself" => {
            let body = async || Err::<(), Own>(Own::Declined);
            Ok(ctx.step("charge", body).await.context("charge")?)
        }
        "transaction" => {
            let body = async |_: &mut conductor::Tx| Err::<(), Own>(judged().into());
            Ok(ctx.transaction("charge", body).await?)
        }
        "table" => {
            ctx.wait_for_insert::<Row>("row", "public.nowhere").await?;
            Ok(())
        }
        "policy" => {
            drop(judged());
            Err(anyhow!("no such card").context("the other bank").into())
        }
        "later" => {
            let failed: anyhow::Result<()> = Err(anyhow!("busy"));
            Ok(failed.retry_after(Duration::from_secs(60))?)
        }
        way => Err(anyhow!("unknown way {way}").into()),
    }
}

#[derive(Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Row {
    id: i64,
}

#[conductor::test]
async fn a_verdict_is_heard_behind_whatever_wraps_it(test: TestConductor) -> anyhow::Result<()> {
    let ways = [
        "transparent",
        "context",
        "twice",
        "arc",
        "box",
        "text",
        "says it itself",
        "says it in a report",
        "step",
        "step that says it itself",
        "transaction",
        "table",
    ];
    let mut runs = Vec::new();
    for way in ways {
        let way = way.to_owned();
        runs.push(test.invoke::<Wraps>(Wraps { way }).await?);
    }
    test.drain().await?;
    for (way, run) in ways.iter().zip(&runs) {
        let info = info(&test, run.id()).await?;
        assert_eq!((info.state, info.failures), (Status::Failed, 1), "{way}");
    }
    Ok(())
}

#[conductor::test]
async fn what_was_judged_beside_it_is_no_verdict(test: TestConductor) -> anyhow::Result<()> {
    let way = "policy".to_owned();
    let run = test.invoke::<Wraps>(Wraps { way }).await?;
    let way = "later".to_owned();
    let later = test.invoke::<Wraps>(Wraps { way }).await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Pending);
    test.advance(Duration::from_secs(61)).await?;
    test.drain().await?;
    assert_eq!(info(&test, run.id()).await?.failures, 1);
    assert_eq!(info(&test, later.id()).await?.failures, 2);
    Ok(())
}

#[task(name = "verdicts.kid", retry(max_attempts = 1))]
async fn kid(_ctx: &TaskContext) -> anyhow::Result<()> {
    anyhow::bail!("declined")
}

#[task(name = "verdicts.parent", retry(max_attempts = 3, backoff = "1h..1h"))]
async fn parent(ctx: &TaskContext, way: String) -> Result<(), Own> {
    let kid = ctx.invoke::<Kid>("kid", ()).await;
    match (kid, way.as_str()) {
        (Ok(()), _) => Ok(()),
        (Err(error), "transparent") => Err(error.into()),
        (Err(error), "context") => Err(anyhow::Error::from(error).context("settlement").into()),
        (Err(error), "boxed") => {
            let boxed: Box<dyn std::error::Error + Send + Sync> = error.into();
            Err(anyhow!(boxed).into())
        }
        (Err(error), "text") => Err(anyhow!("settlement failed ({error})").into()),
        (Err(error), _) => Err(anyhow!("the bank is away")
            .context(format!("after {error}"))
            .into()),
    }
}

#[conductor::test]
async fn a_childs_failure_that_is_passed_on_is_permanent(
    test: TestConductor,
) -> anyhow::Result<()> {
    let ways = ["transparent", "context", "boxed", "text", "another"];
    let mut runs = Vec::new();
    for way in ways {
        let way = way.to_owned();
        runs.push(test.invoke::<Parent>(Parent { way }).await?);
    }
    test.drain().await?;
    for (way, run) in ways.iter().zip(&runs) {
        let expected = match *way {
            "another" => Status::Pending,
            _ => Status::Failed,
        };
        let info = info(&test, run.id()).await?;
        assert_eq!((info.state, info.failures), (expected, 1), "{way}");
    }
    Ok(())
}
