//! The suite: one file a guarantee or feature, each test against a database of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod support;

mod addresses;
mod bad_input;
mod basics;
mod batch_invoke;
mod check;
mod cli;
mod client;
mod deploys;
mod events;
mod events_sql;
mod faults;
mod hostile;
mod migrations;
mod names;
mod nested;
mod payloads;
mod plans;
mod pooler;
mod roles;
mod sql_api;
mod template;
mod tls;
mod transactions;

mod g1_fencing;
mod g2_recovery;
mod g2_waking;
mod g3_no_lost_result;
mod g4_one_bad_row;
mod g11_limits;
mod g11_quick;
mod g12_dedupe;
mod g13_cancel;
mod g14_shutdown;
mod g16_time;
mod g17_names;
mod g18_unknown;

mod attempts;
mod batches;
mod cancel;
mod order;
mod long_handlers;
mod pause;
mod shares;
mod retention;
mod wakeup;
mod why;
mod dynamic_schedules;
mod refused_schedules;
mod race;
mod window_ends;
mod windows;
mod step_options;
mod g15_exactly_once;
mod g5_crash;
mod g5_memo;
mod g6_keys;
mod g7_suspension;
mod g8_children;
mod g9_events;
mod g9_model;
mod model;
