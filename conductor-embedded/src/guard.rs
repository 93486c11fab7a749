//! The guard: a small shell process between a server and the processes that use it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::binaries::Binaries;
use super::cluster::Cluster;
use super::process::poll;
use super::{EmbeddedError, Kind};

/// How long an answer of the guard may take; usually milliseconds.
const ANSWER: Duration = Duration::from_secs(20);

/// This process's end of the guard's FIFO. The server stays up while it is open.
#[derive(Debug)]
pub(super) struct Guard {
    hold: File,
    fifo: PathBuf,
    home: PathBuf,
    /// The server's process id, after an answer.
    pub(super) server: Option<u32>,
}

impl Guard {
    /// Joins the guard of this cluster, if there is one that is not about to end.
    pub(super) fn join(cluster: &Cluster) -> Result<Option<Guard>, EmbeddedError> {
        match Guard::open(cluster) {
            Ok(mut guard) => Ok(guard.ask("join")?.then_some(guard)),
            Err(error) if is_unattended(&error) => Ok(None),
            Err(error) => Err(EmbeddedError::folder(
                &cluster.fifo(),
                "open this file",
                error,
            )),
        }
    }

    /// Starts a guard, for a server that is yet to start or for one that has lost its guard.
    pub(super) fn spawn(
        cluster: &Cluster,
        binaries: &Binaries,
        orphan: Option<u32>,
    ) -> Result<Guard, EmbeddedError> {
        let failed =
            |error| EmbeddedError::folder(&cluster.home, "start a guard in this folder", error);
        match mkfifo(&cluster.fifo(), Mode::S_IRUSR | Mode::S_IWUSR) {
            // Processes may still hold the FIFO of a guard that was killed; they count as users.
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        // Opening for reading and writing does not block, and then the two opens below do not
        // either. This process holds its end before the guard exists, so that the guard sees the
        // end whenever it is killed.
        let mut both = File::options()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(cluster.fifo())
            .map_err(failed)?;
        let mut guard = Guard::open(cluster).map_err(failed)?;
        // Discards what was asked of a guard that died before reading it.
        while both.read(&mut [0; 512]).is_ok_and(|read| read > 0) {}
        let input = File::open(cluster.fifo()).map_err(failed)?;
        drop(both);
        let alive = cluster.open("alive").map_err(failed)?;
        alive.lock_shared().map_err(failed)?;
        let kind = match cluster.kind {
            Kind::Durable => "durable",
            Kind::Volatile => "volatile",
        };
        let mut child = cluster
            .owner
            .command("/bin/sh")
            .args(["-c", include_str!("guard.sh"), "conductor-guard"])
            .args([cluster.home.as_path(), cluster.sockets.as_path()])
            .arg(kind)
            .arg(orphan.map(|pid| pid.to_string()).unwrap_or_default())
            .args(cluster.server(binaries))
            .stdin(input)
            .stdout(alive)
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C in the terminal is not for it
            .spawn()
            .map_err(failed)?;
        // Reaps the guard if it ends before this process.
        let collector = thread::Builder::new().name("conductor-guard".to_owned());
        collector.spawn(move || child.wait()).map_err(failed)?;
        if !guard.ask("join")? {
            return Err(EmbeddedError::Busy(format!(
                "the guard of the embedded Postgres in {} ended at once; is /bin/sh usable?",
                cluster.home.display()
            )));
        }
        Ok(guard)
    }

    /// Starts the server, without waiting until it is ready.
    pub(super) fn start(&mut self) -> Result<(), EmbeddedError> {
        if self.ask("start")? {
            return Ok(());
        }
        Err(EmbeddedError::Busy(format!(
            "the guard of the embedded Postgres in {} was ended from outside; start again",
            self.home.display()
        )))
    }

    /// Opens the FIFO for writing without blocking; fails with ENXIO if no guard reads it.
    fn open(cluster: &Cluster) -> io::Result<Guard> {
        let fifo = cluster.fifo();
        Ok(Guard {
            hold: hold(&fifo)?,
            fifo,
            home: cluster.home.clone(),
            server: None,
        })
    }

    /// Returns whether the guard answered; if not, it has ended or is about to. Only an answer
    /// proves that it registered this process before the last other process ended.
    fn ask(&mut self, verb: &str) -> Result<bool, EmbeddedError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("answer.{}.{count}", std::process::id());
        let answer = self.home.join(&name);
        let _ = fs::remove_file(&answer);
        if writeln!(self.hold, "{verb} {name}").is_err() {
            return Ok(false);
        }
        let answered = poll(
            ANSWER,
            Duration::from_millis(1),
            || match fs::read_to_string(&answer) {
                Ok(pid) => Some(Some(pid)),
                Err(_) => hold(&self.fifo).is_err().then_some(None),
            },
        );
        match answered {
            Some(Some(pid)) => {
                let _ = fs::remove_file(&answer);
                self.server = pid.trim().parse().ok();
                Ok(true)
            }
            Some(None) => Ok(false),
            None => Err(EmbeddedError::Busy(format!(
                "the guard of the embedded Postgres does not answer; its process number is in {}.\n  End it with `kill -9` and start again.",
                self.home.join("guard.pid").display()
            ))),
        }
    }
}

fn hold(fifo: &std::path::Path) -> io::Result<File> {
    File::options()
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(fifo)
}

/// Returns whether there is no FIFO, or nothing reads it.
fn is_unattended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(nix::errno::Errno::ENXIO as i32)
}
