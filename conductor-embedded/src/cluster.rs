//! The folders of one server: data, runtime files and socket.

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::fcntl::OFlag;

use super::binaries::Binaries;
use super::environment::Environment;
use super::owner::Owner;
use super::process::running;
use super::{EmbeddedError, Kind};

/// The home folder of one server:
///
/// - `lock`: held while a process starts or joins
/// - `alive`: held, shared, by the guard and by every process of Postgres
/// - `fifo`: held open by every process that uses the server
/// - `guard.pid`, `server.log`, `data/`
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub(super) kind: Kind,
    pub(super) home: PathBuf,
    pub(super) sockets: PathBuf,
    pub(super) owner: Owner,
}

/// What Postgres writes about itself in `postmaster.pid`.
#[derive(Debug)]
pub(super) struct Postmaster {
    pub(super) pid: u32,
    pub(super) sockets: PathBuf,
    pub(super) ready: bool,
}

impl Cluster {
    pub(super) fn locate(
        kind: Kind,
        env: &Environment,
        binaries: &Binaries,
        owner: Owner,
    ) -> Result<Cluster, EmbeddedError> {
        // One folder per major version, because none can read the data of another.
        let major = format!("pg{}", binaries.major);
        // The guard must be able to remove what it creates here.
        let temp = match owner.may_remove_from(&env.temp) {
            true => env.temp.clone(),
            false => PathBuf::from("/tmp"),
        };
        let home = match kind {
            Kind::Durable => env.data()?.join(major),
            Kind::Volatile => temp.join(format!("conductor-{}-volatile-{major}", env.uid)),
        };
        let mut hasher = DefaultHasher::new();
        home.hash(&mut hasher);
        let name = format!("conductor-{}-{:012x}", env.uid, hasher.finish() >> 16);
        // The path of a Unix socket may have at most about 100 bytes.
        let short = temp.as_os_str().len() <= 50;
        let temp = if short { temp } else { "/tmp".into() };
        Ok(Cluster {
            kind,
            home,
            sockets: temp.join(name),
            owner,
        })
    }

