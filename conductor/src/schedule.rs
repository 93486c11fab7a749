//! Schedules: static ones, which the code declares, and dynamic ones, which a program creates.
//!
//! The guide page is [`scheduling`](crate::guide::scheduling).

pub use conductor_runtime::client::{Schedule, ScheduleInfo, Schedules, Unschedule};
pub use conductor_runtime::task::{CronDefinition, CronTick, WindowDefinition};
pub use conductor_schedule::{Missed, Overlap};
