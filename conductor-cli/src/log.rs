//! Where a program's log goes.

use std::io;

use anstream::{AutoStream, ColorChoice};
use tracing_subscriber::EnvFilter;

/// Installs a `tracing` subscriber that logs to standard error, unless the program has installed one.
pub(crate) fn log() {
    let (filter, wrong) = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(text) if !text.is_empty() => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (usual(), Some(error)),
        },
        _ => (usual(), None),
    };
    let colours = AutoStream::choice(&io::stderr()) != ColorChoice::Never;
    let installed = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours)
        .try_init();
    if let (Ok(()), Some(error)) = (installed, wrong) {
        tracing::warn!(%error, "RUST_LOG is not understood and is ignored");
    }
}

fn usual() -> EnvFilter {
    // sqlx warns of each broken connection; the library logs an outage once.
    EnvFilter::new("info,sqlx=error")
}
