use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use conductor::testing::TestConductor;
use conductor::{Conductor, Orchestrator};

use super::eventually;

const URL: &str = "CONDUCTOR_SUITE_PROCESS";
const LOGS: &str = "CONDUCTOR_SUITE_LOGS";
const HEARTBEAT: Duration = Duration::from_millis(200);
const LEASE: Duration = Duration::from_secs(2);

/// A worker in a process of its own; killed when this is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub const LEASE: Duration = LEASE;

    pub fn start(test: &TestConductor) -> anyhow::Result<Self> {
        Self::at(test.url())
    }

    pub fn at(url: &str) -> anyhow::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args([
                "--exact",
                "support::process::works_until_told",
                "--nocapture",
            ])
            .env(URL, url)
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// One that logs into a file.
    pub fn logging(url: &str, log: &Path) -> anyhow::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args([
                "--exact",
                "support::process::works_until_told",
                "--nocapture",
            ])
            .env(URL, url)
            .env(LOGS, "yes")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(log)?)
            .spawn()?;
        Ok(Self(child))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal("-TERM")
    }

    /// SIGSTOP, as when a machine is suspended; `go_on` is SIGCONT.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal("-STOP")
    }

    pub fn go_on(&self) -> anyhow::Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status()?.success());
        Ok(())
    }

    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }

    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let mut ended = None;
        eventually("the process's end", || {
            ended = self.0.try_wait().unwrap();
            std::future::ready(ended.is_some())
        })
        .await;
        Ok(ended.unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.kill();
    }
}

/// The process itself; does nothing in the suite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn works_until_told() -> anyhow::Result<()> {
    let Ok(url) = std::env::var(URL) else {
        return Ok(());
    };
    if std::env::var_os(LOGS).is_some() {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .init();
    }
    let conductor = Conductor::connect_to(&url).await?;
    Orchestrator::builder(conductor.clone())
        .heartbeat(HEARTBEAT, LEASE)
        .state(conductor)
        .build()?
        .run()
        .await?;
    Ok(())
}