    pub(super) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.home.join("server.log")
    }

    pub(super) fn fifo(&self) -> PathBuf {
        self.home.join("fifo")
    }

    /// Opens or creates one of the lock files.
    pub(super) fn open(&self, name: &str) -> io::Result<File> {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(OFlag::O_NOFOLLOW.bits()) // the folder may be another user's
            .open(self.home.join(name))
    }

    /// Waits until no other process is starting or joining. The lock ends when the returned file is
    /// dropped.
    pub(super) fn lock(&self) -> Result<File, EmbeddedError> {
        let failed = |error| EmbeddedError::folder(&self.home, "lock this folder", error);
        loop {
            self.owner.private_folder(&self.home)?;
            let lock = match self.open("lock") {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(failed)?,
            };
            lock.lock().map_err(failed)?;
            if self.is_current(&lock) {
                return Ok(lock);
            }
        }
    }

    /// Returns whether this lock is still that of the home folder: a guard removes a volatile one
    /// with its lock.
    pub(super) fn is_current(&self, lock: &File) -> bool {
        let there = fs::metadata(self.home.join("lock"));
        lock.metadata()
            .and_then(|held| Ok((held.ino(), held.dev()) == there.map(|m| (m.ino(), m.dev()))?))
            .unwrap_or(false)
    }

    /// Returns whether neither a guard nor any process of Postgres is left.
    pub(super) fn is_quiet(&self) -> Result<bool, EmbeddedError> {
        match self.open("alive").map(|alive| alive.try_lock()) {
            Ok(Ok(())) => Ok(true),
            Ok(Err(fs::TryLockError::WouldBlock)) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Ok(Err(fs::TryLockError::Error(error))) | Err(error) => {
                Err(EmbeddedError::folder(&self.home, "lock files here", error))
            }
        }
    }

    /// Returns the server that runs here according to its own file.
    pub(super) fn postmaster(&self) -> Option<Postmaster> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().collect();
        let pid = lines.first()?.trim().parse().ok()?;
        running(pid).then(|| Postmaster {
            pid,
            sockets: lines.get(4).map(PathBuf::from).unwrap_or_default(),
            ready: lines.get(7).is_some_and(|state| state.trim() == "ready"),
        })
    }

    /// Prepares the data for a start. No server may be running.
    pub(super) fn prepare(&self, binaries: &Binaries) -> Result<(), EmbeddedError> {
        let failed = |error| EmbeddedError::folder(&self.home, "prepare the data here", error);
        let entries = fs::read_dir(&self.home).map_err(failed)?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let unfinished = name.to_string_lossy().starts_with("data.");
            // Without fsync, data may be corrupt after an unclean end.
            if unfinished || (self.kind == Kind::Volatile && name == "data") {
                fs::remove_dir_all(entry.path()).map_err(failed)?;
            }
        }
        let old = self.home.join("server.log.old");
        match fs::rename(self.log(), old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        if !self.data().exists() {
            self.initdb(binaries)?;
        }
        self.forget_the_dead()
    }

    fn initdb(&self, binaries: &Binaries) -> Result<(), EmbeddedError> {
        let data = self.data();
        let unfinished = self.home.join(format!("data.{}", std::process::id()));
        self.owner.private_folder(&unfinished)?;
        tracing::info!(folder = %data.display(), version = %binaries.version, "making a Postgres cluster");
        let mut initdb = self.owner.command(binaries.dir.join("initdb"));
        initdb.arg("-D").arg(&unfinished).args([
            "-A",
            "trust",
            "-U",
            "postgres",
            "--no-instructions",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        if self.kind == Kind::Volatile {
            initdb.arg("--no-sync");
        }
        let output = initdb.output().map_err(|error| EmbeddedError::Initdb {
            data: data.clone(),
            output: error.to_string(),
        })?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            return Err(EmbeddedError::Initdb {
                data,
                output: String::from_utf8_lossy(&said).trim().to_owned(),
            });
        }
        // Only a complete cluster gets the final name.
        let renamed = fs::rename(&unfinished, &data).and_then(|()| match self.kind {
            Kind::Durable => File::open(&self.home)?.sync_all(),
            Kind::Volatile => Ok(()),
        });
        renamed.map_err(|error| EmbeddedError::folder(&data, "put the new data here", error))
    }

    /// Removes a stale `postmaster.pid`. It may name a process that was killed and not yet reaped,
    /// or, after a restart of a container, a number that another program now has; Postgres would
    /// then refuse to start. It is removed only if that can be verified; Postgres still detects a
    /// living server by its shared memory.
    fn forget_the_dead(&self) -> Result<(), EmbeddedError> {
        for name in [".s.PGSQL.5432", ".s.PGSQL.5432.lock"] {
            let _ = fs::remove_file(self.sockets.join(name)); // the folder is private
        }
        let file = self.data().join("postmaster.pid");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let Some(pid) = text
            .lines()
            .next()
            .and_then(|line| line.trim().parse().ok())
        else {
            return Ok(());
        };
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        if name.is_ok_and(|name| name.trim() != "postgres" || !running(pid)) {
            fs::remove_file(&file)
                .map_err(|error| EmbeddedError::folder(&file, "remove this file", error))?;
        }
        Ok(())
    }

    /// Returns the command line of the server.
    pub(super) fn server(&self, binaries: &Binaries) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec![
            binaries.dir.join("postgres").into(),
            "-D".into(),
            self.data().into(),
            "-k".into(),
            self.sockets.clone().into(),
        ];
        let volatile = [
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            // Many tests run at once, with one or two pools each. The last setting wins.
            "max_connections=500",
        ];
        let settings = [
            "listen_addresses=",
            "port=5432",
            "unix_socket_permissions=0700",
            "max_connections=200",
            "shared_buffers=128MB",
            "logging_collector=off",
            "log_destination=stderr",
        ];
        let volatile = volatile.iter().filter(|_| self.kind == Kind::Volatile);
        for setting in settings.iter().chain(volatile) {
            line.extend(["-c".into(), setting.into()]);
        }
        line
    }

    /// Returns the last lines of the server's log.
    pub(super) fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(12)..];
        tail.iter()
            .map(|line| format!("    {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Returns whether a server accepts connections in this folder.
pub(super) fn answers(sockets: &std::path::Path) -> bool {
    UnixStream::connect(sockets.join(".s.PGSQL.5432")).is_ok()
}
