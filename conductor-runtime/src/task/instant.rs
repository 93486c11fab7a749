use std::time::SystemTime;

use chrono::{DateTime, TimeZone, Utc};

/// A point in time: a `DateTime` of any zone, or a `SystemTime`.
///
/// ```
/// # use conductor::prelude::*;
/// # fn f(conductor: &Conductor, ctx: &TaskContext) {
/// use chrono::{FixedOffset, TimeZone, Utc};
///
/// let noon = FixedOffset::east_opt(2 * 3600).unwrap().with_ymd_and_hms(2026, 7, 1, 12, 0, 0).unwrap();
/// let _ = ctx.sleep_until("noon", noon);
/// let _ = ctx.sleep_until("now", Utc::now());
/// let _ = ctx.sleep_until("now, too", std::time::SystemTime::now());
/// # }
/// ```
pub trait PointInTime {
    /// Returns the same point in UTC.
    fn utc(self) -> DateTime<Utc>;
}

impl<Z: TimeZone> PointInTime for DateTime<Z> {
    fn utc(self) -> DateTime<Utc> {
        self.with_timezone(&Utc)
    }
}

impl PointInTime for SystemTime {
    fn utc(self) -> DateTime<Utc> {
        self.into()
    }
}
