use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One tick of a schedule. A payload that implements `From<CronTick>` can be made from it.
///
/// ```
/// use conductor::prelude::*;
///
/// #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
/// struct Report { day: chrono::NaiveDate }
///
/// impl From<CronTick> for Report {
///     fn from(tick: CronTick) -> Self {
///         Self { day: tick.scheduled_at.date_naive() }
///     }
/// }
///
/// #[task(cron = "@daily")]
/// async fn write_report(ctx: &TaskContext, payload: Report) -> anyhow::Result<()> {
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct CronTick {
    /// The schedule's name.
    pub schedule: String,
    /// The time of the tick; the execution starts at or after it.
    pub scheduled_at: DateTime<Utc>,
}

impl CronTick {
    /// Creates a tick as the scheduler does, for tests.
    pub fn new(schedule: impl Into<String>, scheduled_at: DateTime<Utc>) -> Self {
        Self {
            schedule: schedule.into(),
            scheduled_at,
        }
    }
}

impl From<CronTick> for () {
    fn from(_: CronTick) {}
}

/// A payload that can be made from a tick; implemented through `From<CronTick>`.
#[diagnostic::on_unimplemented(
    message = "this task runs by cron, so its payload `{Self}` must come from a tick",
    label = "its ticks make no `{Self}`",
    note = "implement `From<CronTick>` for `{Self}`, or write `cron(\"…\", payload = …)`"
)]
pub trait FromTick {
    /// Creates the payload.
    fn from_tick(tick: CronTick) -> Self;
}

#[diagnostic::do_not_recommend]
impl<T: From<CronTick>> FromTick for T {
    fn from_tick(tick: CronTick) -> Self {
        Self::from(tick)
    }
}
