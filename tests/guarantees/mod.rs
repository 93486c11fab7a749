//! The guarantees of `docs/guarantees.md`, each by its number.

mod g1_fencing;
mod g2_recovery;
mod g2_waking;
mod g3_no_lost_result;
mod g4_one_bad_row;
mod g5_crash;
mod g5_memo;
mod g6_keys;
mod g7_suspension;
mod g8_children;
mod g9_events;
mod g9_model;
mod g11_limits;
mod g11_quick;
mod g12_dedupe;
mod g13_cancel;
mod g14_shutdown;
mod g15_exactly_once;
mod g16_time;
mod g17_names;
mod g18_unknown;
mod g23_deploys;
