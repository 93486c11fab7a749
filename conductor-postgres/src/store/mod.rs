//! One typed function for each SQL statement: plain arguments in, typed rows out.
//!
//! What an answer means, and what is done about an error, is up to the caller.

mod claim;
mod claim_request;
mod claimed;
mod claims;
mod outcomes;
mod records;
mod suspensions;

pub use claim::{Claim, ClaimColumns};
pub use claim_request::{ClaimRequest, LaneColumns, Seen, WindowColumns};
pub use claimed::{ClaimResponse, Claimed, Slots};
pub use claims::{disown, finish_and_claim, is_paused};
pub use outcomes::{Completed, Failed, Left, Outcomes, Postponed, Released, locked};
pub use records::{RecordColumns, record_steps};
pub use suspensions::{
    KeyColumns, NewChild, NewWait, Suspensions, WaitColumns, WaitState, look_beside, suspend,
    wait_beside,
};
