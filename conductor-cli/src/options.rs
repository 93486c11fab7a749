use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use conductor_runtime::orchestrator::{Builder, Worker};

type Setup = Box<dyn FnOnce(Builder) -> Pin<Box<dyn Future<Output = anyhow::Result<Builder>>>>>;

/// The settings of a program's command line, as `conductor::main!` takes them.
#[derive(Default)]
pub struct Options {
    pub(crate) workers: Vec<Worker>,
    pub(crate) setup: Option<Setup>,
    pub(crate) arguments: Option<Vec<OsString>>,
}

impl Options {
    /// Creates the default settings: a worker for each queue of the program's tasks, and no setup.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds workers, as [`Builder::workers`] does.
    #[must_use]
    pub fn workers(mut self, workers: impl IntoIterator<Item = Worker>) -> Self {
        self.workers.extend(workers);
        self
    }

    /// Sets a closure that configures the orchestrator, typically by `.state(…)`. Only the commands
    /// that run tasks, `worker` and `drain`, call it. Calling `setup` again replaces the closure.
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

    /// Uses these arguments instead of those of the process. The first one is the name of the program.
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
            // They may contain a database URL with its password.
            .field("arguments", &self.arguments.as_ref().map(Vec::len))
            .finish()
    }
}
