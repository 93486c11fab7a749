//! G10 with real processes: each tick once, whoever dies.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use conductor::testing::TestConductor;
use conductor::{Conductor, Missed, Orchestrator};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use uuid::Uuid;

use super::{HOUR, Tick, Ticking, outputs, tasks, ticks, word};
#[cfg(target_os = "linux")]
use crate::support::wrong_clock;
use crate::support::{eventually, number, run_sql, session, to_half_past};

const URL: &str = "CONDUCTOR_SCHEDULES_PROCESS";
const NAME: &str = "CONDUCTOR_SCHEDULES_PROCESS_NAME";
const HEARTBEAT: Duration = Duration::from_millis(200);
const LEASE: Duration = Duration::from_secs(2);

/// This binary as a worker of its own; killed with this value.
pub(super) struct Process {
    child: Child,
    /// What its sessions are called.
    name: String,
}

impl Process {
    fn start(test: &TestConductor) -> Self {
        Self::spawn(test, |_| ())
    }

    /// One with a lease, whose wall clock is wrong by hours.
    #[cfg(target_os = "linux")]
    pub(super) async fn with_wrong_clock(test: &TestConductor, hours: i64) -> Self {
        let process = Self::spawn(test, |command| wrong_clock(command, hours));
        // Its own lease, not that of one that was killed before.
        let own = format!(
            "select count(*) from pg_stat_activity where application_name = '{}'",
            process.name
        );
        eventually("its sessions", async || number(test, &own).await > 0).await;
        eventually("the worker", async || living(test).await > 0).await;
        process
    }

    fn spawn(test: &TestConductor, prepare: impl FnOnce(&mut Command)) -> Self {
        let name = Uuid::now_v7().simple().to_string();
        let mut command = Command::new(std::env::current_exe().unwrap());
        prepare(&mut command);
        let child = command
            .args([
                "--exact",
                "schedules::processes::works_until_killed",
                "--nocapture",
            ])
            .env(URL, test.url())
            .env(NAME, &name)
            // As most shells leave it.
            .env_remove("HOSTNAME")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, name }
    }

    async fn started(test: &TestConductor, count: usize) -> Vec<Self> {
        let processes: Vec<Self> = (0..count).map(|_| Self::start(test)).collect();
        eventually("all workers", async || {
            living(test).await == i64::try_from(count).unwrap()
        })
        .await;
        processes
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process itself; does nothing among the tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn works_until_killed() -> anyhow::Result<()> {
    let (Ok(url), Ok(name)) = (std::env::var(URL), std::env::var(NAME)) else {
        return Ok(());
    };
    let options: PgConnectOptions = url.parse()?;
    // Eight of these and their likes share a server.
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .connect_with(options.application_name(&name))
        .await?;
    Orchestrator::builder(Conductor::from_pool(pool))
        .tasks(tasks())
        .heartbeat(HEARTBEAT, LEASE)
        .build()?
        .run()
        .await?;
    Ok(())
}

/// Workers with a lease.
async fn living(test: &TestConductor) -> i64 {
    let sql = "select count(*) from conductor.orchestrators where lease_until > clock_timestamp()";
    number(test, sql).await
}

async fn made(test: &TestConductor, name: &str) -> usize {
    ticks(test, name).await.unwrap().len()
}

/// Each tick of an hourly rule from the first to the last, once.
#[track_caller]
pub(super) fn assert_whole(ticks: &[chrono::DateTime<chrono::Utc>]) {
    for two in ticks.windows(2) {
        assert_eq!((two[1] - two[0]).num_minutes(), 60, "{ticks:?}");
    }
}

#[conductor::test]
async fn eight_processes_and_two_hundred_ticks_make_two_hundred_executions(
    test: Ticking,
) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.drain().await?;
    test.schedule::<Tick>("dynamic", "0 * * * *", word())
        .await?;
    let workers = Process::started(&test, 8).await;
    let hosts = "select count(*) from conductor.orchestrators where host <> ''";
    assert_eq!(number(&test, hosts).await, 8);
    for expected in 1..=200 {
        // All of them are told at once.
        test.advance(HOUR).await?;
        eventually("the tick", async || {
            made(&test, "dynamic").await >= expected
        })
        .await;
    }
    eventually("the static ticks", async || {
        outputs(&test, "from_tick").await.unwrap().len() >= 200
    })
    .await;
    drop(workers);
    let all = ticks(&test, "dynamic").await?;
    assert_eq!(all.len(), 200);
    assert_whole(&all);
    assert_eq!(outputs(&test, "from_tick").await?, vec!["true"; 200]);
    Ok(())
}

