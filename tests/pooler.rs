//! Behind PgBouncer in transaction mode everything works, by polling.
//!
//! Needs the program `pgbouncer`, which .ci/run installs where it can; without it these tests say so and
//! pass.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Conductor, Error, Status};
use sqlx::postgres::PgConnectOptions;

use crate::support::{Process, Proxy, eventually, soon};

#[event]
struct PoolerCalled {
    name: String,
}

#[task(concurrency = 3)]
async fn pooler_square(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    ctx.step("square", || async { anyhow::Ok(n * n) }).await
}

#[task]
async fn pooler_all(ctx: &TaskContext) -> anyhow::Result<i64> {
    let called = ctx
        .wait_for_event::<PoolerCalled>("called")
        .timeout(Duration::from_secs(60))
        .await?;
    ctx.transaction("note", async |tx| {
        sqlx::query("insert into pooler_notes (name) values ($1)")
            .bind(called.name.clone())
            .execute(tx)
            .await
            .map(drop)
    })
    .await?;
    ctx.sleep("pause", Duration::from_millis(10)).await?;
    let squares = ctx
        .invoke_all::<PoolerSquare>("squares", (1..=3).map(|n| PoolerSquare { n }))
        .await?;
    Ok(squares.iter().sum())
}

#[task]
async fn pooler_waits(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.until_cancelled().await;
    Ok(())
}

/// A pgbouncer of this test's own before the test's server.
struct Pooler {
    process: Child,
    folder: std::path::PathBuf,
    url: String,
}

impl Pooler {
    /// None where the program is missing.
    async fn before(test: &TestConductor) -> anyhow::Result<Option<Self>> {
        // The server's user may not look into all of these folders, and then says something else.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut programs = std::env::split_paths(&path).map(|folder| folder.join("pgbouncer"));
        let Some(program) = programs.find(|program| program.is_file()) else {
            eprintln!("pgbouncer is not installed: nothing was tested behind a pooler");
            return Ok(None);
        };
        let direct: PgConnectOptions = test.url().parse()?;
        let host = match direct.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => direct.get_host().to_owned(),
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = std::env::temp_dir().join(format!("conductor-pooler-{port}"));
        fs::create_dir_all(&folder)?;
        let settings = folder.join("pgbouncer.ini");
        // Two sessions for all: whoever relies on having one to itself meets somebody else's.
        fs::write(
            &settings,
            format!(
                "[databases]\n* = host={host} port={} user={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
                 default_pool_size = 2\nmax_client_conn = 500\n",
                direct.get_port(),
                direct.get_username(),
            ),
        )?;
        let mut command = Command::new(program);
        crate::support::as_server_user(&mut command);
        let process = command
            .args(["-q"])
            .arg(&settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let database = direct.get_database().unwrap_or_default();
        let url = format!(
            "postgres://{}@127.0.0.1:{port}/{database}",
            direct.get_username()
        );
        let pooler = Self {
            process,
            folder,
            url,
        };
        eventually("the pooler", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
        })
        .await;
        Ok(Some(pooler))
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[conductor::test]
async fn everything_works_by_polling(test: TestConductor) -> anyhow::Result<()> {
    let Some(pooler) = Pooler::before(&test).await? else {
        return Ok(());
    };
    let client = Conductor::connect_to(&pooler.url).await?;
    sqlx::raw_sql("create table pooler_notes (name text primary key)")
        .execute(test.pool())
        .await?;
    let worker = Orchestrator::builder(Conductor::connect_to(&pooler.url).await?)
        .build()?
        .start()
        .await?;

    let parent = client.invoke::<PoolerAll>(()).await?;
    let many = client
        .invoke_batch::<PoolerSquare>((0..3000).map(|n| PoolerSquare { n }))
        .await?;
    let calls = (0..200).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.invoke::<PoolerSquare>(PoolerSquare { n }).await })
    });
    let calls: Vec<_> = calls.collect();
    let mut singles = Vec::new();
    for call in calls {
        singles.push(call.await??);
    }
    let waiting = client.invoke::<PoolerWaits>(()).await?;
    client
        .emit(PoolerCalled {
            name: "o'Neill".into(),
        })
        .await?;
    client
        .schedule::<PoolerSquare>("each second", "* * * * * *", PoolerSquare { n: 9 })
        .await?;
    assert_eq!(soon("the parent", parent.result()).await?, 14);
    for (n, run) in singles.into_iter().enumerate() {
        let n = i64::try_from(n)?;
        assert_eq!(soon("a single one", run.result()).await?, n * n);
    }
    let last = client.execution::<PoolerSquare>(many[2999]);
    assert_eq!(soon("the last of many", last.result()).await?, 2999 * 2999);
    eventually("the one that waits", || async {
        waiting.status().await.unwrap() == Status::Running
    })
    .await;
    assert!(client.cancel(waiting.id()).reason("enough").await?);
    let cancelled = soon("the cancelled one", waiting.result()).await;
    assert!(matches!(cancelled, Err(Error::Cancelled { .. })));
    eventually("a tick", || async {
        let all = client.schedules().await.unwrap();
        all.iter().any(|schedule| schedule.last_at.is_some())
    })
    .await;
    assert!(client.unschedule::<PoolerSquare>("each second").await?);
    let keyed = client
        .invoke::<PoolerSquare>(PoolerSquare { n: 4 })
        .dedupe_key("four")
        .await?;
    assert_eq!(soon("the keyed one", keyed.result()).await?, 16);
    assert!(client.story(parent.id()).await?.is_some());
    worker.stop().await?;

    let noted: Vec<String> = sqlx::query_scalar("select name from pooler_notes")
        .fetch_all(test.pool())
        .await?;
    assert_eq!(noted, ["o'Neill"]);
    Ok(())
}

/// The schema comes through it too, from several processes at once.
#[conductor::test]
async fn an_empty_database_is_made_ready_through_it(test: TestConductor) -> anyhow::Result<()> {
    let Some(pooler) = Pooler::before(&test).await? else {
        return Ok(());
    };
    crate::support::emptied(&test).await;
    let connecting = (0..5).map(|_| {
        let url = pooler.url.clone();
        tokio::spawn(async move { Conductor::connect_to(&url).await })
    });
    let connecting: Vec<_> = connecting.collect();
    for client in connecting {
        client.await??;
    }
    let client = Conductor::connect_to(&pooler.url).await?;
    let run = client.invoke::<PoolerSquare>(PoolerSquare { n: 3 }).await?;
    Orchestrator::builder(client).build()?.drain().await?;
    assert_eq!(run.result().await?, 9);
    Ok(())
}

/// What it had claimed in an open transaction would be locked for as long as it is frozen.
#[conductor::test]
async fn a_process_that_is_frozen_in_the_middle_of_a_claim_is_recovered(
    test: TestConductor,
) -> anyhow::Result<()> {
    let Some(pooler) = Pooler::before(&test).await? else {
        return Ok(());
    };
    let proxy = Proxy::to(&pooler.url).await?;
    let frozen = Process::at(&proxy.url())?;
    let squares = (0..500).map(|n| PoolerSquare { n });
    let runs = test.invoke_batch::<PoolerSquare>(squares).await?;
    let first = test.execution::<PoolerSquare>(runs[0]);
    soon("the first result", first.result()).await?;
    proxy.hold_behind("conductor.finish_and_claim");
    eventually("a claim", async || proxy.holds()).await;
    frozen.freeze()?;
    let other = Process::start(&test)?;
    for id in runs {
        let run = test.execution::<PoolerSquare>(id);
        soon("the result", run.result()).await?;
    }
    drop(other);
    Ok(())
}
