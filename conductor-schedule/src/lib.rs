//! Cron rules and time windows of the crate `conductor`. Depend on that crate instead.
//!
//! The macros and the runtime share this code, so the runtime accepts every rule that compiles.
//! Nothing here reads a clock: every instant is an argument.

mod clock;
mod weekdays;
mod zone;

mod cron;
mod field;
mod tick;
mod window;

mod due;
mod missed;
mod overlap;
mod word;

pub use chrono_tz::Tz;
pub use cron::{Cron, CronError};
pub use due::{Due, MOST_COUNTED};
pub use missed::Missed;
pub use overlap::Overlap;
pub use window::{Window, WindowError};
pub use word::UnknownWord;
pub use zone::{UnknownZone, zone};
