use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use conductor::prelude::*;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::dice::Dice;
use super::tasks::{
    ChaosFlaky, ChaosLimited, ChaosListener, ChaosPing, ChaosTransfer, ChaosTree, tree_gives,
};

/// Calls that are under way at once.
const CALLERS: usize = 16;
/// Most executions that live at once: a slow machine is not to be buried.
const MOST: i64 = 600;

/// An execution that was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub task: &'static str,
    pub n: i64,
    pub gives: i64,
    /// None where the call ended in an error: it may be there or not.
    pub id: Option<Uuid>,
}

/// Clients that invoke and emit until they are told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<Asked>>>,
    callers: JoinSet<()>,
}

impl Load {
    /// The server's own address tells how many executions live.
    pub fn start(conductor: &Conductor, server: String, dice: &Dice, pause: Duration) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            asked: Arc::default(),
            callers: JoinSet::new(),
        };
        let numbers = Arc::new(AtomicI64::new(0));
        let full = Arc::new(AtomicBool::new(false));
        let (stop, measured) = (load.stop.clone(), full.clone());
        load.callers.spawn(async move {
            while !stop.load(SeqCst) {
                // It may be away.
                if let Ok(live) = live(&server).await {
                    measured.store(live > MOST, SeqCst);
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        });
        for caller in 0..CALLERS {
            let full = full.clone();
            let (stop, asked, numbers) = (load.stop.clone(), load.asked.clone(), numbers.clone());
            let conductor = conductor.clone();
            let mut dice = dice.clone();
            for _ in 0..=caller {
                dice = Dice::new(dice.millis(0..u64::MAX / 2).as_millis() as u64);
            }
            load.callers.spawn(async move {
                while !stop.load(SeqCst) {
                    if full.load(SeqCst) {
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                    let n = numbers.fetch_add(1, SeqCst);
                    let made = ask(&conductor, dice.roll(8), n).await;
                    asked.lock().unwrap().push(made);
                    tokio::time::sleep(pause.mul_f64(dice.roll(200) as f64 / 100.0)).await;
                }
            });
        }
        load
    }

    /// Everything that was asked for.
    pub async fn stop(mut self) -> Vec<Asked> {
        self.stop.store(true, SeqCst);
        while let Some(ended) = self.callers.join_next().await {
            ended.unwrap();
        }
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// How many executions live, or events that may start some are on their way.
pub async fn live(server: &str) -> anyhow::Result<i64> {
    let live = "select (select count(*) from conductor.live_executions)
                     + (select count(*) from conductor.event_inbox)";
    counted(server, live).await
}

/// How many processes hold a lease, or have died with one that is not over.
pub async fn leases(server: &str) -> anyhow::Result<i64> {
    counted(server, "select count(*) from conductor.orchestrators").await
}

async fn counted(server: &str, query: &'static str) -> anyhow::Result<i64> {
    let mut session = PgConnection::connect(server).await?;
    Ok(sqlx::query_scalar(query).fetch_one(&mut session).await?)
}

async fn ask(conductor: &Conductor, choice: usize, n: i64) -> Asked {
    match choice {
        0..=2 => {
            made::<ChaosTransfer>(conductor.invoke::<ChaosTransfer>(ChaosTransfer { n }), n, n)
                .await
        }
        3 => made::<ChaosFlaky>(conductor.invoke::<ChaosFlaky>(ChaosFlaky { n }), n, n).await,
        4 => {
            made::<ChaosTree>(
                conductor.invoke::<ChaosTree>(ChaosTree { n }),
                n,
                tree_gives(n),
            )
            .await
        }
        5 | 6 => {
            made::<ChaosLimited>(conductor.invoke::<ChaosLimited>(ChaosLimited { n }), n, n).await
        }
        _ => {
            let listener = conductor.invoke::<ChaosListener>(ChaosListener { n });
            let listener = made::<ChaosListener>(listener, n, n).await;
            // Emitted for one that may not exist, too: it may.
            while conductor.emit(ChaosPing::new(n)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            listener
        }
    }
}

async fn made<T: Task>(
    invoke: impl IntoFuture<Output = conductor::Result<Execution<T>>>,
    n: i64,
    gives: i64,
) -> Asked {
    Asked {
        task: T::NAME,
        n,
        gives,
        id: invoke.await.ok().map(|run| run.id()),
    }
}
