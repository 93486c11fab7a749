use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use conductor::Conductor;
use conductor::embedded::{Embedded, Kind};
use nix::sys::signal::Signal;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::network::{Network, SERVER, SUBNET};
use super::tasks::{HostsQuick, TABLES, gate};
use crate::chaos::journal::{Entry, Mark, Moment, read};
use crate::chaos::load::{Asked, live};
use crate::chaos::storm::Log;
use crate::chaos::tasks;
use crate::chaos::verdict::Verdict;
use crate::chaos::worker::{Times, Worker};
use crate::support::{Server, eventually, own, soon};

/// What is quicker was told, and not found by polling.
pub const PROMPT: Duration = Duration::from_millis(100);
/// Until everything has ended.
const PATIENCE: Duration = Duration::from_secs(40);

/// A server and hosts in a network, each of which has a worker once it is started. The test itself
/// reaches the server by its socket, which no cut concerns.
#[derive(Debug)]
pub struct Scene {
    pub conductor: Conductor,
    /// By the host's number.
    pub workers: BTreeMap<usize, Worker>,
    pub server: Server,
    pub network: Network,
    times: Times,
    folder: PathBuf,
}

impl Scene {
    /// None where the machine does not allow it.
    pub async fn of(hosts: usize, times: Times) -> anyhow::Result<Option<Self>> {
        let Some(network) = Network::of(hosts)? else {
            return Ok(None);
        };
        let folder = std::env::temp_dir().join(format!("conductor-hosts-{}", Uuid::now_v7()));
        own(&folder)?;
        let access = folder.join("access");
        let lines = format!("local all all trust\nhost all all {SUBNET} trust\n");
        std::fs::write(&access, lines)?;
        let settings = [
            format!("listen_addresses={SERVER}"),
            format!("hba_file={}", access.display()),
        ];
        // Others use it, too: it is not to be born in a namespace.
        Embedded::start(Kind::Volatile).await?;
        let server = network.at_server(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(Server::start_with(&settings))
        })??;
        let conductor = Conductor::connect_to(&server.url()).await?;
        for tables in [tasks::TABLES, TABLES] {
            sqlx::raw_sql(tables).execute(conductor.pool()).await?;
        }
        Ok(Some(Self {
            conductor,
            workers: BTreeMap::new(),
            server,
            network,
            times,
            folder,
        }))
    }

    /// Returns when the host's worker has its lease.
    pub async fn start_worker(&mut self, host: usize) -> anyhow::Result<()> {
        let url = format!("postgres://postgres@{SERVER}/postgres");
        let worker = self
            .network
            .on(host, || Worker::start(&url, &self.folder, self.times))??;
        self.workers.insert(host, worker);
        eventually("a lease", async || self.lease(host).await.is_some()).await;
        Ok(())
    }

    pub fn process(&self, host: usize) -> u32 {
        self.workers[&host].id()
    }

    /// The end of the host's lease, and under which identity.
    pub async fn lease(&self, host: usize) -> Option<(i64, Moment)> {
        let lease: Option<(i64, i64)> = sqlx::query_as(
            "select id, (extract(epoch from lease_until) * 1e6)::bigint
               from conductor.orchestrators where pid = $1 order by id desc limit 1",
        )
        .bind(i32::try_from(self.process(host)).unwrap())
        .fetch_optional(self.conductor.pool())
        .await
        .unwrap();
        lease.map(|(id, until)| (id, until.unsigned_abs()))
    }

    /// What happened to bodies of this key on a host, in order.
    pub fn marks(&self, host: usize, mark: Mark, key: &str) -> Vec<Entry> {
        let process = self.process(host);
        let mut entries = read(&self.folder.join("journal")).unwrap();
        entries.retain(|entry| {
            entry.process == process && entry.mark == mark && (entry.key == key || key.is_empty())
        });
        entries
    }

    /// Waits until so many bodies of this key have come so far on a host.
    pub async fn marked(&self, host: usize, mark: Mark, key: &str, many: usize) -> Vec<Entry> {
        eventually(key, async || self.marks(host, mark, key).len() >= many).await;
        self.marks(host, mark, key)
    }

    /// Lets go on what stands.
    pub fn open(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(gate(&self.folder), "")?)
    }

    /// What is counted in the database.
    pub async fn number(&self, query: &str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(self.conductor.pool())
            .await?)
    }

    /// How long it takes from a call to its result, in the middle of several times, where the workers
    /// sleep in between.
    pub async fn waking(&self) -> anyhow::Result<Duration> {
        let idle = "select count(*) from conductor.queues where name = 'default' and idle";
        let mut took = Vec::new();
        for n in 0..9 {
            // Past the looks that follow going idle, so that only a notification is quick.
            tokio::time::sleep(Duration::from_millis(300)).await;
            eventually("idle workers", async || {
                self.number(idle).await.unwrap() == 1
            })
            .await;
            let began = Instant::now();
            let run = self
                .conductor
                .invoke::<HostsQuick>(HostsQuick { n })
                .await?;
            soon("the result", run.result()).await?;
            took.push(began.elapsed());
        }
        took.sort_unstable();
        Ok(took[took.len() / 2])
    }

    /// Waits until all executions have ended, ends the workers in order, and judges as behind a storm.
    pub async fn end(mut self, asked: &[Asked]) -> anyhow::Result<Verdict> {
        let began = Instant::now();
        while live(&self.server.url()).await? > 0 {
            assert!(
                began.elapsed() < PATIENCE,
                "some do not end; see {}",
                self.folder.display()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut log = Log::default();
        for worker in self.workers.values() {
            worker.signal(Signal::SIGTERM);
        }
        for worker in self.workers.values_mut() {
            let mut ended = None;
            eventually("the worker's end", || {
                ended = worker.ended().unwrap();
                std::future::ready(ended.is_some())
            })
            .await;
            if !ended.unwrap().success() {
                let fault = format!("a worker ended with {ended:?}:\n{}", worker.said());
                log.faults.push(fault);
            }
            let lost = worker.lost_leases().into_iter();
            log.lost_leases.extend(lost.map(|at| (worker.id(), at)));
        }
        self.conductor.pool().close().await;
        let url = self.server.url();
        let verdict = Verdict::of(&url, &self.folder, asked, &log).await?;
        println!("{verdict}");
        assert!(
            verdict.is_clean(),
            "see above and {}",
            self.folder.display()
        );
        std::fs::remove_dir_all(&self.folder)?;
        Ok(verdict)
    }
}
