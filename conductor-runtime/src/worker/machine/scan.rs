use std::time::{Duration, Instant};

use conductor_postgres::store::Seen;

/// How often a scan begins at the start, and how soon after the last such scan if a notified worker found nothing:
/// executions that were given back or committed late lie before the position where other scans begin.
const WHOLE: Duration = Duration::from_secs(1);
const WHOLE_IF_WOKEN: Duration = Duration::from_millis(250);

/// Where the scans of claims begin.
#[derive(Debug)]
pub(super) struct Scan {
    /// Where the last scan ended.
    seen: Seen,
    last_whole: Instant,
    next_whole: Instant,
    /// Whether a notification has arrived since the last answer.
    woken: bool,
}

impl Scan {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            seen: Seen::default(),
            last_whole: now,
            next_whole: now,
            woken: false,
        }
    }

    pub(super) fn woken(&mut self) {
        self.woken = true;
    }

    /// Returns where the next scan begins.
    pub(super) fn begin(&mut self, now: Instant) -> Seen {
        let seen = std::mem::take(&mut self.seen);
        if now < self.next_whole {
            return seen;
        }
        self.last_whole = now;
        self.next_whole = now + WHOLE;
        Seen::default()
    }

    /// Notes where a scan ended, and whether it found something.
    pub(super) fn ended(&mut self, seen: Seen, found: bool) {
        self.seen = seen;
        if std::mem::take(&mut self.woken) && !found {
            self.next_whole = self.next_whole.min(self.last_whole + WHOLE_IF_WOKEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            priorities: vec![0],
            from: vec![None],
        }
    }

    fn is_whole(scan: &mut Scan, now: Instant) -> bool {
        scan.begin(now).priorities.is_empty()
    }

    #[test]
    fn a_scan_begins_where_the_last_one_ended_and_once_a_second_at_the_start() {
        let now = Instant::now();
        let mut scan = Scan::new(now);
        assert!(is_whole(&mut scan, now));
        scan.ended(seen(), true);
        assert!(!is_whole(&mut scan, now + WHOLE / 2));
        scan.ended(seen(), false);
        assert!(is_whole(&mut scan, now + WHOLE));
    }

    #[test]
    fn a_notification_without_a_find_brings_the_whole_scan_forward() {
        let now = Instant::now();
        let mut scan = Scan::new(now);
        assert!(is_whole(&mut scan, now));
        scan.woken();
        scan.ended(seen(), false);
        assert!(!is_whole(&mut scan, now + WHOLE_IF_WOKEN / 2));
        scan.woken();
        scan.ended(seen(), true);
        scan.ended(seen(), false);
        assert!(is_whole(&mut scan, now + WHOLE_IF_WOKEN));
    }
}
