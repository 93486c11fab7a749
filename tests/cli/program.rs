//! An example as a process of its own.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use conductor::testing::TestConductor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Far more than anything here takes, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs the program against one database.
pub(crate) struct Program {
    example: &'static str,
    url: String,
}

/// What a program that has ended left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A program that runs; killed with this value.
pub(crate) struct Running {
    child: Child,
    out: Stream,
    err: Stream,
}

struct Stream {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Program {
    pub(crate) fn on(test: &TestConductor) -> Self {
        Self::at(test.url())
    }

    pub(crate) fn at(url: &str) -> Self {
        Self::example_at("01_basic", url)
    }

    pub(crate) fn example(example: &'static str, test: &TestConductor) -> Self {
        Self::example_at(example, test.url())
    }

    pub(crate) fn example_at(example: &'static str, url: &str) -> Self {
        Self {
            example,
            url: url.to_owned(),
        }
    }

    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new(path(self.example));
        command
            .args(arguments)
            .env("DATABASE_URL", &self.url)
            .env_remove("RUST_LOG")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn start<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Running {
        Running::from(self.command(arguments))
    }

    /// A worker that has started to claim.
    pub(crate) fn worker(&self) -> Running {
        let worker = self.start(&["worker"]);
        worker.says("worker started");
        worker
    }

    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Ended {
        self.start(arguments).end()
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let running = Running::of(child);
        // It may refuse before it has read everything.
        let _ = stdin.write_all(input);
        drop(stdin);
        running.end()
    }

    /// Runs a command that must do what it is asked, and gives its output without the last line
    /// break.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        ended.out.trim_end_matches('\n').to_owned()
    }
}

impl From<Command> for Running {
    fn from(mut command: Command) -> Self {
        Self::of(command.spawn().unwrap())
    }
}

impl Running {
    fn of(mut child: Child) -> Self {
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self {
            child,
            out: Stream::read(out),
            err: Stream::read(err),
        }
    }

    /// Waits until its output or its log contains this.
    pub(crate) fn says(&self, text: &str) {
        until(
            || self.out.text().contains(text) || self.err.text().contains(text),
            || {
                format!(
                    "{text:?} in {:?} and {:?}",
                    self.out.text(),
                    self.err.text()
                )
            },
        );
    }

    /// What it has printed so far.
    pub(crate) fn out(&self) -> String {
        self.out.text()
    }

    pub(crate) fn log_lines(&self) -> usize {
        self.err.text().lines().count()
    }

    /// What it has logged since it had so many lines.
    pub(crate) fn log_since(&self, lines: usize) -> Vec<String> {
        self.err
            .text()
            .lines()
            .skip(lines)
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let started = Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > DEADLINE {
                panic!(
                    "it does not end: {:?} {:?}",
                    self.out.text(),
                    self.err.text()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Ended {
            code: status.code(),
            out: self.out.all(),
            err: self.err.all(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stream {
    fn read(mut from: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut part) {
                seen.lock().unwrap().extend_from_slice(&part[..read]);
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn all(&mut self) -> String {
        self.reader.take().unwrap().join().unwrap();
        self.text()
    }
}

/// Waits for a condition.
pub(crate) fn until(condition: impl Fn() -> bool, what: impl Fn() -> String) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < DEADLINE,
            "waited in vain for {}",
            what()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// `target/<profile>/examples/<example>`; this test is `target/<profile>/deps/suite-…`.
fn path(example: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let profile = this.parent().and_then(|deps| deps.parent()).unwrap();
    let path = profile.join("examples").join(example);
    assert!(
        path.exists(),
        "{} is missing: `cargo test` builds it, `cargo test --test suite` needs `cargo build --examples` first",
        path.display()
    );
    path
}
