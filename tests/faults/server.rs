//! The server itself ends, or can write no more.

use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use conductor::prelude::*;
use sqlx::{Connection, PgConnection};

use super::{Bodies, FaultsLarge, durable_ones, start};
use crate::support::{Server, Shutdown, eventually, soon};

const CHARGED: &str = "select count(*) from conductor.executions where failures + crashes > 0 or state <> 'completed'";

const LIVE: &str = "select count(*) from conductor.live_executions";

async fn ask(server: &Server, query: &'static str) -> anyhow::Result<i64> {
    let mut session = PgConnection::connect(&server.url()).await?;
    Ok(sqlx::query_scalar(query).fetch_one(&mut session).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_in_any_way_delays_only() -> anyhow::Result<()> {
    let mut server = Server::start().await?;
    let client = Conductor::connect_to(&server.url()).await?;
    let bodies = Bodies::default();
    let worker = start(&client, &bodies).await?;
    let ends = async {
        for how in [Shutdown::Killed, Shutdown::Immediate, Shutdown::Fast] {
            tokio::time::sleep(Duration::from_millis(100)).await;
            server.stop(how).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.start_again().await?;
        }
        Ok(())
    };
    durable_ones(&client, 200, &bodies, ends).await?;
    // And what the events have started.
    eventually("the end of all", async || {
        ask(&server, LIVE).await.unwrap() == 0
    })
    .await;
    worker.stop().await?;
    assert_eq!(ask(&server, CHARGED).await?, 0);
    client.pool().close().await;
    Ok(())
}

/// A file system of its own; unmounted with this value.
struct Disk(PathBuf);

impl Disk {
    /// Nothing where this machine or this user may not mount.
    fn mount(size: &str) -> anyhow::Result<Option<Self>> {
        let path = std::env::temp_dir().join(format!("conductor-disk-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&path);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        Ok(mounted.then_some(Self(path)))
    }

    /// Leaves no byte.
    fn fill(&self) -> anyhow::Result<()> {
        let mut filler = File::create(self.filler())?;
        match std::io::copy(&mut File::open("/dev/zero")?, &mut filler) {
            Err(error) if error.kind() == ErrorKind::StorageFull => Ok(()),
            other => anyhow::bail!("{other:?}"),
        }
    }

    fn clear(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a file of the server's may still be open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_delays_outcomes_only() -> anyhow::Result<()> {
    const JOBS: usize = 40;
    let Some(disk) = Disk::mount("160m")? else {
        println!("not tried: no file system can be mounted here");
        return Ok(());
    };
    let server = Server::start_in(&disk.0.join("data")).await?;
    let client = Conductor::connect_to(&server.url()).await?;
    let bodies = Bodies::default();
    let worker = start(&client, &bodies).await?;
    disk.fill()?;
    let jobs =
        client.invoke_batch::<FaultsLarge>((0..JOBS).map(|_| FaultsLarge { bytes: 200_000 }));
    let cleared = async {
        server.says("No space left on device").await;
        disk.clear()
    };
    let (runs, cleared) = tokio::join!(jobs.into_future(), cleared);
    cleared?;
    for id in runs? {
        soon("an outcome", client.outcome(id)).await?;
    }
    worker.stop().await?;
    assert_eq!(ask(&server, CHARGED).await?, 0);
    assert_eq!(bodies.each_once(), JOBS);
    client.pool().close().await;
    Ok(())
}
