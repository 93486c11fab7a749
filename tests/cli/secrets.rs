//! A password that stands in an address is in no line that a process prints, at the highest level of its log.

use std::net::TcpListener;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use sqlx::{Connection, PgConnection};

use super::program::{Ended, Program, Running};
use crate::support::{Server, own};

/// Any part of one of the passwords, as it is or percent-encoded, has this.
const MARK: &str = "Qz7";
const PASSWORD: &str = "Qz7head/Qz7mid@Qz7ö%Qz7 tail?Qz7&=#:Qz7";
const ENCODED: &str = "Qz7head%2FQz7mid%40Qz7%C3%B6%25Qz7%20tail%3FQz7%26%3D%23%3AQz7";

/// A server that wants passwords, over a network.
struct Guarded {
    _server: Server,
    port: u16,
    folder: PathBuf,
}

impl Guarded {
    async fn start() -> anyhow::Result<Self> {
        let port = free_port()?;
        let folder = std::env::temp_dir().join(format!("conductor-secrets-{port}"));
        own(&folder)?;
        let rules = folder.join("hba");
        // Of one role the password itself goes over the wire.
        std::fs::write(
            &rules,
            "local all postgres trust\nhost all ann 127.0.0.1/32 scram-sha-256\nhost all bob 127.0.0.1/32 password\n",
        )?;
        let server = Server::start_with(&[
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            format!("hba_file={}", rules.display()),
        ])
        .await?;
        let mut owner = PgConnection::connect(&server.url()).await?;
        for role in ["ann", "bob"] {
            let make = format!("create role {role} superuser login password '{PASSWORD}'");
            sqlx::raw_sql(sqlx::AssertSqlSafe(make))
                .execute(&mut owner)
                .await?;
        }
        Ok(Self {
            _server: server,
            port,
            folder,
        })
    }

