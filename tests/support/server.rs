use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use conductor::embedded::{Embedded, Kind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown, geteuid};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::eventually;

/// A Postgres of the test's own, to be killed and started again. What it has committed survives its
/// own crashes, but not the machine's. It ends with the test's process, however that ends.
#[derive(Debug)]
pub struct Server {
    programs: PathBuf,
    home: PathBuf,
    data: PathBuf,
    /// Beside those that all servers of tests have.
    settings: Vec<String>,
    /// A shell that ends the server when its standard input ends.
    guard: Option<Child>,
}

/// How a server is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Sessions are ended, then it writes what is in memory.
    Fast,
    /// Everything is dropped, as in a crash; the next start recovers.
    Immediate,
    /// SIGKILL of the main process: the others find out by themselves.
    Killed,
}

impl Server {
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_in(&folder()?).await
    }

    /// With these settings of Postgres's, as `name=value`.
    pub async fn start_with(settings: &[String]) -> anyhow::Result<Self> {
        Self::start_set(&folder()?, settings).await
    }

    /// With the data in this folder, which must be empty or absent.
    pub async fn start_in(data: &Path) -> anyhow::Result<Self> {
        Self::start_set(data, &[]).await
    }

    async fn start_set(data: &Path, settings: &[String]) -> anyhow::Result<Self> {
        let programs = Embedded::start(Kind::Volatile).await?.bin_dir().to_owned();
        let home = folder()?;
        own(data)?;
        own(&home)?;
        let made = as_postgres(programs.join("initdb"))
            .arg("-D")
            .arg(data)
            .args([
                "-A",
                "trust",
                "-U",
                "postgres",
                "--no-sync",
                "-E",
                "UTF8",
                "--locale=C",
            ])
            .output()?;
        anyhow::ensure!(made.status.success(), "{made:?}");
        let mut server = Self {
            programs,
            home,
            data: data.to_owned(),
            settings: settings.to_vec(),
            guard: None,
        };
        server.start_again().await?;
        Ok(server)
    }

    /// A copy of another one, which has been ended in good order, that is a standby and follows nobody.
    pub async fn standby_of(other: &Self) -> anyhow::Result<Self> {
        let (data, home) = (folder()?, folder()?);
        own(&home)?;
        let ended = || async { !other.data.join("postmaster.pid").exists() };
        eventually("the other's last write", ended).await;
        let copied = as_postgres("cp")
            .arg("-r")
            .arg(&other.data)
            .arg(&data)
            .output()?;
        anyhow::ensure!(copied.status.success(), "{copied:?}");
        fs::write(data.join("standby.signal"), "")?;
        let mut server = Self {
            programs: other.programs.clone(),
            home,
            data,
            settings: other.settings.clone(),
            guard: None,
        };
        server.start_again().await?;
        Ok(server)
    }

    /// Returns when it answers.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.begin()?;
        // Behind a crash it refuses to start until the last process of the old one is gone.
        eventually("the server's start", || self.began()).await;
        Ok(())
    }

    async fn began(&self) -> bool {
        PgConnection::connect(&self.url()).await.is_ok()
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        self.end_guard();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())?;
        // A server that ends at once is started again: the one before may have left processes.
        let script = r#"exec 3<&0
            (while :; do "$@" </dev/null & echo $! >"$PIDFILE"; wait $!
                 [ -e "$STOPPED" ] && exit; sleep 0.05; done) 3<&- &
            read _ <&3
            touch "$STOPPED"; kill -QUIT $(cat "$PIDFILE"); wait"#;
        let stopped = self.home.join("stopped");
        match fs::remove_file(&stopped) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let guard = as_postgres("/bin/sh")
            .args(["-c", script, "guard"])
            .arg(self.programs.join("postgres"))
            .arg("-D")
            .arg(&self.data)
            .arg("-k")
            .arg(&self.home)
            .args(["-c", "listen_addresses=", "-c", "port=5432"])
            .args(["-c", "fsync=off", "-c", "full_page_writes=off"])
            .args(["-c", "max_connections=200", "-c", "shared_buffers=64MB"])
            .args(self.settings.iter().flat_map(|setting| ["-c", setting]))
            .env("PIDFILE", self.home.join("pid"))
            .env("STOPPED", &stopped)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.guard = Some(guard);
        Ok(())
    }

    /// Ends it; returns when it refuses sessions.
    pub async fn stop(&mut self, how: Shutdown) -> anyhow::Result<()> {
        let signal = match how {
            Shutdown::Fast => Signal::SIGINT,
            Shutdown::Immediate => Signal::SIGQUIT,
            Shutdown::Killed => Signal::SIGKILL,
        };
        fs::write(self.home.join("stopped"), "")?;
        let text = fs::read_to_string(self.home.join("pid"))?;
        kill(Pid::from_raw(text.trim().parse()?), signal)?;
        eventually("the server's end", || async { !self.began().await }).await;
        Ok(())
    }

    /// The address of its database `postgres`, by its socket.
    pub fn url(&self) -> String {
        format!(
            "postgres://postgres@localhost:{}/postgres?host={}",
            self.port(),
            self.home.display()
        )
    }

    pub fn socket(&self) -> PathBuf {
        self.home.join(format!(".s.PGSQL.{}", self.port()))
    }

    fn port(&self) -> &str {
        let mut ports = self
            .settings
            .iter()
            .filter_map(|setting| setting.strip_prefix("port="));
        ports.next_back().unwrap_or("5432")
    }

    /// Waits until its log has this.
    pub async fn says(&self, text: &str) {
        eventually(text, || async {
            fs::read_to_string(self.log()).unwrap().contains(text)
        })
        .await;
    }

    fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    fn end_guard(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end_guard();
        // They lie in the temporary folder at worst.
        let _ = fs::remove_dir_all(&self.data);
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// A name for a new folder, short enough for a socket.
fn folder() -> anyhow::Result<PathBuf> {
    let temp = std::env::temp_dir();
    let temp = if temp.as_os_str().len() > 40 {
        "/tmp".into()
    } else {
        temp
    };
    Ok(temp.join(format!(
        "conductor-{}",
        &Uuid::now_v7().simple().to_string()[12..]
    )))
}

/// Whom Postgres runs as: it refuses root.
fn user() -> Option<User> {
    let other = || {
        let named = |name| User::from_name(name).ok().flatten();
        named("postgres").or_else(|| named("nobody"))
    };
    geteuid().is_root().then(other).flatten()
}

fn as_postgres(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .env("LC_ALL", "C");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    as_server_user(&mut command);
    command
}

/// For programs that refuse root, as Postgres does.
pub fn as_server_user(command: &mut Command) {
    if let Some(user) = user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
}

/// Makes a folder that the server's user can write to.
pub fn own(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path)?;
    if let Some(user) = user() {
        chown(path, Some(user.uid), Some(user.gid))?;
    }
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}
