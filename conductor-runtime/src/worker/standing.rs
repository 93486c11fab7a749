//! Waits of a handler while one of its steps runs: they begin in the database at once, and their results are
//! delivered to the running handler.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use conductor_postgres::store::{
    Claim, KeyColumns, Suspensions, WaitState, look_beside, wait_beside,
};
use conductor_postgres::{ANSWER, Batcher, Fault, fault, no_answer, take_message};
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::beside::Beside;
use super::columns::suspend;
use crate::client::Conductor;
use crate::codec::MAX_RECORDS_BYTES;
use crate::context::{Memo, Stands, Wait, Waiting};

/// How long a step may run before waits of other branches begin. Most steps end sooner, and then the suspension
/// begins the waits.
const GRACE: Duration = Duration::from_millis(10);
/// The pause between two queries for results, at first and at most. A deadline is also queried when it passes.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_millis(250);
/// How much each wait adds to the pause between two queries.
const EACH: Duration = Duration::from_micros(100);
/// The most executions in one statement.
const MAX_ROWS: usize = 500;

/// Begins waits and queries their results, for many executions together.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// Uses connections of the runtime that is separate from the handlers'.
    conductor: Conductor,
    begins: Batcher<Begin>,
    looks: Batcher<Look>,
}

#[derive(Debug)]
struct Begin {
    id: Uuid,
    claim: Claim,
    waiting: Waiting,
    done: oneshot::Sender<Result<bool, sqlx::Error>>,
}

#[derive(Debug)]
struct Look {
    id: Uuid,
    claim: Claim,
    keys: Vec<String>,
    done: oneshot::Sender<Vec<WaitState>>,
}

impl Standing {
    pub(crate) fn new(conductor: Conductor, beside: &Beside) -> Self {
        Self {
            conductor,
            begins: Batcher::on(beside.runtime.clone()),
            looks: Batcher::on(beside.runtime.clone()),
        }
    }

    /// Begins waits of a running execution, and withdraws those that its handler has dropped. Returns false if its
    /// claim is lost or it is cancelled.
    async fn begin(
        &self,
        id: Uuid,
        claim: Claim,
        waits: BTreeMap<String, Wait>,
        withdrawn: Vec<String>,
    ) -> Result<bool, sqlx::Error> {
        let (done, begun) = oneshot::channel();
        let waiting = Waiting {
            waits,
            withdrawn,
            had: Vec::new(),
            met: 0,
            astray: None,
        };
        let begin = Begin {
            id,
            claim,
            waiting,
            done,
        };
        let conductor = self.conductor.clone();
        self.begins.add(begin, take_begins, move |batch| {
            let conductor = conductor.clone();
            async move { write_begins(&conductor, batch).await }
        });
        begun.await.unwrap_or(Ok(false))
    }

    /// Returns the state of these waits; nothing if the database does not answer.
    async fn look(&self, id: Uuid, claim: Claim, keys: Vec<String>) -> Vec<WaitState> {
        let (done, came) = oneshot::channel();
        let look = Look {
            id,
            claim,
            keys,
            done,
        };
        let conductor = self.conductor.clone();
        self.looks.add(look, take_looks, move |batch| {
            let conductor = conductor.clone();
            async move { answer(&conductor, batch).await }
        });
        came.await.unwrap_or_default()
    }

    /// Begins what a handler waits for while a step runs, and delivers results. Polled after each poll of the
    /// handler, so that it sees the handler's current waits.
    pub(crate) async fn attend(self, memo: &Memo, id: Uuid, claim: Claim) -> Infallible {
        let mut pause = FIRST_LOOK;
        loop {
            poll_until(|| memo.waits_beside()).await;
            if memo.waits_anew() {
                tokio::time::sleep(GRACE).await;
                let waits = memo.new_waits();
                if !memo.waits_beside() || waits.is_empty() {
                    continue;
                }
                if waits.values().map(Wait::bytes).sum::<usize>() > MAX_RECORDS_BYTES {
                    let keys: Vec<String> = waits.into_keys().collect();
                    memo.note_standing(&keys, Stands::Refused);
                    continue;
                }
                pause = FIRST_LOOK;
                let keys: Vec<String> = waits.keys().cloned().collect();
                // Noted before they are sent, because the handler may drop them while the message is on its way.
                memo.note_standing(&keys, Stands::Asked);
                let stands = match self.begin(id, claim, waits, memo.dropped()).await {
                    Ok(true) => Stands::Yes,
                    Err(error) if fault(&error) != Fault::Refused => {
                        self.conductor.outage().met(&error);
                        tokio::time::sleep(LAST_LOOK).await;
                        Stands::No
                    }
                    // The suspension will report what is wrong.
                    Ok(false) | Err(_) => Stands::Refused,
                };
                memo.note_standing(&keys, stands);
            }
            let known = memo.known_waits();
            // With many waits, queries are less frequent.
            let least = EACH * u32::try_from(known.len()).unwrap_or(u32::MAX);
            let left = match known.is_empty() {
                true => LAST_LOOK,
                false => bring(memo, self.look(id, claim, known).await),
            };
            tokio::select! {
                () = tokio::time::sleep(pause.min(left).max(least)) => {}
                () = poll_until(|| memo.waits_anew()) => {}
            }
            pause = (pause * 2).min(LAST_LOOK);
        }
    }
}

