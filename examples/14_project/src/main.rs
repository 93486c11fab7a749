//! The worker and the command line of the project:
//!
//!     cargo run -p trial
//!     cargo run -p trial -- invoke trial email=alice@example.com
//!     cargo run -p trial -- emit subscribed email=alice@example.com
//!
//! Ctrl-C stops the worker.

use conductor::prelude::*;
use trial::Mailer;

conductor::main! {
    workers: [Worker::queue("default").concurrency(10)],
    setup: async |app| Ok(app.state(Mailer::default())),
}
