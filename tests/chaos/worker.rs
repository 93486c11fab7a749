use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use conductor::{Conductor, Orchestrator};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

use super::journal::{Journal, Mark, Moment};

const URL: &str = "CHAOS_WORKER_URL";
pub const JOURNAL: &str = "CHAOS_WORKER_JOURNAL";
const TIMES: &str = "CHAOS_WORKER_TIMES";

pub const LEASE: Duration = Duration::from_secs(3);

/// How often a lease is renewed, and how long it lasts.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub every: Duration,
    pub lease: Duration,
}

impl Times {
    /// Those that nobody has chosen.
    pub const USUAL: Self = Self {
        every: Duration::from_secs(5),
        lease: Duration::from_secs(15),
    };
    pub const SHORT: Self = Self {
        every: Duration::from_millis(300),
        lease: LEASE,
    };
}

/// A process that works; killed with this value. It ends with the test's process, however that ends.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    log: PathBuf,
    pub paused: bool,
    /// To end.
    pub told: bool,
}

impl Worker {
    pub fn start(url: &str, folder: &Path, times: Times) -> anyhow::Result<Self> {
        let log = folder.join(format!("worker-{}.log", Uuid::now_v7().simple()));
        let file = File::create(&log)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["chaos::worker::works_until_told", "--exact", "--nocapture"])
            .env(URL, url)
            .env(JOURNAL, folder.join("journal"))
            .env(
                TIMES,
                [times.every, times.lease]
                    .map(|of| of.as_millis().to_string())
                    .join(" "),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()?;
        Ok(Self {
            child,
            log,
            paused: false,
            told: false,
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        // It may have ended by itself, which is found elsewhere.
        let _ = kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// When it gave up its lease.
    pub fn lost_leases(&self) -> Vec<Moment> {
        let said = self.said();
        let lines = said.lines().filter(|line| line.contains("lease in doubt"));
        lines
            .map(|line| {
                let at = line.split_whitespace().next().unwrap();
                let at = chrono::DateTime::parse_from_rfc3339(at).unwrap();
                at.timestamp_micros().unsigned_abs()
            })
            .collect()
    }
}

impl Drop for Worker {
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
    std::thread::spawn(|| {
        // Says nothing, and ends with the one that holds its other end.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1)
    });
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .with_env_filter("info,sqlx=error")
        .init();
    let times = std::env::var(TIMES)?;
    let [every, lease] = times
        .split(' ')
        .map(|of| of.parse().map(Duration::from_millis))
        .collect::<Result<Vec<_>, _>>()?[..]
    else {
        anyhow::bail!("no times: {times:?}");
    };
    let journal = Journal::open(Path::new(&std::env::var(JOURNAL)?))?;
    let conductor = Conductor::connect_to(&url).await?;
    journal.note(Mark::Worker, Uuid::nil(), "connected");
    Orchestrator::builder(conductor)
        .heartbeat(every, lease)
        .state(journal)
        .build()?
        .run()
        .await?;
    Ok(())
}
