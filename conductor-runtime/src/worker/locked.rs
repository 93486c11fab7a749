//! Outcomes of executions that another transaction has locked: which they are, and how they are sent.

use conductor_postgres::store::{ClaimRequest, locked};
use conductor_postgres::{Database, is_locked};
use uuid::Uuid;

use super::delivery::{Tried, take_touching, touched};
use super::outcome::Outcome;
use super::refused::write_alone;

/// Removes the outcomes that cannot be written now.
pub(super) async fn take_locked(
    database: &Database,
    outcomes: &mut Vec<Outcome>,
) -> Result<Vec<Outcome>, sqlx::Error> {
    let ids: Vec<Uuid> = outcomes.iter().flat_map(touched).collect();
    let locked = locked(database, ids).await?;
    Ok(take_touching(outcomes, &locked.into_iter().collect()))
}

/// Sends locked outcomes, which waits for the lock for a while. `request` claims nothing.
pub(super) async fn try_locked(
    database: Database,
    outcomes: Vec<Outcome>,
    request: ClaimRequest,
) -> Tried {
    match write_alone(&database, &outcomes, &request).await {
        Ok(()) => Tried::Written,
        Err(error) if is_locked(&error) => Tried::StillLocked(outcomes),
        Err(_) => Tried::Failed(outcomes),
    }
}
