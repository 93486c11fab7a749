use std::time::Duration;

use conductor::EventFilter;
use conductor::prelude::*;

use super::emitter::{END, Inner, Said};

/// How many filters there are.
pub const KINDS: u64 = 7;

/// A filter, as the database gets it.
fn filter(kind: u64) -> Option<EventFilter<Said>> {
    let odd = Said::inner.then(Inner::odd);
    Some(match kind {
        // These two are found by the hash of a value.
        0 => Said::group.eq(1),
        1 => odd.eq(true).and(Said::n.ge(2000)),
        2 => Said::n.lt(3000).or(Said::n.eq(END)),
        3 => Said::group.is_in([0, 2]),
        4 => !Said::inner.is_null().and(Said::group.ne(7)),
        5 => odd.ne(false),
        _ => return None,
    })
}

/// The same, as the model has it.
pub fn lets_through(kind: u64, said: &Said) -> bool {
    let odd = said.inner.as_ref().map(|inner| inner.odd);
    match kind {
        0 => said.group == 1,
        1 => odd == Some(true) && said.n >= 2000,
        2 => said.n < 3000 || said.n == END,
        3 => [0, 2].contains(&said.group),
        4 => !(said.inner.is_none() && said.group != 7),
        5 => odd == Some(true),
        _ => true,
    }
}

/// Whether an event starts the task `note`.
pub fn is_noted(said: &Said) -> bool {
    said.group == 2 && said.n < END
}

#[task(name = "g9-model.note", event(Said, when = group == 2 && n < END))]
async fn g9_model_note(_ctx: &TaskContext, payload: Said) -> anyhow::Result<i64> {
    Ok(payload.n)
}

/// Hears events until the end is said; gives their numbers.
#[task(name = "g9-model.listen")]
pub async fn g9_model_listen(ctx: &TaskContext, kind: u64, naps: bool) -> anyhow::Result<Vec<i64>> {
    let mut heard = Vec::new();
    loop {
        let n = heard.len();
        let mut wait = ctx.wait_for_event::<Said>(format!("event {n}"));
        if let Some(filter) = filter(kind) {
            wait = wait.when(filter);
        }
        let said = wait.await?;
        heard.push(said.n);
        if said.n == END {
            return Ok(heard);
        }
        if naps && n % 3 == 0 {
            // What comes meanwhile must be seen as well.
            ctx.sleep(format!("nap {n}"), Duration::from_millis(20))
                .await?;
        }
    }
}
