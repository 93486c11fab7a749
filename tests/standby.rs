//! The way to the database leads to a standby for a while, which takes sessions and writes nothing.

use std::time::Duration;

use conductor::prelude::*;

use conductor::testing::TestConductor;
use nix::sys::signal::Signal;
use sqlx::{Connection, PgConnection};

use crate::cli::Program;
use crate::support::{Proxy, Server, Shutdown, eventually, soon};

#[task(name = "standby.job")]
async fn standby_job(_ctx: &TaskContext, n: u32) -> anyhow::Result<u32> {
    Ok(n)
}

/// With its heartbeats, claims, chores and schedules, a worker has much to say in five seconds.
const LINES: usize = 6;

/// How many sessions of others a server has.
async fn sessions(server: &Server) -> i64 {
    let mut asks = PgConnection::connect(&server.url()).await.unwrap();
    let sessions = "select count(*) from pg_stat_activity
                     where backend_type = 'client backend' and pid <> pg_backend_pid()";
    sqlx::query_scalar(sessions)
        .fetch_one(&mut asks)
        .await
        .unwrap()
}

#[conductor::test]
async fn sessions_of_a_standby_do_not_stay(_test: TestConductor) -> anyhow::Result<()> {
    let mut primary = Server::start().await?;
    let direct = Conductor::connect_to(&primary.url()).await?;
    direct.pool().close().await;
    primary.stop(Shutdown::Fast).await?;
    let standby = Server::standby_of(&primary).await?;
    primary.start_again().await?;
    let direct = Conductor::connect_to(&primary.url()).await?;
    let proxy = Proxy::before(primary.socket()).await?;
    let client = Conductor::connect_to(&proxy.url()).await?;
    let here = Orchestrator::builder(client.clone())
        .build()?
        .start()
        .await?;
    // It says what it meets.
    let program = Program::at(&proxy.url());
    let worker = tokio::task::block_in_place(|| program.worker());
    let job = |n| direct.invoke::<StandbyJob>(StandbyJob { n });
    assert_eq!(soon("a job", job(1).await?.result()).await?, 1);

    // The name leads to the standby, and all sessions end.
    let before = worker.log_lines();
    proxy.lead_to(standby.socket());
    proxy.cut();
    tokio::task::block_in_place(|| worker.says("the database is away"));
    let caller = client.clone();
    let called =
        tokio::spawn(async move { caller.invoke::<StandbyJob>(StandbyJob { n: 2 }).await });
    eventually("sessions of the standby", async || {
        sessions(&standby).await >= 3
    })
    .await;
    // Some heartbeats and twenty tries of each part.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let told = worker.log_since(before);
    // It leads to the primary again; what is open stays open.
    proxy.lead_to(primary.socket());
    assert_eq!(soon("a call", called).await??.result().await?, 2);
    let waiting = job(3).await?;
    assert_eq!(soon("a job", waiting.result()).await?, 3);
    eventually("no sessions of the standby", async || {
        sessions(&standby).await == 0
    })
    .await;
    tokio::task::block_in_place(|| worker.says("the database is back"));

    assert!(told.len() <= LINES, "{told:#?}");
    let away = told
        .iter()
        .filter(|line| line.contains("the database is away"));
    assert_eq!(away.count(), 1, "{told:#?}");
    here.stop().await?;
    worker.signal(Signal::SIGTERM);
    let ended = tokio::task::block_in_place(|| worker.end());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    client.pool().close().await;
    direct.pool().close().await;
    Ok(())
}
