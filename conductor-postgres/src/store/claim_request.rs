use std::sync::Arc;

use chrono::{DateTime, Utc};

/// What a worker asks for in one round trip.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// The orchestrator under which it claims.
    pub orchestrator: i64,
    /// The queue.
    pub queue: i32,
    /// The tasks that it has.
    pub tasks: Vec<i32>,
    /// Their windows.
    pub windows: WindowColumns,
    /// What it reports about the lanes in which it has slots.
    pub lanes: LaneColumns,
    /// The most that can run at once, and for each task with limits how many executions one slot may claim.
    pub most: usize,
    /// The tasks with limits; see [`most`](Self::most).
    pub quick: Vec<i32>,
    /// See [`most`](Self::most).
    pub ahead: Vec<i32>,
    /// How often the worker has given up claims under way; requests with an older number are void.
    pub fence: i32,
    /// How many executions to claim at most; 0 if only outcomes are written.
    pub want: usize,
    /// The tasks that run in batches, if other tasks do not, and how many of their executions have room: more than
    /// `want`, because one slot is enough for a batch.
    pub batched: Vec<i32>,
    /// See [`batched`](Self::batched).
    pub batch_want: usize,
    /// How many bytes of payloads and records may be returned; one execution is returned in any case.
    pub bytes: usize,
    /// The position at which the scan begins.
    pub seen: Seen,
    /// Whether the worker will sleep if nothing is returned, and wants to be woken.
    pub idle: bool,
    /// Whether the worker holds executions that have not started, and must know if its queue is paused.
    pub paused: bool,
}

impl ClaimRequest {
    /// Returns the same request for outcomes only.
    #[must_use]
    pub fn without_claim(&self) -> Self {
        Self {
            want: 0,
            idle: false,
            paused: false,
            seen: Seen::default(),
            lanes: LaneColumns::default(),
            ..self.clone()
        }
    }

    pub(super) fn fills_batches(&self) -> bool {
        self.want > 0 && !self.batched.is_empty()
    }
}

/// The position where the previous scan ended. Beginning there skips what is running or has ended. Without priorities,
/// the scan begins at the start.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The highest first.
    pub priorities: Vec<i32>,
    /// The `run_at` from which on something may be due; `None` from the beginning.
    pub from: Vec<Option<DateTime<Utc>>>,
}

/// The windows as the columns of a statement: for each task the one that is open, or else the next one.
#[derive(Debug, Clone, Default)]
pub struct WindowColumns {
    /// The tasks.
    pub tasks: Vec<i32>,
    /// When their windows open.
    pub opens: Vec<DateTime<Utc>>,
    /// When their windows close.
    pub closes: Vec<DateTime<Utc>>,
}

/// What a worker reports about the lanes in which it has slots.
#[derive(Debug, Clone, Default)]
pub struct LaneColumns {
    /// The lanes.
    pub lanes: Vec<i32>,
    /// How many executions it holds in each lane.
    pub used: Vec<i32>,
    /// The lanes in which it wants no more slots than that.
    pub back: Vec<i32>,
    /// The lanes with room for their part of the request, with their limits and keys.
    pub roomy: Vec<i32>,
    /// See [`roomy`](Self::roomy).
    pub roomy_limits: Vec<i32>,
    /// See [`roomy`](Self::roomy).
    pub roomy_keys: Vec<Arc<str>>,
}
