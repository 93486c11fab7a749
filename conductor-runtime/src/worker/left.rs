//! Logs executions that this build cannot read: one line per task, then the number of further ones, at growing
//! intervals.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

/// The interval between a task's first and second line.
const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Default)]
pub(super) struct Left(HashMap<&'static str, Told>);

#[derive(Debug)]
struct Told {
    /// How many since the last line.
    times: u64,
    next: Instant,
    pause: Duration,
}

impl Left {
    pub(super) fn tell(&mut self, task: &'static str, execution: Uuid, reason: &str) {
        if let Some(times) = self.due(task, Instant::now()) {
            tracing::warn!(task, %execution, times, "{reason}; it waits for a build that can, and is charged with nothing (see `check`)");
        }
    }

    /// Returns how many have occurred since the last line, if it is time for one.
    fn due(&mut self, task: &'static str, now: Instant) -> Option<u64> {
        let told = self.0.entry(task).or_insert(Told {
            times: 0,
            next: now,
            pause: FIRST,
        });
        told.times += 1;
        if now < told.next {
            return None;
        }
        told.next = now.checked_add(told.pause)?;
        told.pause = (told.pause * 4).min(LONGEST);
        Some(std::mem::take(&mut told.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_rare_and_count() {
        let mut left = Left::default();
        let began = Instant::now();
        assert_eq!(left.due("a", began), Some(1));
        assert_eq!(left.due("a", began), None);
        assert_eq!(left.due("b", began), Some(1));
        assert_eq!(left.due("a", began + FIRST), Some(2));
        assert_eq!(left.due("a", began + FIRST * 2), None);
        assert_eq!(left.due("a", began + FIRST * 5), Some(2));
    }
}
