use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sqlx::{Connection, PgConnection};

use super::dice::Dice;
use super::journal::{Moment, now};
use super::worker::{LEASE, Times, Worker};
use crate::support::{Proxy, Server, Shutdown};

/// What befalls the workers, the network and the server, at random.
#[derive(Debug)]
pub struct Storm {
    pub server: Server,
    /// One a worker, and the last one for the client.
    proxies: Vec<Proxy>,
    workers: Vec<Worker>,
    /// Those that have ended.
    gone: Vec<Worker>,
    ends: Vec<(Instant, Relief)>,
    folder: PathBuf,
    /// What it has done, for who looks for the cause of a fault.
    deeds: File,
    dice: Dice,
    pub log: Log,
    pub counts: Counts,
}

/// What the verdict must know of it.
#[derive(Debug, Default)]
pub struct Log {
    /// Which process was killed, and when.
    pub kills: Vec<(u32, Moment)>,
    /// Which process did not run, from when to when.
    pub pauses: Vec<(u32, Moment, Moment)>,
    /// Which process has given up its lease, and when.
    pub lost_leases: Vec<(u32, Moment)>,
    /// What must not happen.
    pub faults: Vec<String>,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub kills: usize,
    pub terms: usize,
    pub short_pauses: usize,
    pub long_pauses: usize,
    pub terminated: usize,
    pub restarts: usize,
    pub cuts: usize,
    pub failed_starts: usize,
}

/// The end of what lasts a while.
#[derive(Debug, Clone, Copy)]
enum Relief {
    Continue(u32),
    Accept(usize),
    Release(usize),
}

impl Storm {
    pub async fn new(workers: usize, folder: &Path, dice: Dice) -> anyhow::Result<Self> {
        // One that is ending waits for those who have not said who they are.
        let server = Server::start_with(&["authentication_timeout=5s".to_owned()]).await?;
        let mut proxies = Vec::new();
        for _ in 0..=workers {
            proxies.push(Proxy::before(server.socket()).await?);
        }
        Ok(Self {
            server,
            proxies,
            workers: Vec::new(),
            gone: Vec::new(),
            ends: Vec::new(),
            folder: folder.to_owned(),
            deeds: File::create(folder.join("storm"))?,
            dice,
            log: Log::default(),
            counts: Counts::default(),
        })
    }

    /// The client's way to the server.
    pub fn url(&self) -> String {
        self.proxies.last().unwrap().url()
    }

    pub fn start_workers(&mut self) -> anyhow::Result<()> {
        for proxy in &self.proxies[..self.proxies.len() - 1] {
            self.workers
                .push(Worker::start(&proxy.url(), &self.folder, Times::SHORT)?);
        }
        Ok(())
    }

