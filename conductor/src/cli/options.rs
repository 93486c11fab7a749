use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use conductor_runtime::orchestrator::{Builder, Worker};

type Setup = Box<dyn FnOnce(Builder) -> Pin<Box<dyn Future<Output = anyhow::Result<Builder>>>>>;

/// What a program tells its command line; what `conductor::main!` is given.
#[derive(Default)]
pub struct Options {
    pub(super) workers: Vec<Worker>,
    pub(super) setup: Option<Setup>,
    pub(super) arguments: Option<Vec<OsString>>,
}

impl Options {
    /// Every queue that a task names has a worker, and no state is given.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds workers, as [`Builder::workers`] does.
    #[must_use]
    pub fn workers(mut self, workers: impl IntoIterator<Item = Worker>) -> Self {
        self.workers.extend(workers);
        self
    }

    /// Prepares the orchestrator, typically by `.state(…)`. Called only by the commands that run
    /// tasks, `worker` and `drain`; a second call replaces the first.
    #[must_use]
    pub fn setup<F>(mut self, setup: F) -> Self
    where
        F: AsyncFnOnce(Builder) -> anyhow::Result<Builder> + 'static,
    {
        self.setup = Some(Box::new(|builder| {
            Box::pin(async move { setup(builder).await })
        }));
        self
    }

    /// Reads these arguments instead of the process's own; the first one is the program's name.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments = Some(arguments.into_iter().map(Into::into).collect());
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("workers", &self.workers)
            .field("setup", &self.setup.is_some())
            // They may hold an address with its password.
            .field("arguments", &self.arguments.as_ref().map(Vec::len))
            .finish()
    }
}
