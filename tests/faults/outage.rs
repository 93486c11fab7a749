//! The database is away for a while: what the log of a worker says, and what a call gives.

use std::time::{Duration, Instant};

use conductor::Error;
use conductor::prelude::*;
use conductor::testing::{TestConductor, run};
use nix::sys::signal::Signal;

use super::FaultsChild;
use crate::cli::Program;
use crate::support::Proxy;

/// With its heartbeats, its claims, its schedules and its listener, a worker would have a thousand
/// things to say.
const LINES: usize = 4;

#[test]
fn a_long_outage_is_told_once_and_ends_a_call_in_plain_words() {
    run(|test: TestConductor| async move {
        let mut proxy = Proxy::of(&test).await.unwrap();
        let program = Program::at(&proxy.url());
        let worker = tokio::task::block_in_place(|| program.worker());
        let client = Conductor::connect_to(&proxy.url()).await.unwrap();
        let call = async |n| client.invoke::<FaultsChild>(FaultsChild { n }).await;
        call(1).await.unwrap();
        let before = worker.log_lines();
        proxy.refuse().await;

        let began = Instant::now();
        let error = call(2).await.unwrap_err();
        let took = began.elapsed();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.starts_with("the database has not answered for"),
            "{text}"
        );
        assert!((29..60).contains(&took.as_secs()), "{took:?}");

        let told = worker.log_since(before);
        proxy.accept().await.unwrap();
        tokio::task::block_in_place(|| worker.says("the database is back"));
        assert!(told.len() <= LINES, "{told:#?}");
        let away = told
            .iter()
            .filter(|line| line.contains("the database is away"));
        assert_eq!(away.count(), 1, "{told:#?}");
        call(3).await.unwrap();
        worker.signal(Signal::SIGTERM);
        let ended = tokio::task::block_in_place(|| worker.end());
        assert_eq!(ended.code, Some(0), "{ended:?}");
    });
}

#[conductor::test]
async fn a_short_outage_delays_a_call(test: TestConductor) -> anyhow::Result<()> {
    let mut proxy = Proxy::of(&test).await?;
    let client = Conductor::connect_to(&proxy.url()).await?;
    client.invoke::<FaultsChild>(FaultsChild { n: 1 }).await?;
    proxy.refuse().await;
    let call = client.invoke::<FaultsChild>(FaultsChild { n: 2 });
    let back = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        proxy.accept().await
    };
    let (called, back) = tokio::join!(call.into_future(), back);
    back?;
    called?;
    Ok(())
}
