//! Outcomes and waits as the columns of statements.

use std::time::Duration;

use conductor_postgres::store::{Claim, NewChild, NewWait, Outcomes, Suspensions};
use uuid::Uuid;

use super::outcome::{End, Outcome};
use crate::context::{Waiting, Wake};
use crate::verdict::Verdict;

/// Returns the columns of these outcomes.
pub(super) fn columns(outcomes: &[Outcome]) -> Outcomes<'_> {
    let mut columns = Outcomes::default();
    for outcome in outcomes {
        if let End::Completed(_) | End::Failed { .. } = &outcome.end {
            columns.parents.extend(outcome.parent);
        }
        add(&mut columns, outcome);
    }
    columns.parents.sort_unstable();
    columns.parents.dedup();
    columns
}

fn add<'o>(columns: &mut Outcomes<'o>, outcome: &'o Outcome) {
    let (id, claim) = (outcome.id, outcome.claim);
    match &outcome.end {
        End::Completed(output) => {
            columns.completed.ids.push(id);
            columns.completed.claims.push(claim);
            columns.completed.outputs.push(output);
        }
        End::Failed {
            error,
            failure,
            verdict,
            forgotten,
            replayed,
        } => {
            let failed = &mut columns.failed;
            for key in forgotten {
                failed.forgotten_of.push(id);
                failed.forgotten.push(key);
            }
            failed.ids.push(id);
            failed.claims.push(claim);
            failed.replayed.push(*replayed);
            failed.errors.push(error);
            failed.failures.push(failure.as_deref());
            failed.permanent.push(*verdict == Verdict::Permanent);
            failed.delay_ms.push(match verdict {
                Verdict::After(delay) => Some(millis(*delay)),
                Verdict::Policy | Verdict::Permanent => None,
            });
        }
        End::Suspended(waiting) => suspend(&mut columns.suspended, id, claim, waiting),
        End::Released => {
            columns.released.ids.push(id);
            columns.released.claims.push(claim);
        }
        End::Postponed(until) => {
            columns.postponed.ids.push(id);
            columns.postponed.claims.push(claim);
            columns.postponed.until.push(*until);
        }
        End::Unreadable(reason) => {
            columns.unreadable.ids.push(id);
            columns.unreadable.claims.push(claim);
            columns.unreadable.reasons.push(reason);
        }
    }
}

/// Adds the waits of an execution.
pub(super) fn suspend<'o>(
    columns: &mut Suspensions<'o>,
    id: Uuid,
    claim: Claim,
    waiting: &'o Waiting,
) {
    columns.ids.push(id);
    columns.claims.push(claim);
    (columns.met).push(i32::try_from(waiting.met).unwrap_or(i32::MAX));
    columns.astray.push(waiting.astray.as_deref());
    for key in &waiting.withdrawn {
        columns.withdrawn.push(id, key);
    }
    for key in &waiting.had {
        columns.had.push(id, key);
    }
    for (key, wait) in &waiting.waits {
        let (wake_ms, wake_at) = match wait.wake() {
            Some(Wake::In(duration)) => (Some(millis(duration)), None),
            Some(Wake::At(at)) => (None, Some(at)),
            None => (None, None),
        };
        let child = wait.child.as_ref().map(|child| NewChild {
            id: child.id,
            task: child.task,
            payload: &child.payload,
            detached: child.detached,
        });
        let event = wait.event.as_ref();
        columns.waits.push(NewWait {
            execution: id,
            key,
            kind: wait.kind,
            group: &wait.group,
            wake_ms,
            wake_at,
            child,
            event: event.map(|event| (event.name.as_ref(), event.filter.as_deref())),
            input: wait.input.map(|input| input.0),
        });
    }
}

/// Returns a delay in milliseconds, at most 1000 years, which fits into an interval.
fn millis(delay: Duration) -> i64 {
    const LONGEST: i64 = 1000 * 365 * 24 * 60 * 60 * 1000;
    i64::try_from(delay.as_millis()).map_or(LONGEST, |millis| millis.min(LONGEST))
}
