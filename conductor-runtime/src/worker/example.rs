//! What tests of the worker begin with.

use std::time::Instant;

use conductor_postgres::store::{Claim, ClaimRequest, Claimed, LaneColumns, Seen, WindowColumns};
use uuid::Uuid;

/// An execution of this task that needs slots of these lanes.
pub(super) fn claimed(id: u128, task_id: i32, lanes: &[i32]) -> Claimed {
    let id = Uuid::from_u128(id);
    Claimed {
        id,
        task_id,
        claim: Claim {
            number: 1,
            orchestrator: 1,
        },
        attempt: 1,
        payload: String::new(),
        unreadable: None,
        memo: None,
        origin: id,
        parent: None,
        trigger: None,
        lanes: lanes.to_vec(),
        start_at: None,
        since: Instant::now(),
    }
}

/// A request for outcomes alone.
pub(super) fn request() -> ClaimRequest {
    ClaimRequest {
        orchestrator: 1,
        queue: 1,
        tasks: vec![1],
        windows: WindowColumns::default(),
        lanes: LaneColumns::default(),
        most: 1,
        quick: Vec::new(),
        ahead: Vec::new(),
        fence: 0,
        want: 0,
        batched: Vec::new(),
        batch_want: 0,
        bytes: 0,
        seen: Seen::default(),
        idle: false,
        paused: false,
    }
}
