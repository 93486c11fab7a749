use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use conductor::testing::TestConductor;
use conductor::{Conductor, Orchestrator};

use super::case::Death;
use super::interpreter::BOUNDARIES;
use crate::support::{eventually, number};

const URL: &str = "MODEL_VICTIM_URL";
const BOUNDARY: &str = "MODEL_VICTIM_BOUNDARY";

/// A process that works, and may be killed.
#[derive(Debug)]
pub struct Victim {
    process: Child,
    dies_at: Option<Instant>,
}

impl Victim {
    pub fn start(test: &TestConductor, death: Option<Death>) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args([
                "model::victim::works_until_all_is_done",
                "--exact",
                "--nocapture",
            ])
            .env(URL, test.url())
            .stdout(Stdio::null());
        let mut dies_at = None;
        match death {
            Some(Death::AtBoundary(boundary)) => {
                command.env(BOUNDARY, boundary.to_string());
            }
            Some(Death::After(ms)) => dies_at = Some(Instant::now() + Duration::from_millis(ms)),
            None => {}
        }
        Ok(Self {
            process: command.spawn()?,
            dies_at,
        })
    }

    /// Kills it when its time has come; gives how it ended, once it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.dies_at.is_some_and(|at| at <= Instant::now()) {
            self.process.kill()?;
            return Ok(Some(self.process.wait()?));
        }
        Ok(self.process.try_wait()?)
    }

    /// What it held is due again: its lease need not be waited for.
    pub async fn bury(&self, test: &TestConductor) {
        let pid = i32::try_from(self.process.id()).unwrap();
        // A session of the dead may hold a row for a moment.
        eventually("the burial", || async {
            let expired =
                "update conductor.orchestrators set lease_until = '-infinity' where pid = $1";
            for statement in [expired, "select conductor.recover(99) where $1 > 0"] {
                sqlx::query(statement)
                    .bind(pid)
                    .execute(test.pool())
                    .await
                    .unwrap();
            }
            sqlx::query_scalar(
                "select not exists (select from conductor.orchestrators where pid = $1)",
            )
            .bind(pid)
            .fetch_one(test.pool())
            .await
            .unwrap()
        })
        .await;
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The process itself; does nothing in the suite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn works_until_all_is_done() -> anyhow::Result<()> {
    let Ok(url) = std::env::var(URL) else {
        return Ok(());
    };
    if let Ok(boundary) = std::env::var(BOUNDARY) {
        BOUNDARIES.store(boundary.parse()?, SeqCst);
    }
    let conductor = Conductor::connect_to(&url).await?;
    let worker = Orchestrator::builder(conductor.clone())
        .state(conductor.pool().clone())
        .allow_unserved_queues()
        .build()?
        .start()
        .await?;
    while number(&conductor, "select count(*) from conductor.live_executions").await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    worker.stop().await?;
    Ok(())
}
