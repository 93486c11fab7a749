//! The embedded Postgres under real processes that come, go and are killed.
//!
//! This binary runs itself again as the processes that use a server: see [`Child`].
#![cfg(all(feature = "embedded", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use conductor_runtime::client::Conductor;
use conductor_runtime::embedded::{Embedded, Kind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, chown};
use sqlx::{Connection, PgConnection};

/// What a child does; not a test when it is not set.
const ROLE: &str = "EMBEDDED_TEST_ROLE";

/// A process that starts or joins a server and holds it until it is told to end.
struct Child {
    process: process::Child,
    url: String,
    data: PathBuf,
    version: String,
    took: Duration,
}

impl Child {
    fn command(folder: &Path, role: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child", "--nocapture"])
            .env(ROLE, role)
            .env("CONDUCTOR_DATA_DIR", folder)
            .env("TMPDIR", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn spawn(folder: &Path, role: &str) -> Child {
        Child::of(&mut Child::command(folder, role)).unwrap()
    }

    /// Waits until the server is there; the child's complaint if it never is.
    fn of(command: &mut Command) -> Result<Child, String> {
        Child::begin(command).ready()
    }

    fn begin(command: &mut Command) -> Child {
        Child {
            process: command.spawn().unwrap(),
            url: String::new(),
            data: PathBuf::new(),
            version: String::new(),
            took: Duration::ZERO,
        }
    }

    fn ready(mut self) -> Result<Child, String> {
        for line in BufReader::new(self.process.stdout.as_mut().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(rest) = line.split("READY ").nth(1) {
                let words: Vec<&str> = rest.split('|').collect();
                self.url = words[0].into();
                self.data = words[1].into();
                self.version = words[2].into();
                self.took = Duration::from_micros(words[3].parse().unwrap());
                return Ok(self);
            }
        }
        let mut complaint = String::new();
        let stderr = self.process.stderr.as_mut().unwrap();
        stderr.read_to_string(&mut complaint).unwrap();
        self.process.wait().unwrap();
        Err(complaint)
    }

    fn signal(mut self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
        self.process.wait().unwrap();
    }

    /// Closes its input: it ends as its role says.
    fn end(mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }

    fn postmaster(&self) -> u32 {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }

    fn guard(&self) -> u32 {
        let file = self.data.parent().unwrap().join("guard.pid");
        fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }

    async fn execute(&self, sql: &'static str) -> Result<u64, sqlx::Error> {
        let mut connection = PgConnection::connect(&self.url).await?;
        let done = sqlx::query(sql).execute(&mut connection).await?;
        Ok(done.rows_affected())
    }
}

/// The body of a child process.
#[tokio::test]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let began = Instant::now();
    let volatile = role.starts_with("volatile");
    let kind = if volatile {
        Kind::Volatile
    } else {
        Kind::Durable
    };
    let server = match Embedded::start(kind).await {
        Ok(server) => server,
        Err(error) => {
            eprintln!("{error}");
            process::exit(1);
        }
    };
    let took = began.elapsed().as_micros();
    let (url, data) = (server.url("postgres"), server.data_dir().display());
    println!("READY {url}|{data}|{}|{took}", server.version());
    drop(server); // the process holds it on its own
    let _ = std::io::stdin().read(&mut [0]);
    if role.ends_with("panic") {
        panic!("as it should");
    }
    if role.ends_with("abort") {
        process::abort();
    }
}

/// The body of a child process that comes as a program does, and ends.
#[tokio::test]
async fn child_connects() {
    if std::env::var(ROLE).is_err() {
        return;
    }
    if let Err(error) = Conductor::connect().await {
        eprintln!("{error}");
        process::exit(1);
    }
}

/// The body of a child process that starts more than once.
#[tokio::test]
async fn child_twice() {
    if std::env::var(ROLE).is_err() {
        return;
    }
    let volatile = || Embedded::start(Kind::Volatile);
    let (one, two) = tokio::join!(volatile(), volatile());
    let (one, three) = (one.unwrap(), volatile().await.unwrap());
    assert_eq!(one.url("x"), two.unwrap().url("x"));
    assert_eq!(one.url("x"), three.url("x"));
}

/// A folder of its own for each test, which other users can enter. Removed at the end; whatever
/// of a server is left by then is a failure.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/tmp/cemb-{}-{count}.", process::id()));
        fs::create_dir(&path).unwrap();
        // Like the system's temporary folder.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o1777)).unwrap();
        Folder(path)
    }

    /// Every process that has to do with this folder, by its command line or working directory.
    fn processes(&self) -> Vec<(u32, String)> {
        let name = self.0.to_str().unwrap();
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let cwd = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            let ours = line.contains(name) || cwd.starts_with(&self.0);
            ours.then(|| (pid, line.chars().take(100).collect()))
        })
        .collect()
    }

    /// The folders that a server has in the temporary folder.
    fn temporary(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().flatten();
        let paths = entries.map(|entry| entry.path());
        paths
            .filter(|path| path.to_string_lossy().contains("/conductor-"))
            .collect()
    }

    /// Waits until no process and no temporary folder is left.
    fn wait_until_clean(&self) {
        until(
            || self.processes().is_empty() && self.temporary().is_empty(),
            || format!("left: {:?} {:?}", self.processes(), self.temporary()),
        );
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (pid, _) in self.processes() {
                let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
            }
        } else {
            self.wait_until_clean();
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn until(condition: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "not within 30 s; {}", otherwise());
        sleep(Duration::from_millis(10));
    }
}

