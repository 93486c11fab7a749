//! Live migrations: builds with different schema versions on one database, as processes of their own.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::{TestConductor, pretend_functions, pretend_migration};
use conductor::{Conductor, Error, Status};
use sqlx::Connection;

use crate::support::{count, eventually, info, number, orchestrators, run_sql};

const SETTINGS: &str = "CONDUCTOR_TEST_DEPLOY";
const HEARTBEAT: Duration = Duration::from_millis(200);
const LEASE: Duration = Duration::from_secs(2);

/// What the later build's migration does.
const BREAKING: &str = "create table conductor.later (id integer);";
const COMPATIBLE: &str = "create table conductor.later (id integer);";
const SLOW: &str = "create table conductor.later (id integer); select pg_sleep(3);";
const FUNCTION: &str =
    "create or replace function conductor.later() returns integer language sql as 'select 1';";
const WRONG: &str = "create table conductor.later (id integer); select 1/0;";

/// Does a thing in each of three steps and stands in the second one until the test lets it on.
#[task(name = "deploy-steps", retry(max_attempts = 1))]
async fn deploy_steps(ctx: &TaskContext) -> anyhow::Result<u32> {
    let pool = ctx.state::<Conductor>().pool().clone();
    ctx.step("first", || note(&pool, "first")).await?;
    ctx.step("second", || async {
        note(&pool, "second").await?;
        hold(&pool).await
    })
    .await?;
    ctx.step("third", || note(&pool, "third")).await?;
    Ok(std::process::id())
}

async fn note(pool: &sqlx::PgPool, step: &str) -> anyhow::Result<()> {
    sqlx::query("insert into noted (step) values ($1)")
        .bind(step)
        .execute(pool)
        .await?;
    Ok(())
}