    /// Blows for so long.
    pub async fn blow(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            let pause = self.dice.millis(50..1200);
            tokio::time::sleep(pause).await;
            self.relieve(Instant::now()).await?;
            self.collect()?;
            self.strike().await?;
        }
        // What lasts a while ends before the calm.
        while let Some(last) = self.ends.iter().map(|(at, _)| *at).max() {
            tokio::time::sleep_until(last.into()).await;
            self.relieve(last).await?;
        }
        // TCP gives up in the end what a network swallows, and with it the server its sessions.
        for proxy in &self.proxies {
            proxy.cut();
        }
        Ok(())
    }

    fn note(&mut self, deed: fmt::Arguments<'_>) -> anyhow::Result<()> {
        Ok(writeln!(self.deeds, "{} {deed}", now())?)
    }

    async fn strike(&mut self) -> anyhow::Result<()> {
        let worker = self.dice.roll(self.workers.len());
        match self.dice.roll(100) {
            0..20 => self.kill(worker)?,
            20..32 => {
                self.counts.short_pauses += 1;
                self.pause(worker, 100..1200)?;
            }
            32..42 => {
                self.counts.long_pauses += 1;
                let lease = LEASE.as_millis() as u64;
                self.pause(worker, lease + 300..lease * 2)?;
            }
            42..57 => self.terminate_sessions().await?,
            57..63 => self.restart(Shutdown::Killed).await?,
            63..67 => self.restart(Shutdown::Immediate).await?,
            67..70 => self.restart(Shutdown::Fast).await?,
            70..92 => self.cut().await?,
            _ => {
                // What it must leave in order is looked at when it has ended.
                // A second signal would be a crash.
                if !std::mem::replace(&mut self.workers[worker].told, true) {
                    self.counts.terms += 1;
                    self.workers[worker].signal(Signal::SIGTERM);
                    self.note(format_args!("SIGTERM {}", self.workers[worker].id()))?;
                }
            }
        }
        Ok(())
    }

    fn kill(&mut self, worker: usize) -> anyhow::Result<()> {
        self.counts.kills += 1;
        let victim = &mut self.workers[worker];
        self.log.kills.push((victim.id(), now()));
        victim.kill()?;
        self.note(format_args!("SIGKILL {}", self.workers[worker].id()))?;
        self.replace(worker)
    }

    fn replace(&mut self, worker: usize) -> anyhow::Result<()> {
        let new = Worker::start(&self.proxies[worker].url(), &self.folder, Times::SHORT)?;
        let old = std::mem::replace(&mut self.workers[worker], new);
        self.end_pause(old.id());
        self.note(format_args!(
            "{} takes over from {}",
            self.workers[worker].id(),
            old.id()
        ))?;
        self.gone.push(old);
        Ok(())
    }

    fn pause(&mut self, worker: usize, millis: std::ops::Range<u64>) -> anyhow::Result<()> {
        let time = self.dice.millis(millis);
        let worker = &mut self.workers[worker];
        if worker.paused {
            return Ok(());
        }
        worker.paused = true;
        worker.signal(Signal::SIGSTOP);
        self.log.pauses.push((worker.id(), now(), Moment::MAX));
        let process = worker.id();
        self.ends
            .push((Instant::now() + time, Relief::Continue(process)));
        self.note(format_args!("SIGSTOP {process}"))
    }

    fn end_pause(&mut self, process: u32) {
        let pauses = self.log.pauses.iter_mut();
        let mut open = pauses.filter(|(of, _, until)| *of == process && *until == Moment::MAX);
        if let Some((_, _, until)) = open.next() {
            *until = now();
        }
    }

    async fn terminate_sessions(&mut self) -> anyhow::Result<()> {
        self.counts.terminated += 1;
        self.note(format_args!("terminations"))?;
        let share = [1.0, 0.3][self.dice.roll(2)];
        let mut session = PgConnection::connect(&self.server.url()).await?;
        sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity
              where backend_type = 'client backend' and pid <> pg_backend_pid() and random() < $1",
        )
        .bind(share)
        .execute(&mut session)
        .await?;
        Ok(())
    }

    async fn restart(&mut self, how: Shutdown) -> anyhow::Result<()> {
        self.counts.restarts += 1;
        self.note(format_args!("{how:?} end of the server"))?;
        self.server.stop(how).await?;
        let away = self.dice.millis(0..1500);
        tokio::time::sleep(away).await;
        self.server.start_again().await?;
        self.note(format_args!("the server is back"))
    }

    async fn cut(&mut self) -> anyhow::Result<()> {
        self.counts.cuts += 1;
        let which = self.dice.roll(self.proxies.len());
        let end = Instant::now() + self.dice.millis(100..5000);
        let kind = self.dice.roll(5);
        self.note(format_args!("cut {kind} of way {which}"))?;
        let proxy = &mut self.proxies[which];
        match kind {
            0 => proxy.cut(),
            1 => proxy.close_halves(),
            2 => proxy.swallow(),
            3 => {
                proxy.refuse().await;
                self.ends.push((end, Relief::Accept(which)));
            }
            _ => {
                proxy.hold(true);
                self.ends.push((end, Relief::Release(which)));
            }
        }
        Ok(())
    }

    async fn relieve(&mut self, now: Instant) -> anyhow::Result<()> {
        let over: Vec<_> = self.ends.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, relief) in over {
            self.note(format_args!("{relief:?}"))?;
            match relief {
                Relief::Continue(process) => {
                    self.end_pause(process);
                    let worker = self
                        .workers
                        .iter_mut()
                        .find(|worker| worker.id() == process);
                    if let Some(worker) = worker {
                        worker.paused = false;
                        worker.signal(Signal::SIGCONT);
                    }
                }
                Relief::Accept(which) => self.proxies[which].accept().await?,
                Relief::Release(which) => self.proxies[which].hold(false),
            }
        }
        Ok(())
    }

    /// Replaces what has ended. A worker ends for three reasons: it was killed, it was told to, or
    /// the database was away when it started.
    fn collect(&mut self) -> anyhow::Result<()> {
        for at in 0..self.workers.len() {
            let worker = &mut self.workers[at];
            let Some(status) = worker.ended()? else {
                continue;
            };
            let said = worker.said();
            if !status.success() {
                match said.contains("worker started") {
                    true => self
                        .log
                        .faults
                        .push(format!("a worker ended with {status}:\n{said}")),
                    false => self.counts.failed_starts += 1,
                }
            }
            self.replace(at)?;
        }
        Ok(())
    }

    /// Behind the storm: workers that did not start have another go.
    pub fn mend(&mut self) -> anyhow::Result<()> {
        self.collect()
    }

    /// Whether all of them have started.
    pub fn all_at_work(&self) -> bool {
        (self.workers.iter()).all(|worker| worker.said().contains("worker started"))
    }

    /// Ends all workers in order.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        self.collect()?;
        for worker in self.workers.iter().filter(|worker| !worker.told) {
            worker.signal(Signal::SIGTERM);
        }
        let began = Instant::now();
        for worker in &mut self.workers {
            let status = loop {
                if let Some(status) = worker.ended()? {
                    break status;
                }
                anyhow::ensure!(
                    began.elapsed() < Duration::from_secs(40),
                    "{}",
                    worker.said()
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            let started = worker.said().contains("worker started");
            if started && !status.success() {
                self.log
                    .faults
                    .push(format!("told to end: {status}:\n{}", worker.said()));
            }
        }
        for worker in self.gone.iter().chain(&self.workers) {
            let lost = worker.lost_leases().into_iter().map(|at| (worker.id(), at));
            self.log.lost_leases.extend(lost);
        }
        Ok(())
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in [
            ("kills of a worker (SIGKILL)", self.kills),
            ("orderly ends (SIGTERM)", self.terms),
            ("stops shorter than the lease", self.short_pauses),
            ("stops longer than the lease", self.long_pauses),
            ("terminations of sessions", self.terminated),
            ("restarts of Postgres", self.restarts),
            ("cuts of the network", self.cuts),
            ("starts during an outage", self.failed_starts),
        ] {
            writeln!(f, "{what:<34} {count:>8}")?;
        }
        Ok(())
    }
}