fn kill_process(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    let stat = format!("/proc/{pid}/stat");
    let gone = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z"));
    until(gone, || format!("process {pid} is still there"));
}

#[tokio::test]
async fn durable_data_survives_every_kind_of_end() {
    let folder = Folder::new();
    let first = Child::spawn(&folder.0, "durable");
    first.execute("create table kept (n int)").await.unwrap();
    first.end();
    folder.wait_until_clean();
    for (role, signal) in [
        ("durable", Some(Signal::SIGKILL)),
        ("durable", Some(Signal::SIGTERM)),
        ("durable", Some(Signal::SIGINT)),
        ("durable panic", None),
        ("durable abort", None),
    ] {
        let child = Child::spawn(&folder.0, role);
        child.execute("insert into kept values (1)").await.unwrap();
        match signal {
            Some(signal) => child.signal(signal),
            None => child.end(),
        }
        folder.wait_until_clean();
    }
    let last = Child::spawn(&folder.0, "durable");
    assert_eq!(last.execute("delete from kept").await.unwrap(), 5);
    last.end();
}

#[tokio::test]
async fn volatile_data_is_gone_after_the_last_process() {
    let folder = Folder::new();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let first = Child::spawn(&folder.0, "volatile");
        let second = Child::spawn(&folder.0, "volatile");
        first.execute("create table gone (n int)").await.unwrap();
        assert_eq!(first.postmaster(), second.postmaster());
        first.signal(signal);
        second.execute("insert into gone values (1)").await.unwrap();
        second.signal(signal);
        folder.wait_until_clean();
    }
}

#[tokio::test]
async fn ten_processes_at_once_share_one_server() {
    let folder = Folder::new();
    let begun: Vec<Child> = (0..10)
        .map(|_| Child::begin(&mut Child::command(&folder.0, "volatile")))
        .collect();
    let ready = begun.into_iter().map(|child| child.ready().unwrap());
    let children: Vec<Child> = ready.collect();
    let postmaster = children[0].postmaster();
    for child in &children {
        assert_eq!(child.postmaster(), postmaster);
        child.execute("select 1").await.unwrap();
    }
    let late = Child::spawn(&folder.0, "volatile");
    assert_eq!(late.postmaster(), postmaster);
    println!("joined in {:?}", late.took);
    for child in children {
        child.signal(Signal::SIGKILL);
        assert_eq!(late.postmaster(), postmaster);
    }
    late.execute("select 1").await.unwrap();
    late.end();
}

#[tokio::test]
async fn a_start_while_the_server_is_ending_gets_a_working_one() {
    let folder = Folder::new();
    let mut last = Child::spawn(&folder.0, "durable");
    last.execute("create table kept (n int)").await.unwrap();
    // The next one arrives at many moments of the end of the one before.
    for step in 0..16 {
        let mut next = Child::command(&folder.0, "durable");
        kill(Pid::from_raw(last.process.id() as i32), Signal::SIGKILL).unwrap();
        sleep(Duration::from_millis(step * 3));
        let next = Child::of(&mut next).unwrap();
        last.process.wait().unwrap();
        next.execute("insert into kept values (1)").await.unwrap();
        last = next;
    }
    assert_eq!(last.execute("delete from kept").await.unwrap(), 16);
    last.end();
}

