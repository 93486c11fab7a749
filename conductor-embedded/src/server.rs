//! The server: started by the first process, shared by the others.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::binaries::Binaries;
use super::cluster::{Cluster, Postmaster, answers};
use super::environment::Environment;
use super::guard::Guard;
use super::owner::Owner;
use super::process::{poll, running};
use super::{EmbeddedError, Kind};

/// How long a start may take; after a crash it may have to replay a long log.
const READY: Duration = Duration::from_secs(120);
/// How long a server that is still ending may take; it writes what is in memory.
const GONE: Duration = Duration::from_secs(60);
/// A server that is ready for this long without a FIFO was not asked to end: its guard was killed.
const FORGOTTEN: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(5);

/// A running server, and this process's share in it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) binaries: Binaries,
    pub(super) data: PathBuf,
    pub(super) sockets: PathBuf,
    /// Open while this process uses the server.
    _guard: Guard,
}

/// All servers that this process uses, until it ends.
static HELD: Mutex<Vec<Arc<Server>>> = Mutex::new(Vec::new());

/// Joins the running server, or starts it.
pub(super) fn start(kind: Kind, env: &Environment) -> Result<Arc<Server>, EmbeddedError> {
    let owner = Owner::choose()?;
    let binaries = Binaries::find(env, &owner)?;
    let cluster = Cluster::locate(kind, env, &binaries, owner)?;
    let data = cluster.data();
    let held = |server: &&Arc<Server>| server.data == data && answers(&server.sockets);
    let servers = || HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = servers().iter().find(held) {
        return Ok(server.clone());
    }
    let (guard, sockets) = loop {
        if let Some(found) = join_or_start(cluster.clone(), &binaries)? {
            break found;
        }
    };
    tracing::debug!(folder = %data.display(), version = %binaries.version, "embedded Postgres is ready");
    let server = Arc::new(Server {
        binaries,
        data,
        sockets,
        _guard: guard,
    });
    servers().push(server.clone());
    Ok(server)
}

/// Returns `None` if the home folder was removed meanwhile, together with the lock on it.
fn join_or_start(
    mut cluster: Cluster,
    binaries: &Binaries,
) -> Result<Option<(Guard, PathBuf)>, EmbeddedError> {
    let lock = cluster.lock()?;
    let mut guard = match Guard::join(&cluster)? {
        Some(guard) => guard,
        None => {
            let orphan = orphan(&cluster)?;
            if !cluster.is_current(&lock) {
                return Ok(None);
            }
            match &orphan {
                Some(orphan) => cluster.sockets.clone_from(&orphan.sockets),
                None => cluster.owner.private_folder(&cluster.sockets)?,
            }
            Guard::spawn(&cluster, binaries, orphan.map(|orphan| orphan.pid))?
        }
    };
    if !guard.server.is_some_and(running) {
        cluster.prepare(binaries)?;
        guard.start()?;
    }
    let sockets = wait_until_ready(&cluster, &guard)?;
    Ok(Some((guard, sockets)))
}

/// Waits for the end of a server that has no guard to join. A server whose guard was killed does
/// not end; it is returned.
fn orphan(cluster: &Cluster) -> Result<Option<Postmaster>, EmbeddedError> {
    let began = Instant::now();
    let found = poll(GONE, STEP, || match cluster.is_quiet() {
        Ok(true) => Some(Ok(None)),
        Ok(false) => {
            // A guard that ends in order first removes the FIFO.
            let killed = cluster.fifo().exists() || began.elapsed() > FORGOTTEN;
            let server = cluster.postmaster().filter(|server| killed && server.ready);
            server.map(|server| Ok(Some(server)))
        }
        Err(error) => Some(Err(error)),
    });
    found.unwrap_or_else(|| {
        let pid = cluster.postmaster().map(|server| server.pid.to_string());
        Err(EmbeddedError::Busy(format!(
            "an embedded Postgres ({}) has been ending for {} seconds and still holds {}.\n  See {}; end it and start again.",
            pid.map_or("its main process is gone".to_owned(), |pid| format!("process {pid}")),
            GONE.as_secs(),
            cluster.data().display(),
            cluster.log().display(),
        )))
    })
}

/// Returns the folder of the socket once the server can be used.
fn wait_until_ready(cluster: &Cluster, guard: &Guard) -> Result<PathBuf, EmbeddedError> {
    let failed = |reason: String| EmbeddedError::Server {
        reason,
        log: cluster.log(),
        tail: cluster.log_tail(),
    };
    let ready = poll(READY, STEP, || {
        // Read first, so that an end between the two checks is not missed.
        let running = guard.server.is_some_and(running);
        match cluster.postmaster() {
            Some(server) if server.ready && answers(&server.sockets) => Some(Ok(server.sockets)),
            _ if running => None,
            _ => Some(Err(failed(
                "the embedded Postgres ended at its start".to_owned(),
            ))),
        }
    });
    ready.unwrap_or_else(|| {
        let time = READY.as_secs();
        Err(failed(format!(
            "the embedded Postgres was not ready after {time} seconds"
        )))
    })
}
