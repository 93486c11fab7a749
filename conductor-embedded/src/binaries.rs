//! Finds the programs of PostgreSQL on this machine.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::environment::{Environment, matching};
use super::owner::Owner;
use super::{EmbeddedError, wheel};

const OLDEST: u32 = 14;

/// A folder with `initdb` and `postgres` that was tested.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) version: String,
    pub(super) major: u32,
}

impl Binaries {
    /// Returns those of `PG_BIN_DIR`, or else the first usable ones in PATH, in known folders, or
    /// from PyPI.
    pub(super) fn find(env: &Environment, owner: &Owner) -> Result<Binaries, EmbeddedError> {
        let forced = match &env.binaries {
            Some(choice) if choice == "wheel" => true,
            Some(choice) => {
                return Err(EmbeddedError::Setting(format!(
                    "CONDUCTOR_EMBEDDED_BINARIES is {choice:?}, but the only value it knows is `wheel`"
                )));
            }
            None => false,
        };
        let mut rejected = Vec::new();
        if !forced {
            if let Some(dir) = &env.bin_dir {
                return Binaries::try_out(dir, owner).map_err(|reason| EmbeddedError::BinDir {
                    dir: dir.clone(),
                    reason,
                });
            }
            let mut seen = HashSet::new();
            // Lazily: the first usable folder ends the search, and pg_config is a separate process.
            let sources: [fn(&Environment) -> Vec<PathBuf>; 3] = [in_path, of_pg_config, installed];
            for dir in sources.iter().flat_map(|source| source(env)) {
                if seen.insert(dir.clone()) {
                    match Binaries::try_out(&dir, owner) {
                        Ok(found) => return Ok(found),
                        Err(reason) => rejected.push(format!("{}: {reason}", dir.display())),
                    }
                }
            }
        }
        wheel::install(env, owner)
            .and_then(|dir| Binaries::try_out(&dir, owner))
            .map_err(|download| EmbeddedError::NoBinaries { rejected, download })
    }

    /// Tests the folder, or returns why it cannot be used, in words that follow "but".
    fn try_out(dir: &Path, owner: &Owner) -> Result<Binaries, String> {
        if !dir.is_dir() {
            return Err("there is no such folder".to_owned());
        }
        let missing: Vec<&str> = ["initdb", "postgres"]
            .into_iter()
            .filter(|name| !dir.join(name).is_file())
            .collect();
        match missing.as_slice() {
            [] => {}
            [one] => return Err(format!("`{one}` is missing there")),
            both => return Err(format!("`{}` are missing there", both.join("` and `"))),
        }
        owner.may_enter(dir).map_err(|part| {
            format!(
                "the user who runs Postgres for root cannot enter {}",
                part.display()
            )
        })?;
        let asked = owner
            .command(dir.join("postgres"))
            .arg("--version")
            .output();
        let asked = asked.map_err(|error| format!("`postgres --version` fails: {error}"))?;
        let said = String::from_utf8_lossy(&asked.stdout);
        let version = version_in(&said).ok_or_else(|| {
            let complaint = String::from_utf8_lossy(&asked.stderr);
            format!(
                "`postgres --version` says {:?}",
                format!("{said}{complaint}").trim()
            )
        })?;
        let digits = version.split(|c: char| !c.is_ascii_digit()).next();
        match digits.and_then(|digits| digits.parse().ok()) {
            Some(major) if major >= OLDEST => Ok(Binaries {
                dir: dir.to_owned(),
                version: version.to_owned(),
                major,
            }),
            _ => Err(format!("its version is {version}, older than {OLDEST}")),
        }
    }
}

/// Returns the number in `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`.
fn version_in(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("(PostgreSQL) ")?;
    rest.split_whitespace()
        .next()
        .filter(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

fn in_path(env: &Environment) -> Vec<PathBuf> {
    // PATH may have a link to one of the programs; the others are next to its target.
    env.path_folders()
        .filter_map(|folder| fs::canonicalize(folder.join("initdb")).ok())
        .filter_map(|file| file.parent().map(Path::to_owned))
        .collect()
}

fn of_pg_config(env: &Environment) -> Vec<PathBuf> {
    let answer = env
        .program("pg_config")
        .and_then(|program| Command::new(program).arg("--bindir").output().ok())
        .and_then(|output| String::from_utf8(output.stdout).ok());
    answer
        .map(|dir| PathBuf::from(dir.trim()))
        .filter(|dir| dir.is_dir())
        .into_iter()
        .collect()
}

fn installed(env: &Environment) -> Vec<PathBuf> {
    let mut found: Vec<_> = env
        .installed
        .iter()
        .flat_map(|pattern| matching(pattern))
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, dir)| dir).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// An environment without any PostgreSQL.
    fn bare(name: &str) -> Environment {
        let folder = std::env::temp_dir().join(format!("conductor-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let mut env = Environment::read();
        env.bin_dir = None;
        env.binaries = None;
        env.path = "".into();
        env.installed = Vec::new();
        env.cache_home = Some(folder.join("cache"));
        env.temp = folder;
        env
    }

    fn fake(folder: &Path, version: &str) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        for name in ["initdb", "postgres"] {
            let script = format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n");
            fs::write(folder.join(name), script).unwrap();
            let everybody = fs::Permissions::from_mode(0o755);
            fs::set_permissions(folder.join(name), everybody).unwrap();
        }
        folder.to_owned()
    }

    fn find(env: &Environment) -> Result<Binaries, String> {
        let owner = Owner::choose().unwrap();
        let found = Binaries::find(env, &owner).map_err(|error| error.to_string());
        let _ = fs::remove_dir_all(&env.temp);
        found
    }

    #[test]
    fn without_any_binaries_the_error_says_what_to_do() {
        let error = find(&bare("nothing")).unwrap_err();
        for part in [
            "no PostgreSQL 14 or later",
            "`uv`, `pip` or `python3` with pip, and none is in PATH",
            "set DATABASE_URL",
            "apt install postgresql",
            "brew install postgresql",
            "set PG_BIN_DIR",
        ] {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }

    #[test]
    fn the_highest_installed_version_wins() {
        let mut env = bare("highest");
        for version in ["9.6", "14", "17", "16"] {
            fake(&env.temp.join(version).join("bin"), &format!("{version}.1"));
        }
        env.installed = vec![env.temp.join("*").join("bin")];
        let found = find(&env).unwrap();
        assert_eq!((found.major, found.version.as_str()), (17, "17.1"));
    }

    #[test]
    fn what_is_too_old_or_half_there_is_named() {
        let mut env = bare("old");
        let old = fake(&env.temp.join("old"), "13.4 (Debian 13.4-1)");
        let half = fake(&env.temp.join("half"), "15.1");
        fs::remove_file(half.join("postgres")).unwrap();
        env.path = std::env::join_paths([old, half]).unwrap();
        let error = find(&env).unwrap_err();
        assert!(
            error.contains("/old: its version is 13.4, older than 14."),
            "{error}"
        );
        assert!(
            error.contains("/half: `postgres` is missing there."),
            "{error}"
        );
    }

    #[test]
    fn versions_are_read_from_what_postgres_says() {
        let debian = "postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n";
        assert_eq!(version_in(debian), Some("15.13"));
        assert_eq!(version_in("postgres (PostgreSQL) 19devel"), Some("19devel"));
        assert_eq!(version_in("command not found"), None);
    }
}
