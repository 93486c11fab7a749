use conductor_postgres::store::{Claim, Claimed};
use uuid::Uuid;

/// The most that a worker holds besides its handlers, in bytes: payloads and records that wait for a handler, and
/// outcomes that wait to be written.
pub(super) const MOST_BYTES: usize = 64 * 1024 * 1024;

/// A running handler: of one execution, or of the items of a batch.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) task_id: i32,
    pub(super) members: Vec<Member>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: Uuid,
    pub(super) claim: Claim,
    pub(super) parent: Option<Uuid>,
    pub(super) lanes: Vec<i32>,
}

impl Running {
    /// The handler of what starts together; of one execution at least.
    pub(super) fn of(claimed: &[Claimed]) -> Option<Self> {
        Some(Self {
            task_id: claimed.first()?.task_id,
            members: claimed.iter().map(Member::of).collect(),
        })
    }
}

impl Member {
    fn of(claimed: &Claimed) -> Self {
        Self {
            id: claimed.id,
            claim: claimed.claim,
            parent: claimed.parent,
            lanes: claimed.lanes.clone(),
        }
    }
}
