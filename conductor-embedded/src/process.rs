//! Inspects processes and waits for conditions.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Returns whether the process runs. One that has ended and was not yet reaped does not.
pub(super) fn running(pid: u32) -> bool {
    if Path::new("/proc/self/stat").exists() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The state follows the name in parentheses, which may contain any characters.
        return stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']));
    }
    let listed = Command::new("ps")
        .args(["-o", "stat=", "-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    listed.is_ok_and(|out| !matches!(out.stdout.trim_ascii().first(), None | Some(b'Z')))
}

/// Calls `question` every `step` until it returns an answer or the time is over.
pub(super) fn poll<T>(
    time: Duration,
    step: Duration,
    mut question: impl FnMut() -> Option<T>,
) -> Option<T> {
    let end = Instant::now() + time;
    loop {
        if let Some(answer) = question() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(step);
    }
}