/// Waits until the condition is true; evaluated at each poll.
async fn poll_until(condition: impl Fn() -> bool) {
    poll_fn(|_| match condition() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

/// Delivers results to the handler, and returns how long until the next deadline.
fn bring(memo: &Memo, known: Vec<WaitState>) -> Duration {
    let mut left = LAST_LOOK;
    for came in known {
        match came.value.map(RawValue::from_string) {
            Some(Ok(value)) => memo.bring(&came.key, value, came.at),
            _ => {
                let ms = came.left_ms.and_then(|ms| u64::try_from(ms).ok());
                left = match ms {
                    None => left,
                    // The deadline has passed, but could not be settled in this query.
                    Some(0) => left.min(FIRST_LOOK),
                    Some(ms) => left.min(Duration::from_millis(ms + 1)),
                };
            }
        }
    }
    left
}

fn take_begins(waiting: &mut Vec<Begin>) -> Vec<Begin> {
    take_message(waiting, MAX_ROWS, |begin| {
        begin.waiting.waits.values().map(Wait::bytes).sum()
    })
}

fn take_looks(waiting: &mut Vec<Look>) -> Vec<Look> {
    take_message(waiting, MAX_ROWS, |look| look.keys.len() * 64)
}

async fn write_begins(conductor: &Conductor, batch: Vec<Begin>) {
    let mut suspensions = Suspensions::default();
    for begin in &batch {
        suspend(&mut suspensions, begin.id, begin.claim, &begin.waiting);
    }
    let written = async {
        let mut session = conductor.database().session().await?;
        let written = wait_beside(&mut session, &suspensions);
        let written = tokio::time::timeout(ANSWER, written).await;
        match written {
            Ok(written) => session.settle(written).await,
            Err(_) => Err(no_answer(&mut session)),
        }
    };
    match written.await {
        Ok(held) => {
            for (begin, held) in batch.into_iter().zip(held) {
                // A handler that was dropped no longer waits.
                let _ = begin.done.send(Ok(held));
            }
        }
        Err(error) if batch.len() == 1 => {
            if let Some(begin) = batch.into_iter().next() {
                let _ = begin.done.send(Err(error));
            }
        }
        // One by one, so that one that is refused fails alone.
        Err(_) => {
            for begin in batch {
                Box::pin(write_begins(conductor, vec![begin])).await;
            }
        }
    }
}

async fn answer(conductor: &Conductor, batch: Vec<Look>) {
    let executions: Vec<(Uuid, Claim)> = batch.iter().map(|look| (look.id, look.claim)).collect();
    let mut waits = KeyColumns::default();
    for look in &batch {
        look.keys.iter().for_each(|key| waits.push(look.id, key));
    }
    let looked = look_beside(conductor.database(), &executions, &waits);
    let looked = tokio::time::timeout(ANSWER, looked);
    let mut known: Vec<WaitState> = match looked.await {
        Ok(Ok(known)) => known,
        // One by one, so that one that cannot be answered does not affect the others.
        Ok(Err(error)) if fault(&error) == Fault::Refused && batch.len() > 1 => {
            for look in batch {
                Box::pin(answer(conductor, vec![look])).await;
            }
            return;
        }
        Ok(Err(error)) => {
            conductor.outage().met(&error);
            return;
        }
        Err(_) => return,
    };
    for look in batch {
        let of_this = |came: &mut WaitState| came.execution_id == look.id;
        let _ = look.done.send(known.extract_if(.., of_this).collect());
    }
}
