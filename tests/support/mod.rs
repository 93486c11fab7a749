//! What several files of the suite want.

use std::future::Future;
use std::time::{Duration, Instant};

/// Waits until the condition holds, at most 20 s: for what happens by itself, at no known time.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let began = Instant::now();
    while !condition().await {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "never came: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