async fn hold(pool: &sqlx::PgPool) -> anyhow::Result<()> {
    loop {
        let open: bool = sqlx::query_scalar("select open from gate")
            .fetch_one(pool)
            .await?;
        if open {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a process is, in the words of its settings: `build role`, and what it waits for.
#[derive(Debug, Clone, Copy)]
struct Settings {
    /// old, breaking, compatible, slow, wrong, functions (of a later version), rebuilt (other functions, same version)
    build: &'static str,
    /// work, migrate, drain
    role: &'static str,
    /// How long a migration waits for older processes.
    wait: u64,
    /// How long a shutdown waits for handlers.
    shutdown: u64,
}

const OLD: Settings = Settings {
    build: "old",
    role: "work",
    wait: 60,
    shutdown: 60,
};

/// Such a process; killed with this value.
struct Deployed(Child);

impl Settings {
    fn start(self, test: &TestConductor) -> anyhow::Result<Deployed> {
        let child = Command::new(std::env::current_exe()?)
            .args(["--exact", "deploys::a_process", "--nocapture"])
            .env(
                SETTINGS,
                format!(
                    "{} {} {} {} {}",
                    self.build,
                    self.role,
                    self.wait,
                    self.shutdown,
                    test.url()
                ),
            )
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Deployed(child))
    }
}

impl Deployed {
    /// Whether it ended well, and all that it said.
    async fn ended(mut self) -> anyhow::Result<(bool, String)> {
        eventually("the process's end", || {
            std::future::ready(self.0.try_wait().unwrap().is_some())
        })
        .await;
        let mut said = String::new();
        use std::io::Read;
        self.0.stdout.take().unwrap().read_to_string(&mut said)?;
        self.0.stderr.take().unwrap().read_to_string(&mut said)?;
        Ok((self.0.wait()?.success(), said))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()?
                .success()
        );
        Ok(())
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process itself; does nothing in the suite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process() -> anyhow::Result<()> {
    let Ok(settings) = std::env::var(SETTINGS) else {
        return Ok(());
    };
    let words: Vec<&str> = settings.splitn(5, ' ').collect();
    let [build, role, wait, shutdown, url] = words[..] else {
        anyhow::bail!("malformed settings");
    };
    match build {
        "breaking" => pretend_migration(true, BREAKING),
        "compatible" => pretend_migration(false, COMPATIBLE),
        "slow" => pretend_migration(true, SLOW),
        "wrong" => pretend_migration(true, WRONG),
        "functions" => pretend_functions([99, 0, 0], FUNCTION),
        "rebuilt" => pretend_functions([0, 1, 0], FUNCTION),
        _ => {}
    }
    tracing_subscriber::fmt().with_ansi(false).init();
    let conductor = Conductor::open_url(url).await?;
    let wait = Duration::from_secs(wait.parse()?);
    if role == "migrate" {
        return Ok(conductor.migrate_within(wait).await?);
    }
    let orchestrator = Orchestrator::builder(conductor.clone())
        .heartbeat(HEARTBEAT, LEASE)
        .migration_deadline(wait)
        .shutdown_deadline(Duration::from_secs(shutdown.parse()?))
        .state(conductor)
        .build()?;
    match role {
        "drain" => orchestrator.drain().await?,
        _ => orchestrator.run().await?,
    }
    Ok(())
}

async fn prepared(test: &TestConductor) -> anyhow::Result<()> {
    run_sql(
        test,
        "create table noted (step text); create table gate (open boolean); insert into gate values (false)",
    )
    .await?;
    Ok(())
}

async fn open_gate(test: &TestConductor) -> anyhow::Result<()> {
    Ok(run_sql(test, "update gate set open = true").await?)
}

async fn noted(test: &TestConductor) -> i64 {
    number(test, "select count(*) from noted").await
}

async fn version(test: &TestConductor) -> i64 {
    number(test, "select max(id)::bigint from conductor.migrations").await
}

async fn working(test: &TestConductor, processes: i64) {
    eventually("the processes", || async {
        orchestrators(test).await.unwrap() == processes
    })
    .await;
}

#[conductor::test]
async fn a_breaking_migration_waits_for_older_processes_which_drain_and_exit_0(
    test: TestConductor,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    let before = version(&test).await;
    let run = test.invoke::<DeploySteps>(()).await?;
    let old = OLD.start(&test)?;
    eventually("the second step", || async { noted(&test).await == 2 }).await;
    let newer = Settings {
        build: "breaking",
        ..OLD
    }
    .start(&test)?;
    eventually("the old one is told", || async {
        number(
            &test,
            "select count(drain_for) from conductor.orchestrators",
        )
        .await
            == 1
    })
    .await;
    // It claims no more, and no older one may start; nothing is applied yet.
    let later = test.invoke::<DeploySteps>(()).await?;
    let (well, said) = OLD.start(&test)?.ended().await?;
    assert!(!well && said.contains("deploy a newer build"), "{said}");
    assert_eq!(later.status().await?, Status::Pending);
    assert_eq!(version(&test).await, before);
    assert_eq!(orchestrators(&test).await?, 1);

    open_gate(&test).await?;
    let (well, said) = old.ended().await?;
    assert!(well, "{said}");
    assert!(said.contains("draining, then ending"), "{said}");
    assert!(said.contains("start the newer build"), "{said}");
    assert_eq!(run.result().await?, newer.pid());
    assert_eq!(later.result().await?, newer.pid());
    assert_eq!(version(&test).await, before + 1);
    // Each step once, although the second one's process has gone.
    assert_eq!(noted(&test).await, 6);
    assert_eq!(count(&test, "failures + crashes > 0").await?, 0);
    assert_eq!(
        info(&test, run.id()).await?.claim,
        3,
        "claimed, released, claimed"
    );
    newer.signal("-TERM")?;
    assert!(newer.ended().await?.0);

    // The schema is ahead of this build now.
    match Conductor::connect_to(test.url()).await {
        Err(Error::Schema(text)) => assert!(text.contains("newer build"), "{text}"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[conductor::test]
async fn without_a_notification_the_heartbeat_tells(test: TestConductor) -> anyhow::Result<()> {
    prepared(&test).await?;
    let old = OLD.start(&test)?;
    working(&test, 1).await;
    run_sql(&test, "update conductor.orchestrators set drain_for = 1000").await?;
    let (well, said) = old.ended().await?;
    assert!(well && said.contains("version=1000"), "{said}");
    Ok(())
}

#[conductor::test]
async fn a_compatible_migration_disturbs_nobody(test: TestConductor) -> anyhow::Result<()> {
    prepared(&test).await?;
    let before = version(&test).await;
    let run = test.invoke::<DeploySteps>(()).await?;
    let old = OLD.start(&test)?;
    eventually("the second step", || async { noted(&test).await == 2 }).await;
    let newer = Settings {
        build: "compatible",
        role: "migrate",
        ..OLD
    };
    let (well, said) = newer.start(&test)?.ended().await?;
    assert!(well, "{said}");
    assert_eq!(version(&test).await, before + 1);
    open_gate(&test).await?;
    assert_eq!(run.result().await?, old.pid());
    assert_eq!(info(&test, run.id()).await?.claim, 1);

    // An older build may start on it, and both work side by side.
    let another = OLD.start(&test)?;
    let newer = Settings {
        role: "work",
        ..newer
    }
    .start(&test)?;
    working(&test, 3).await;
    let client = Conductor::connect_to(test.url()).await?;
    let run = client.invoke::<DeploySteps>(()).await?;
    run.result().await?;
    for process in [old, another, newer] {
        process.signal("-TERM")?;
        let (well, said) = process.ended().await?;
        assert!(well, "{said}");
    }
    Ok(())
}

/// The version of the functions that the database has, and whether it has the one that a pretended build adds.
async fn functions(test: &TestConductor) -> anyhow::Result<(Vec<i32>, bool)> {
    let found = "select version, to_regprocedure('conductor.later()') is not null from conductor.function_set";
    Ok(sqlx::query_as(found).fetch_one(test.pool()).await?)
}

#[conductor::test]
async fn functions_of_a_later_build_replace_those_under_older_processes_and_stay(
    test: TestConductor,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    let before = version(&test).await;
    let run = test.invoke::<DeploySteps>(()).await?;
    let old = OLD.start(&test)?;
    eventually("the second step", || async { noted(&test).await == 2 }).await;
    let newer = Settings {
        build: "functions",
        role: "migrate",
        ..OLD
    };
    let (well, said) = newer.start(&test)?.ended().await?;
    assert!(well && said.contains("schema migrated"), "{said}");
    assert_eq!(functions(&test).await?, (vec![99, 0, 0], true));
    assert_eq!(version(&test).await, before);
    open_gate(&test).await?;
    assert_eq!(run.result().await?, old.pid());

    // An older build that starts later works on them and leaves them.
    let another = OLD.start(&test)?;
    working(&test, 2).await;
    old.signal("-TERM")?;
    assert!(old.ended().await?.0);
    let run = test.invoke::<DeploySteps>(()).await?;
    assert_eq!(run.result().await?, another.pid());
    assert_eq!(functions(&test).await?, (vec![99, 0, 0], true));
    let (well, said) = newer.start(&test)?.ended().await?;
    assert!(well && !said.contains("schema migrated"), "{said}");
    another.signal("-TERM")?;
    let (well, said) = another.ended().await?;
    assert!(well, "{said}");
    Ok(())
}

#[conductor::test]
async fn of_two_builds_of_one_version_the_last_to_start_brings_its_functions(
    test: TestConductor,
) -> anyhow::Result<()> {
    let (current, _) = functions(&test).await?;
    assert_eq!(
        current,
        [0, 1, 0],
        "the version of this package; pretend the same one"
    );
    let rebuilt = Settings {
        build: "rebuilt",
        role: "migrate",
        ..OLD
    };
    let (well, said) = rebuilt.start(&test)?.ended().await?;
    assert!(well && said.contains("schema migrated"), "{said}");
    assert_eq!(functions(&test).await?, (current, true));
    let checksum = "select count(*) from conductor.function_set where checksum <> $1";
    let theirs: String = sqlx::query_scalar("select checksum from conductor.function_set")
        .fetch_one(test.pool())
        .await?;
    Conductor::connect_to(test.url()).await?;
    let changed: i64 = sqlx::query_scalar(checksum)
        .bind(theirs)
        .fetch_one(test.pool())
        .await?;
    assert_eq!(changed, 1);
    Ok(())
}

#[conductor::test]
async fn a_process_that_does_not_go_is_named_and_nothing_is_applied(
    test: TestConductor,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    let before = version(&test).await;
    let run = test.invoke::<DeploySteps>(()).await?;
    let old = OLD.start(&test)?;
    eventually("the second step", || async { noted(&test).await == 2 }).await;
    let newer = Settings {
        build: "breaking",
        role: "migrate",
        wait: 1,
        ..OLD
    };
    let (well, said) = newer.start(&test)?.ended().await?;
    assert!(!well);
    for part in [
        "nothing was applied",
        &format!("process {} on", old.pid()),
        &format!("(version {before})"),
        "--wait",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    assert_eq!(version(&test).await, before);
    open_gate(&test).await?;
    assert!(old.ended().await?.0);
    let (well, said) = newer.start(&test)?.ended().await?;
    assert!(well, "{said}");
    assert_eq!(run.status().await?, Status::Pending);
    Ok(())
}

#[conductor::test]
async fn the_shutdown_deadline_ends_a_handler_that_takes_too_long(
    test: TestConductor,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    let run = test.invoke::<DeploySteps>(()).await?;
    let old = Settings { shutdown: 1, ..OLD }.start(&test)?;
    eventually("the second step", || async { noted(&test).await == 2 }).await;
    let newer = Settings {
        build: "breaking",
        ..OLD
    }
    .start(&test)?;
    let (well, said) = old.ended().await?;
    assert!(well && said.contains("deadline is over"), "{said}");
    open_gate(&test).await?;
    assert_eq!(run.result().await?, newer.pid());
    let run = info(&test, run.id()).await?;
    assert_eq!((run.failures, run.crashes), (0, 0));
    Ok(())
}

#[conductor::test]
async fn a_frozen_process_is_waited_for_until_its_lease_is_over_and_ends_when_it_wakes(
    test: TestConductor,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    let before = version(&test).await;
    let run = test.invoke::<DeploySteps>(()).await?;
    let old = OLD.start(&test)?;
    eventually("the second step", || async { noted(&test).await == 2 }).await;
    old.signal("-STOP")?;
    let newer = Settings {
        build: "breaking",
        ..OLD
    }
    .start(&test)?;
    eventually("the newer one works", || async {
        number(
            &test,
            &format!("select count(*) from conductor.orchestrators where version > {before}"),
        )
        .await
            == 1
    })
    .await;
    open_gate(&test).await?;
    assert_eq!(run.result().await?, newer.pid());
    old.signal("-CONT")?;
    let (well, said) = old.ended().await?;
    assert!(well && said.contains("draining, then ending"), "{said}");
    assert_eq!(info(&test, run.id()).await?.claim, 3, "given back, claimed");
    Ok(())
}

#[conductor::test]
async fn a_drain_that_is_ended_for_a_newer_build_says_so(
    test: TestConductor,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    test.invoke::<DeploySteps>(()).await?;
    let drain = Settings {
        role: "drain",
        ..OLD
    }
    .start(&test)?;
    eventually("the second step", || async { noted(&test).await == 2 }).await;
    run_sql(&test, "update conductor.orchestrators set drain_for = 1000").await?;
    eventually("it drains", || async {
        test.invoke::<DeploySteps>(()).await.unwrap();
        count(&test, "state = 'pending'").await.unwrap() > 3
    })
    .await;
    open_gate(&test).await?;
    let (well, said) = drain.ended().await?;
    assert!(!well && said.contains("version 1000"), "{said}");
    Ok(())
}

#[conductor::test]
async fn a_migrator_that_is_killed_leaves_nothing_half_done(
    test: TestConductor,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    let before = version(&test).await;
    let slow = Settings {
        build: "slow",
        role: "migrate",
        ..OLD
    };
    let migrator = slow.start(&test)?;
    eventually("the migration is under way", || async {
        let sleeps = "select count(*) from pg_stat_activity
                       where datname = current_database() and wait_event = 'PgSleep'";
        number(&test, sleeps).await == 1
    })
    .await;
    migrator.signal("-KILL")?;
    migrator.ended().await?;
    assert_eq!(version(&test).await, before);
    // The server finds out when its statement ends; who comes meanwhile waits for the lock.
    let (well, said) = Settings {
        build: "breaking",
        ..slow
    }
    .start(&test)?
    .ended()
    .await?;
    assert!(well, "{said}");
    assert_eq!(version(&test).await, before + 1);
    Ok(())
}

#[conductor::test]
async fn a_migration_that_fails_lets_older_processes_start_again(
    test: TestConductor,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    let before = version(&test).await;
    let old = OLD.start(&test)?;
    working(&test, 1).await;
    let wrong = Settings {
        build: "wrong",
        role: "migrate",
        ..OLD
    };
    let (well, said) = wrong.start(&test)?.ended().await?;
    assert!(!well && said.contains("division by zero"), "{said}");
    assert!(old.ended().await?.0);
    assert_eq!(version(&test).await, before);
    let old = Settings { ..OLD };
    // Until the note on the upgrade is over, at the latest.
    eventually("an older one starts", || async {
        let process = old.start(&test).unwrap();
        let started = async {
            loop {
                if orchestrators(&test).await.unwrap() == 1 {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            started = started => started,
            ended = process.ended() => { ended.unwrap(); false }
        }
    })
    .await;
    Ok(())
}

#[conductor::test]
async fn ten_processes_at_once_bring_a_breaking_migration(
    test: TestConductor,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    open_gate(&test).await?;
    let before = version(&test).await;
    let old = OLD.start(&test)?;
    working(&test, 1).await;
    let runs: Vec<_> = {
        let mut runs = Vec::new();
        for _ in 0..20 {
            runs.push(test.invoke::<DeploySteps>(()).await?);
        }
        runs
    };
    let newer: Vec<Deployed> = (0..10)
        .map(|_| {
            Settings {
                build: "breaking",
                ..OLD
            }
            .start(&test)
        })
        .collect::<Result<_, _>>()?;
    assert!(old.ended().await?.0);
    working(&test, 10).await;
    assert_eq!(version(&test).await, before + 1);
    for run in runs {
        run.result().await?;
    }
    assert_eq!(noted(&test).await, 60);
    for process in newer {
        process.signal("-TERM")?;
        let (well, said) = process.ended().await?;
        assert!(well, "{said}");
    }
    Ok(())
}

/// By hand, what an older process would do between the look of a migrator and its migration.
#[conductor::test]
async fn a_start_waits_for_a_migration_and_looks_again(test: TestConductor) -> anyhow::Result<()> {
    let mut migrator = crate::support::session(&test).await?;
    let mut tx = migrator.begin().await?;
    sqlx::query("select pg_advisory_xact_lock(27988542616855412)")
        .execute(&mut *tx)
        .await?;
    let pool = test.pool().clone();
    let start = tokio::spawn(async move {
        sqlx::query_scalar::<_, i64>(
            "select conductor.start_orchestrator('h', 1, '{}', '{}', '1 minute', '{}', 10)",
        )
        .fetch_one(&pool)
        .await
    });
    eventually("the start waits", || async {
        number(
            &test,
            "select count(*) from pg_locks where locktype = 'advisory' and not granted",
        )
        .await
            == 1
    })
    .await;
    sqlx::query("insert into conductor.migrations (id, name, checksum) values (999, 'later', 'x')")
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    let error = start.await?.unwrap_err();
    assert_eq!(crate::support::sqlstate(&error).as_deref(), Some("CD010"));
    assert_eq!(orchestrators(&test).await?, 0);
    Ok(())
}
