//! The guide: how to write, invoke, run and test tasks, one page per topic.

#[doc = include_str!("../guide/setup.md")]
pub mod setup {}

#[doc = include_str!("../guide/tasks.md")]
pub mod tasks {}

#[doc = include_str!("../guide/invoking.md")]
pub mod invoking {}

#[doc = include_str!("../guide/steps.md")]
pub mod steps {}

#[doc = include_str!("../guide/scheduling.md")]
pub mod scheduling {}

#[doc = include_str!("../guide/flow_control.md")]
pub mod flow_control {}

#[doc = include_str!("../guide/events.md")]
pub mod events {}

#[doc = include_str!("../guide/row_changes.md")]
pub mod row_changes {}

#[doc = include_str!("../guide/running.md")]
pub mod running {}

#[doc = include_str!("../guide/database.md")]
pub mod database {}

#[doc = include_str!("../guide/testing.md")]
pub mod testing {}