#[tokio::test]
async fn a_server_without_its_guard_is_adopted() {
    let folder = Folder::new();
    let first = Child::spawn(&folder.0, "durable");
    let postmaster = first.postmaster();
    kill_process(first.guard());
    let second = Child::spawn(&folder.0, "durable");
    assert_eq!(second.postmaster(), postmaster);
    // The new guard counts those of the old one too.
    second.signal(Signal::SIGKILL);
    let third = Child::spawn(&folder.0, "durable");
    assert_eq!(third.postmaster(), postmaster);
    first.execute("select 1").await.unwrap();
    // And after everybody and the guard were killed, the server waits for the next one.
    kill_process(third.guard());
    third.signal(Signal::SIGKILL);
    first.signal(Signal::SIGKILL);
    let fourth = Child::spawn(&folder.0, "durable");
    assert_eq!(fourth.postmaster(), postmaster);
    fourth.end();
}

#[tokio::test]
async fn a_start_after_everything_was_killed_works() {
    let folder = Folder::new();
    for role in ["durable", "volatile"] {
        let first = Child::spawn(&folder.0, role);
        first.execute("create table t (n int)").await.unwrap();
        kill_process(first.guard());
        kill_process(first.postmaster());
        first.signal(Signal::SIGKILL);
        let second = Child::spawn(&folder.0, role);
        // Volatile data is worth nothing after an unclean end.
        let kept = second.execute("select from t").await.is_ok();
        assert_eq!(kept, role == "durable");
        second.end();
        folder.wait_until_clean();
    }
}

#[tokio::test]
async fn a_server_that_was_killed_is_started_again_for_all() {
    let folder = Folder::new();
    let first = Child::spawn(&folder.0, "durable");
    let guard = first.guard();
    kill_process(first.postmaster());
    let second = Child::spawn(&folder.0, "durable");
    assert_eq!(second.guard(), guard);
    second.signal(Signal::SIGKILL);
    first.execute("select 1").await.unwrap();
    first.end();
}

#[tokio::test]
async fn a_process_killed_while_it_starts_leaves_nothing() {
    let folder = Folder::new();
    // Before it has a guard it has made no more than these, and they are empty.
    let empty = ["lock", "alive", "fifo"];
    let only_empty = || {
        let folders = folder.temporary().into_iter();
        let inside = folders.flat_map(|f| fs::read_dir(f).into_iter().flatten());
        let mut names = inside.flatten().map(|entry| entry.file_name());
        names.all(|name| empty.iter().any(|known| name == *known))
    };
    for step in [10, 40, 150, 400, 700, 1000] {
        let child = Child::begin(&mut Child::command(&folder.0, "volatile"));
        sleep(Duration::from_millis(step));
        child.signal(Signal::SIGKILL);
        until(
            || folder.processes().is_empty() && only_empty(),
            || format!("left: {:?} {:?}", folder.processes(), folder.temporary()),
        );
    }
    Child::spawn(&folder.0, "volatile").end();
}