#[conductor::test]
async fn a_tick_outlives_the_process_that_makes_it(test: Ticking) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.drain().await?;
    test.schedule::<Tick>("killed", "0 * * * *", word())
        .missed(Missed::All)
        .await?;
    // Who ticks stands here, in the middle of it, as long as the test holds this lock.
    run_sql(
        &test,
        "create function stand() returns trigger language plpgsql as $$
         begin
             if new.trigger->>'name' = 'killed' then
                 perform pg_advisory_xact_lock_shared(77);
             end if;
             return new;
         end $$;
         create trigger stand before insert on conductor.live_executions
            for each row execute function stand();",
    )
    .await?;
    let mut workers = Process::started(&test, 3).await;
    let mut holder = session(&test).await?;
    for round in 1..=6 {
        let mut lock = holder.begin().await?;
        sqlx::query("select pg_advisory_xact_lock(77)")
            .execute(&mut *lock)
            .await?;
        test.advance(HOUR).await?;
        let standing = async || -> Option<(String, i32)> {
            sqlx::query_as(
                "select application_name, pid from pg_stat_activity
                  where datname = current_database() and wait_event = 'advisory'
                    and query like '%conductor.tick(%'",
            )
            .fetch_optional(test.pool())
            .await
            .unwrap()
        };
        eventually("the one that ticks", async || standing().await.is_some()).await;
        let (name, backend) = standing().await.unwrap();
        let at = workers.iter().position(|worker| worker.name == name);
        let mut dead = workers.remove(at.unwrap());
        dead.signal(Signal::SIGKILL);
        dead.child.wait()?;
        // Its transaction may have arrived whole before it died, or not at all.
        if round % 2 == 0 {
            sqlx::query("select pg_terminate_backend($1)")
                .bind(backend)
                .execute(test.pool())
                .await?;
        }
        lock.rollback().await?;
        workers.push(Process::start(&test));
        eventually("the tick", async || made(&test, "killed").await >= round).await;
    }
    drop(workers);
    let all = ticks(&test, "killed").await?;
    assert_eq!(all.len(), 6);
    assert_whole(&all);
    Ok(())
}

#[conductor::test]
async fn after_a_pause_of_the_whole_system_missed_decides(test: Ticking) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.drain().await?;
    let all = [
        ("skip", Missed::Skip),
        ("once", Missed::Once),
        ("all", Missed::All),
    ];
    for (name, missed) in all {
        test.schedule::<Tick>(name, "0 * * * *", word())
            .missed(missed)
            .await?;
    }
    test.drain().await?;
    let counts = async || {
        (
            made(&test, "skip").await,
            made(&test, "once").await,
            made(&test, "all").await,
            outputs(&test, "from_tick").await.unwrap().len(),
        )
    };
    let workers = Process::started(&test, 2).await;
    // They are stopped in the middle of whatever they do, wake up, and look at the clock.
    for worker in &workers {
        worker.signal(Signal::SIGSTOP);
    }
    test.advance(HOUR * 5).await?;
    for worker in &workers {
        worker.signal(Signal::SIGCONT);
    }
    eventually("the ticks", async || counts().await == (0, 1, 5, 5)).await;
    drop(workers);
    // Killed, and started anew.
    test.advance(HOUR * 5).await?;
    eventually("the end of all leases", async || living(&test).await == 0).await;
    let _workers = Process::started(&test, 2).await;
    eventually("the ticks", async || counts().await == (0, 2, 10, 10)).await;
    // On time, every one ticks. A second before it, as this takes its own time.
    let into = test
        .now()
        .await?
        .timestamp()
        .rem_euclid(3600)
        .unsigned_abs();
    test.advance(HOUR - Duration::from_secs(into + 1)).await?;
    eventually("the ticks", async || counts().await == (1, 3, 11, 11)).await;
    Ok(())
}
