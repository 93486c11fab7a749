//! What an on-call engineer would try. Its own binary: nothing else runs beside the storm.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod chaos;
#[cfg(target_os = "linux")]
mod hosts;
#[allow(dead_code, unused_imports)]
mod support;

/// One test after another: each has the machine to itself.
async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}
