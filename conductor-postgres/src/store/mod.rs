//! The statements that are sent to the server: one function for each, with plain arguments and typed rows.
//!
//! A function that takes a [`Database`](crate::Database) runs its statement alone. One that takes a connection runs it
//! in the caller's transaction, if there is one. With a reference to [`RetryBudget`](crate::RetryBudget), it is one try,
//! which may take as long as this try may. With `RetryBudget` itself, it retries.
//!
//! All return the driver's error; the caller decides what to do about it. If a function raises a code of
//! [`sqlstate`](crate::sqlstate) on purpose, its documentation names it. Any statement may fail because the connection
//! or the server failed, or because the role lacks a right.
//!
//! What a worker sends and receives is at the root of this module; the others are by noun.

mod claim;
mod claim_request;
mod claimed;
mod claims;
mod columns;
mod outcomes;
mod step_records;
mod suspensions;

pub mod checks;
pub mod children;
pub mod chores;
pub mod clock;
#[cfg(feature = "testing")]
pub mod databases;
pub mod details;
pub mod dispatch;
pub mod events;
pub mod executions;
pub mod leases;
pub mod listing;
pub mod processes;
pub mod pruning;
pub mod queues;
pub mod records;
pub mod row_triggers;
pub mod rows;
pub mod schedules;
pub mod steps;
pub mod tables;
pub mod tasks;
pub mod ticks;

pub use claim::{Claim, ClaimColumns};
pub use claim_request::{ClaimRequest, LaneColumns, Seen, WindowColumns};
pub use claimed::{ClaimResponse, Claimed, Slots};
pub use claims::{disown, finish_and_claim, is_paused};
pub use outcomes::{Completed, Failed, Left, Outcomes, Postponed, Released, locked};
pub use step_records::{RecordColumns, record_steps};
pub use suspensions::{
    KeyColumns, NewChild, NewWait, Suspensions, WaitColumns, WaitState, look_beside, suspend,
    wait_beside,
};