    fn url(&self, user: &str) -> String {
        format!(
            "postgres://{user}:{ENCODED}@127.0.0.1:{}/postgres",
            self.port
        )
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // It lies in the temporary folder at worst.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// With everything in the log.
fn start(url: &str, listen: &str, arguments: &[&str]) -> Running {
    let mut command = Program::at(url).command(arguments);
    command
        .env("RUST_LOG", "trace")
        .env("RUST_BACKTRACE", "full")
        .env("CONDUCTOR_LISTEN_URL", listen);
    Running::from(command)
}

#[track_caller]
fn silent(ended: &Ended, of: &str) {
    for text in [&ended.out, &ended.err] {
        let line = text.lines().find(|line| line.contains(MARK));
        assert_eq!(line, None, "{of}");
    }
}

fn ends(url: &str, listen: &str, arguments: &[&str], code: i32) -> Ended {
    let ended = start(url, listen, arguments).end();
    let of = format!("{url} {arguments:?}");
    assert_eq!(ended.code, Some(code), "{of}: {ended:?}");
    silent(&ended, &of);
    ended
}

/// A worker that works, and is told to end.
fn works(url: &str, listen: &str, warning: &str) {
    let worker = start(url, listen, &["worker"]);
    worker.says("worker started");
    worker.says(warning);
    let result = ends(url, listen, &["invoke", "greet", "name=Ann", "--wait"], 0);
    assert_eq!(result.out, "\"Hello, Ann!\"\n");
    worker.signal(Signal::SIGTERM);
    let ended = worker.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    silent(&ended, url);
    // Else nothing was tried.
    assert!(ended.err.contains("DEBUG"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_works_tells_no_password() -> anyhow::Result<()> {
    let guarded = Guarded::start().await?;
    let (ann, bob) = (guarded.url("ann"), guarded.url("bob"));
    tokio::task::block_in_place(|| {
        ends(&ann, "", &["migrate", "--roles"], 0);
        ends(&bob, &ann, &["check", "--allow-changes"], 0);
        // Whatever the variable says, the option counts.
        for command in ["drain", "list", "queues", "schedules", "events", "migrate"] {
            ends("nowhere", &bob, &[command, "--database-url", &ann], 0);
        }
        works(&ann, &bob, "");
        works(&bob, "", "");
        // Among the parameters; one of them is not known.
        let (_, place) = ann.split_once('@').unwrap();
        let parameter = format!("postgres://ann@{place}?password={ENCODED}&sslpassword={ENCODED}");
        works(&parameter, "", "parameters that are not known");
        // The way to LISTEN is not to be had.
        let wrong = ann.replace("tail", "Qz7wrong");
        works(&ann, &wrong, "does not LISTEN");
        works(
            &ann,
            &ann.replace("127.0.0.1:", "127.0.0.1:x"),
            "CONDUCTOR_LISTEN_URL is not used",
        );
        works(&ann, PASSWORD, "CONDUCTOR_LISTEN_URL is not used");
    });
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_does_not_work_is_told_without_its_password() -> anyhow::Result<()> {
    let guarded = Guarded::start().await?;
    let right = guarded.url("ann");
    let place = right.split_once('@').unwrap().1.to_owned();
    let nobody = free_port()?;
    let wrong = [
        (
            right.replace("tail", "Qz7wrong"),
            "password authentication failed",
        ),
        (
            right.replace("ann", "bob").replace("tail", "Qz7wrong"),
            "password authentication failed",
        ),
        (
            right.replace("/postgres", "/nothing"),
            "database \"nothing\" does not exist",
        ),
        (right.replace("ann", "nobody"), "no pg_hba.conf entry"),
        (
            format!("postgres://ann:{ENCODED}@127.0.0.1:{nobody}/postgres"),
            "refused",
        ),
        (
            format!("postgres://ann:{ENCODED}@no-such-host.invalid/postgres"),
            "no-such-host.invalid",
        ),
        (
            format!("postgres://ann:{ENCODED}@127.0.0.1:99999/postgres"),
            "port",
        ),
        (
            format!("postgres://ann:{ENCODED}@{place}?sslmode=perhaps&password={ENCODED}"),
            "perhaps",
        ),
        // Escapes that are none, and what is no text.
        (
            format!("postgres://ann:%zzQz7%@{place}"),
            "password authentication failed",
        ),
        (format!("postgres://ann:%ffQz7@{place}"), "utf-8"),
        // What should have been escaped.
        (format!("postgres://ann:{PASSWORD}@{place}"), "port"),
        (
            format!("postgres://ann:12?Qz7=Qz7@{place}"),
            "cannot connect",
        ),
        // The host was forgotten.
        (format!("postgres://ann:{ENCODED}/postgres"), "port"),
        (format!("ann:{ENCODED}@{place}"), "must look like"),
        (
            format!("host=127.0.0.1 user=ann password={PASSWORD}"),
            "must look like",
        ),
    ];
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            for (url, text) in &wrong {
                scope.spawn(move || {
                    let commands: [&[&str]; 5] = [
                        &["worker"],
                        &["check"],
                        &["migrate"],
                        &["invoke", "greet", "name=Ann"],
                        &["list", "--database-url", url],
                    ];
                    let all = commands.map(|command| start(url, url, command));
                    for (running, command) in all.into_iter().zip(commands) {
                        let ended = running.end();
                        let of = format!("{url} {command:?}");
                        silent(&ended, &of);
                        assert_eq!(ended.code, Some(3), "{of}: {ended:?}");
                        assert!(ended.err.contains(text), "{of}: {ended:?}");
                    }
                });
            }
        });
    });
    Ok(())
}

#[test]
fn an_address_in_a_wrong_place_is_not_repeated() {
    let url = format!("postgres://ann:{ENCODED}@127.0.0.1/postgres");
    let slip = format!("--databse-url={url}");
    let commands: [&[&str]; 7] = [
        &[&url],
        &["check", &url],
        &["worker", &url],
        &["worker", &slip],
        &["queues", &url],
        &["show", &url],
        &["migrate", "--wait", &url],
    ];
    for command in commands {
        let ended = ends(&url, "", command, 2);
        assert!(ended.err.contains("--database-url"), "{ended:?}");
    }
}
