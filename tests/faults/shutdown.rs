//! An orderly end while the way to the database breaks.

use std::time::{Duration, Instant};

use conductor::testing::TestConductor;
use sqlx::PgConnection;

use crate::support::{
    Process, Proxy, eventually, kill_sessions, number, orchestrators, run_sql, session,
};

/// More than a few tries take, less than a lease and whatever waits for one.
const PROMPT: Duration = Duration::from_secs(10);

const SIGNING_OFF: &str = "select count(*) from pg_stat_activity
     where datname = current_database() and query like '%stop_orchestrator%' and wait_event = 'advisory'";

const LEASES: &str = "select count(*) from conductor.orchestrators";

/// As the sessions of the test's client are dead.
async fn ask(spared: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(spared).await.unwrap()
}

/// All sessions end, whatever they do: the process has said that it ends, and is told nothing back.
#[conductor::test]
async fn a_sign_off_whose_session_ends_is_made_again(test: TestConductor) -> anyhow::Result<()> {
    // Where the row is removed, it waits for the test.
    run_sql(
        &test,
        "create function wait_for_test() returns trigger language plpgsql as
             $$ begin perform pg_advisory_xact_lock(1); return old; end $$;
         create trigger wait_for_test before delete on conductor.orchestrators
             for each row execute function wait_for_test()",
    )
    .await?;
    let mut process = Process::start(&test)?;
    let mut spared = session(&test).await?;
    let leased = async || orchestrators(&test).await.unwrap() == 1;
    eventually("the lease", leased).await;
    sqlx::query("select pg_advisory_lock(1)")
        .execute(&mut spared)
        .await?;
    process.terminate()?;
    eventually("the sign-off", || async {
        number(&test, SIGNING_OFF).await == 1
    })
    .await;
    let began = Instant::now();
    kill_sessions(&mut spared).await?;
    sqlx::query("select pg_advisory_unlock(1)")
        .execute(&mut spared)
        .await?;
    assert_eq!(process.ended().await?.code(), Some(0));
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
    assert_eq!(ask(&mut spared, LEASES).await, 0);
    Ok(())
}

/// All connections of its pool are dead, and it does not know.
#[conductor::test]
async fn an_end_with_dead_connections_is_an_orderly_one(test: TestConductor) -> anyhow::Result<()> {
    let mut process = Process::start(&test)?;
    let leased = async || orchestrators(&test).await.unwrap() == 1;
    eventually("the lease", leased).await;
    let mut spared = session(&test).await?;
    let began = Instant::now();
    kill_sessions(&mut spared).await?;
    process.terminate()?;
    kill_sessions(&mut spared).await?;
    assert_eq!(process.ended().await?.code(), Some(0));
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
    assert_eq!(ask(&mut spared, LEASES).await, 0);
    Ok(())
}

/// The server has heard it, and whoever told it is cut off; or nobody is to be told.
#[conductor::test]
async fn an_end_that_nobody_answers_to_comes_all_the_same(
    test: TestConductor,
) -> anyhow::Result<()> {
    let mut proxy = Proxy::of(&test).await?;
    let mut process = Process::at(&proxy.url())?;
    let leased = async || orchestrators(&test).await.unwrap() == 1;
    eventually("the lease", leased).await;
    proxy.lose_answers("stop_orchestrator", 2);
    let began = Instant::now();
    process.terminate()?;
    assert_eq!(process.ended().await?.code(), Some(0));
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
    assert_eq!((proxy.lost(), orchestrators(&test).await?), (2, 0));

    let mut process = Process::at(&proxy.url())?;
    eventually("the lease", leased).await;
    proxy.refuse().await;
    process.terminate()?;
    assert_eq!(process.ended().await?.code(), Some(0));
    // Any other process takes the lease away once it is over; where a connection that was about to be made
    // has got through, it was given back.
    eventually("the lease's end", || async {
        run_sql(&test, "select conductor.recover(5)").await.unwrap();
        orchestrators(&test).await.unwrap() == 0
    })
    .await;
    Ok(())
}