#[tokio::test]
async fn starts_in_one_process_are_one_server() {
    let folder = Folder::new();
    let mut command = Child::command(&folder.0, "volatile");
    let output = command.arg("child_twice").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[tokio::test]
async fn as_root_the_server_is_somebody_elses_and_otherwise_ours() {
    let folder = Folder::new();
    let owner = |child: &Child| {
        let status = fs::read_to_string(format!("/proc/{}/status", child.postmaster())).unwrap();
        let line = status.lines().find(|line| line.starts_with("Uid:"));
        let uid = line.unwrap().split_whitespace().nth(1).unwrap();
        uid.parse::<u32>().unwrap()
    };
    let child = Child::spawn(&folder.0, "volatile");
    let us = nix::unistd::geteuid().as_raw();
    assert_eq!(owner(&child) == us, us != 0);
    child.end();
    if us != 0 {
        println!("not root: nothing to compare");
        return;
    }
    // A plain user, with a copy of this binary that it can reach.
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let place = folder.0.join("nobody");
    fs::create_dir(&place).unwrap();
    chown(&place, Some(nobody.uid), Some(nobody.gid)).unwrap();
    let copy = folder.0.join("copy");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut command = Command::new(&copy);
    command
        .args(["--exact", "child", "--nocapture"])
        .env(ROLE, "durable")
        .env("CONDUCTOR_DATA_DIR", place.join("data"))
        .env("TMPDIR", &place)
        .env_remove("HOME")
        .current_dir(&place)
        .uid(nobody.uid.as_raw())
        .gid(nobody.gid.as_raw())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = Child::of(&mut command).unwrap();
    assert_eq!(owner(&child), nobody.uid.as_raw());
    child.execute("select 1").await.unwrap();
    child.end();
}

#[tokio::test]
async fn a_pipe_of_the_output_ends_although_others_use_the_server() {
    let folder = Folder::new();
    let mut first = Child::spawn(&folder.0, "volatile");
    let second = Child::spawn(&folder.0, "volatile");
    drop(first.process.stdin.take());
    // As `cargo test | cat` does: reads until nobody can write any more.
    let mut rest = String::new();
    let mut stdout = first.process.stdout.take().unwrap();
    stdout.read_to_string(&mut rest).unwrap();
    let mut stderr = first.process.stderr.take().unwrap();
    stderr.read_to_string(&mut rest).unwrap();
    first.process.wait().unwrap();
    second.execute("select 1").await.unwrap();
    second.end();
}

#[tokio::test]
async fn a_private_database_of_another_build_says_what_to_remove() {
    let folder = Folder::new();
    let connect = || {
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_connects", "--nocapture"])
            .env(ROLE, "program")
            .env("CONDUCTOR_DATA_DIR", &folder.0)
            .env("TMPDIR", &folder.0)
            .env_remove("DATABASE_URL")
            .output()
            .unwrap();
        let complaint = String::from_utf8(ended.stderr).unwrap();
        ended.status.success().then_some(()).ok_or(complaint)
    };
    assert_eq!(connect(), Ok(()));
    let server = Child::spawn(&folder.0, "durable");
    let changed = "update conductor.migrations set checksum = 'other' where id = 2";
    assert_eq!(server.execute(changed).await.unwrap(), 1);
    let complaint = connect().unwrap_err();
    assert!(complaint.contains("migration 2 is not"), "{complaint}");
    let remedy = format!("rm -r '{}'", server.data.display());
    assert!(complaint.contains(&remedy), "{complaint}");

    let data = server.data.clone();
    server.end();
    folder.wait_until_clean();
    fs::remove_dir_all(data).unwrap();
    assert_eq!(connect(), Ok(()));
}

#[tokio::test]
async fn the_error_for_a_wrong_bin_dir_says_what_is_missing() {
    let folder = Folder::new();
    let refused = |dir: &Path| {
        let mut command = Child::command(&folder.0, "durable");
        Child::of(command.env("PG_BIN_DIR", dir)).err().unwrap()
    };
    let error = refused(&folder.0.join("nowhere"));
    assert!(error.contains("PG_BIN_DIR is /tmp/"), "{error}");
    assert!(error.contains("there is no such folder"), "{error}");
    let empty = folder.0.join("empty");
    fs::create_dir(&empty).unwrap();
    let error = refused(&empty);
    let missing = "`initdb` and `postgres` are missing there";
    assert!(error.contains(missing), "{error}");
    assert!(error.contains("Set it to the folder that holds"), "{error}");
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_its_log() {
    let folder = Folder::new();
    let child = Child::spawn(&folder.0, "durable");
    let conf = child.data.join("postgresql.conf");
    child.end();
    folder.wait_until_clean();
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text}\nno_such_setting = 1\n")).unwrap();
    let mut command = Child::command(&folder.0, "durable");
    let error = Child::of(&mut command).err().unwrap();
    assert!(error.contains("ended at its start"), "{error}");
    assert!(error.contains("no_such_setting"), "{error}");
    folder.wait_until_clean();
    fs::write(&conf, text).unwrap();
    Child::spawn(&folder.0, "durable").end();
}

#[tokio::test]
async fn the_wheel_from_pypi_works() {
    let folder = Folder::new();
    let mut command = Child::command(&folder.0, "volatile");
    command.env("CONDUCTOR_EMBEDDED_BINARIES", "wheel");
    match Child::of(&mut command) {
        Ok(child) => {
            assert!(child.version.starts_with("18."), "{}", child.version);
            child.execute("select 1").await.unwrap();
            child.end();
        }
        Err(error) if error.contains("The download of a private one failed") => {
            println!("skipped, for nothing can be downloaded here: {error}");
        }
        Err(error) => panic!("{error}"),
    }
}
