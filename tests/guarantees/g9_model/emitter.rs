use std::time::{Duration, Instant};

use conductor::prelude::*;
use serde_json::json;

use super::{Dice, EVENTS, GROUPS};

/// The number of an event that says that there will be no more.
pub const END: i64 = 1_000_000;

#[event(name = "g9-model.said")]
#[derive(PartialEq)]
pub struct Said {
    pub n: i64,
    pub group: i64,
    pub inner: Option<Inner>,
}

#[derive(
    Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema, EventFields,
)]
pub struct Inner {
    pub odd: bool,
}

impl Said {
    fn of(n: i64, dice: &mut Dice) -> Self {
        let inner = (dice.roll(4) > 0).then_some(Inner { odd: n % 2 == 1 });
        Self {
            n,
            group: dice.roll(GROUPS) as i64,
            inner,
        }
    }

    /// One for each group, so that every filter has one.
    pub fn end(group: u64) -> Self {
        Self {
            n: END,
            group: group as i64,
            inner: Some(Inner { odd: true }),
        }
    }
}

/// An event that somebody said, and when.
pub struct Spoken {
    pub event: Said,
    pub emitter: u64,
    pub began: Instant,
    /// When the call had returned or the transaction was committed; none where it was rolled back.
    pub over: Option<Instant>,
    /// Whether it was in the log then.
    pub direct: bool,
}

/// Emits once: the event and the record commit together, whatever crashes.
#[task(name = "g9-model.say")]
async fn g9_model_say(ctx: &TaskContext, event: Said) -> anyhow::Result<()> {
    ctx.emit("say", event).await?;
    ctx.step("after", || async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        anyhow::Ok(())
    })
    .await?;
    Ok(())
}

/// Says some events, in one way or another.
pub async fn emit_all(
    conductor: Conductor,
    mut dice: Dice,
    emitter: u64,
) -> anyhow::Result<Vec<Spoken>> {
    let mut spoken = Vec::new();
    for n in 0..EVENTS {
        dice.pause(60).await;
        let event = Said::of((emitter * 1000 + n) as i64, &mut dice);
        let began = Instant::now();
        let mut committed = true;
        let way = dice.roll(6);
        let mut in_log = false;
        match way {
            0 | 1 => {
                // It is not where others held the lock of the name for a second.
                let id = conductor.emit(event.clone()).await?;
                in_log = sqlx::query_scalar(
                    "select exists (select from conductor.events where id = $1)",
                )
                .bind(id)
                .fetch_one(conductor.pool())
                .await?;
            }
            2 | 3 => {
                let mut tx = conductor.pool().begin().await?;
                if way == 2 {
                    conductor
                        .emit(event.clone())
                        .in_transaction(&mut tx)
                        .await?;
                } else {
                    say_in_sql(&mut tx, &event).await?;
                }
                dice.pause(150).await;
                committed = dice.roll(3) > 0;
                match committed {
                    true => tx.commit().await?,
                    false => tx.rollback().await?,
                }
            }
            4 => say_in_sql(&mut *conductor.pool().acquire().await?, &event).await?,
            _ => {
                let event = event.clone();
                conductor.invoke::<G9ModelSay>(G9ModelSay { event }).await?;
            }
        }
        spoken.push(Spoken {
            event,
            emitter,
            began,
            over: committed.then(Instant::now),
            direct: in_log,
        });
    }
    Ok(spoken)
}

async fn say_in_sql(connection: &mut sqlx::PgConnection, event: &Said) -> anyhow::Result<()> {
    sqlx::query("select conductor.emit($1, $2)")
        .bind(Said::NAME)
        .bind(json!(event))
        .execute(connection)
        .await?;
    Ok(())
}
