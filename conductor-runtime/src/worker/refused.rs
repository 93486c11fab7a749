//! Outcomes that the database refuses.

use conductor_postgres::store::{ClaimRequest, finish_and_claim};
use conductor_postgres::{ANSWER, Database, Fault, fault, no_answer};

use super::columns::columns;
use super::outcome::{End, Outcome};

const REFUSED: &str = "the database refused this attempt's error text";

/// Writes outcomes without claiming.
pub(super) async fn write_alone(
    database: &Database,
    outcomes: &[Outcome],
    request: &ClaimRequest,
) -> Result<(), sqlx::Error> {
    let mut session = database.session().await?;
    let bytes = outcomes.iter().map(Outcome::bytes).sum();
    let written = finish_and_claim(&mut session, columns(outcomes), bytes, request);
    match tokio::time::timeout(ANSWER, written).await {
        Ok(written) => session.settle(written.map(drop)).await,
        Err(_) => Err(no_answer(&mut session)),
    }
}

/// Splits refused outcomes in halves until each refused one is alone, and fails those executions with the database's
/// error. Returns those that a temporary fault kept from being written, and those that are refused in every form.
pub(super) async fn narrow_down(
    database: &Database,
    outcomes: Vec<Outcome>,
    request: &ClaimRequest,
) -> (Vec<Outcome>, Vec<Outcome>) {
    let mut unwritten = Vec::new();
    let mut refused = Vec::new();
    let mut parts = vec![outcomes];
    while let Some(mut part) = parts.pop() {
        match write_alone(database, &part, request).await {
            Ok(()) => {}
            Err(error) if fault(&error) != Fault::Refused => unwritten.append(&mut part),
            Err(_) if part.len() > 1 => {
                let rest = part.split_off(part.len() / 2);
                parts.push(rest);
                parts.push(part);
            }
            Err(error) => match part.first_mut().map(|one| instead(one, &error)) {
                Some(true) => parts.push(part),
                Some(false) => refused.append(&mut part),
                None => {}
            },
        }
    }
    (unwritten, refused)
}

/// Replaces a refused outcome by a failure. Returns false if it is one already.
fn instead(one: &mut Outcome, error: &sqlx::Error) -> bool {
    let end = match &one.end {
        End::Completed(_) => End::permanent(&format!("the output was not stored: {error}")),
        End::Suspended(_) => End::permanent(&format!("its waits were not stored: {error}")),
        End::Failed { error: text, .. } if !text.starts_with(REFUSED) => {
            End::permanent(&format!("{REFUSED}: {error}"))
        }
        End::Failed { .. } | End::Released | End::Postponed(_) | End::Unreadable(_) => {
            tracing::error!(execution = %one.id, %error, "an outcome cannot be written");
            return false;
        }
    };
    one.replace(end);
    true
}
