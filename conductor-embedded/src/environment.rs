//! What the search for binaries and the folders depend on, as a value that tests can construct.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::EmbeddedError;

/// The parts of the process's environment that this module reads.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    pub(super) uid: u32,
    pub(super) bin_dir: Option<PathBuf>,
    pub(super) binaries: Option<OsString>,
    pub(super) path: OsString,
    /// Patterns of folders; see [`matching`].
    pub(super) installed: Vec<PathBuf>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) data_home: Option<PathBuf>,
    pub(super) cache_home: Option<PathBuf>,
    pub(super) temp: PathBuf,
    pub(super) project: String,
}

impl Environment {
    pub(super) fn read() -> Environment {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        // Made absolute, because it is also used from other working directories.
        let folder = |name: &str| set(name).map(|v| std::path::absolute(&v).unwrap_or(v.into()));
        let under_home = |rest: &str| env::home_dir().map(|home| home.join(rest));
        let root = geteuid().is_root();
        // The user that runs Postgres cannot enter root's own folders.
        let (data_home, cache_home) = if root {
            (Some("/var/lib".into()), Some("/var/cache".into()))
        } else {
            (
                folder("XDG_DATA_HOME").or_else(|| under_home(".local/share")),
                folder("XDG_CACHE_HOME").or_else(|| under_home(".cache")),
            )
        };
        let current = env::current_dir().unwrap_or_default();
        let project = set("CONDUCTOR_PROJECT")
            .or_else(|| current.file_name().map(OsStr::to_owned))
            .unwrap_or_default();
        Environment {
            uid: geteuid().as_raw(),
            bin_dir: folder("PG_BIN_DIR"),
            binaries: set("CONDUCTOR_EMBEDDED_BINARIES"),
            path: set("PATH").unwrap_or_default(),
            installed: INSTALLED.iter().map(PathBuf::from).collect(),
            data_dir: folder("CONDUCTOR_DATA_DIR"),
            data_home,
            cache_home,
            temp: std::path::absolute(env::temp_dir()).unwrap_or_else(|_| "/tmp".into()),
            project: sanitised(&project.to_string_lossy()),
        }
    }

    /// Returns the folder of this project's durable data.
    pub(super) fn data(&self) -> Result<PathBuf, EmbeddedError> {
        match (&self.data_dir, &self.data_home) {
            (Some(dir), _) => Ok(dir.clone()),
            (None, Some(home)) => Ok(home.join("conductor").join(&self.project)),
            (None, None) => Err(EmbeddedError::Setting(
                "no folder for the data: this user has no home folder.\n  Set CONDUCTOR_DATA_DIR, or set DATABASE_URL to a running Postgres.".to_owned(),
            )),
        }
    }

    /// Returns the program of this name in PATH.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        self.path_folders()
            .map(|folder| folder.join(name))
            .find(|file| file.is_file())
    }

    pub(super) fn path_folders(&self) -> impl Iterator<Item = PathBuf> + '_ {
        env::split_paths(&self.path).filter(|folder| folder.is_absolute())
    }
}

/// The folders of packaged PostgreSQL: Debian's, the PostgreSQL project's, Homebrew's,
/// Postgres.app's.
const INSTALLED: [&str; 6] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/usr/local/pgsql*/bin",
];

/// Returns the folders that match a pattern of [`INSTALLED`], with the number at the star.
pub(super) fn matching(pattern: &Path) -> Vec<(u32, PathBuf)> {
    let Some((dir, last)) = pattern.parent().zip(pattern.file_name()) else {
        return Vec::new();
    };
    let starred = dir.file_name().unwrap_or_default().to_string_lossy();
    let prefix = starred.trim_end_matches('*');
    let entries = dir.parent().and_then(|parent| parent.read_dir().ok());
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let rest = name.to_str()?.strip_prefix(prefix)?;
            let number = rest.split('.').next()?.parse().unwrap_or(0);
            Some((number, entry.path().join(last)))
        })
        .collect()
}

/// Returns a name that is valid for a folder, and for a database without quotes.
fn sanitised(name: &str) -> String {
    let words: Vec<&str> = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let mut name = words.join("_").to_ascii_lowercase();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert_str(0, "p_");
    }
    name.truncate(63); // the longest name in Postgres
    match name.as_str() {
        "" => "conductor".to_owned(),
        "template0" | "template1" => format!("{name}_app"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_name_is_a_database_name() {
        assert_eq!(sanitised("My App-2"), "my_app_2");
        assert_eq!(sanitised("2048"), "p_2048");
        assert_eq!(sanitised("../etc"), "etc");
        assert_eq!(sanitised("日本"), "conductor");
        assert_eq!(sanitised("template1"), "template1_app");
        assert_eq!(sanitised(&"x".repeat(100)).len(), 63);
    }
}
