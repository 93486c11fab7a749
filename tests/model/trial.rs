use std::time::{Duration, Instant};

use conductor::testing::TestConductor;

use super::case::{Case, Root};
use super::interpreter::ModelRun;
use super::oracle::Oracle;
use super::verdict::differences;
use super::victim::Victim;

/// Far beyond what a case needs.
const PATIENCE: Duration = Duration::from_secs(60);
const PROCESSES: usize = 2;

/// The database of many trials.
pub struct Ground(TestConductor);

impl Ground {
    pub async fn new() -> anyhow::Result<Self> {
        let test = TestConductor::new().await?;
        sqlx::raw_sql(
            "create table effects (number bigint generated always as identity, name text, trace bigint);
             create table violations (id uuid);
             create function violated() returns trigger language plpgsql as $$
             begin
                 insert into public.violations values (old.id);
                 return null;
             end $$;
             create trigger violated after update or delete on conductor.finished_executions
                for each row execute function violated();",
        )
        .execute(test.pool())
        .await?;
        Ok(Self(test))
    }

    /// For the next trial, after one that left nothing alive.
    pub async fn clear(&self) -> anyhow::Result<()> {
        sqlx::raw_sql(
            "truncate effects, conductor.finished_executions, conductor.failures, conductor.steps,
                      conductor.waits",
        )
        .execute(self.0.pool())
        .await?;
        Ok(())
    }
}

/// Runs a case; what differs from the model is the error.
pub async fn trial(Ground(test): &Ground, case: &Case) -> anyhow::Result<()> {
    let mut oracle = Oracle::default();
    let mut cancels = Vec::new();
    for (n, root) in case.roots.iter().enumerate() {
        let path = format!("r{n}/");
        oracle.add(&path, &root.program, root.cancelled_after.is_some());
        cancels.push(start(test, path, root).await?);
    }
    match case.deaths.is_empty() {
        true => work(test).await?,
        false => work_and_die(test, case).await?,
    }
    for cancel in cancels {
        cancel.await??;
    }
    let differences = differences(test, &oracle, !case.deaths.is_empty()).await?;
    anyhow::ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

type Cancel = tokio::task::JoinHandle<anyhow::Result<()>>;

async fn start(test: &TestConductor, path: String, root: &Root) -> anyhow::Result<Cancel> {
    let program = root.program.clone();
    let run = test.invoke::<ModelRun>(ModelRun { path, program }).await?;
    let conductor = (**test).clone();
    let after = root.cancelled_after.map(Duration::from_millis);
    Ok(tokio::spawn(async move {
        if let Some(after) = after {
            tokio::time::sleep(after).await;
            conductor.cancel(run.id()).reason("from outside").await?;
        }
        Ok(())
    }))
}

/// Works in this process until nothing lives.
async fn work(test: &TestConductor) -> anyhow::Result<()> {
    let worker = test
        .orchestrator()
        .state(test.pool().clone())
        .allow_unserved_queues()
        .build()?
        .start()
        .await?;
    let began = Instant::now();
    while !step(test).await? {
        anyhow::ensure!(began.elapsed() < PATIENCE, "it does not end");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    worker.stop().await?;
    Ok(())
}

/// Works in processes that die one after the other, until nothing lives.
async fn work_and_die(test: &TestConductor, case: &Case) -> anyhow::Result<()> {
    let mut deaths = case.deaths.iter().copied();
    let mut victims = Vec::new();
    for _ in 0..PROCESSES {
        victims.push(Victim::start(test, deaths.next())?);
    }
    let began = Instant::now();
    while !step(test).await? {
        anyhow::ensure!(began.elapsed() < PATIENCE, "it does not end");
        for victim in &mut victims {
            if victim.ended()?.is_some() {
                victim.bury(test).await;
                *victim = Victim::start(test, deaths.next())?;
            }
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    Ok(())
}

/// Moves the clock to what comes next where nothing is due; true when nothing lives any more.
async fn step(test: &TestConductor) -> anyhow::Result<bool> {
    let (live, due, next): (i64, i64, Option<i64>) = sqlx::query_as(
        "select count(*), count(*) filter (where l.run_at <= n.now),
                (extract(epoch from min(l.run_at) filter (where l.run_at < 'infinity') - max(n.now))
                    * 1000000)::bigint
           from conductor.now() as n(now) left join conductor.live_executions l on true
          where l.id is not null",
    )
    .fetch_one(test.pool())
    .await?;
    if live > 0 && due == 0 {
        let Some(micros) = next else {
            anyhow::bail!("{live} executions wait for ever");
        };
        test.advance(Duration::from_micros(micros.max(0).unsigned_abs() + 1))
            .await?;
    }
    Ok(live == 0)
}
