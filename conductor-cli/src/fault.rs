//! The error of a command, with its exit code.

use std::borrow::Cow;
use std::io;
use std::process::ExitCode;

use conductor_runtime::error::Error;

use super::output::{self, ERROR, STRONG};

/// The execution failed or was cancelled, or what was asked for does not exist.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// The database cannot be reached, or its schema is not compatible.
pub(crate) const DATABASE: u8 = 3;

/// The error of a command.
#[derive(Debug)]
pub(crate) struct Fault {
    code: u8,
    /// `None` if the error was printed already, or if the reader has closed the output.
    text: Option<String>,
    /// Advice, printed as a line of its own.
    help: Option<String>,
}

pub(crate) type Done<T = ()> = Result<T, Fault>;

impl Fault {
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        Self {
            code,
            text: Some(text.into()),
            help: None,
        }
    }

    /// Exits with this code and prints nothing.
    pub(crate) fn silent(code: u8) -> Self {
        Self {
            code,
            text: None,
            help: None,
        }
    }

    pub(crate) fn report(self) -> ExitCode {
        if let Some(text) = self.text {
            output::note(&format!("{ERROR}error:{ERROR:#} {}", output::lines(&text)));
        }
        if let Some(help) = self.help {
            output::note(&format!("{STRONG}help:{STRONG:#} {}", output::lines(&help)));
        }
        ExitCode::from(self.code)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Connect { .. } | Error::Schema(_) | Error::Embedded(_) | Error::Database(_) => {
                DATABASE
            }
            Error::UnknownTask { .. }
            | Error::Payload { .. }
            | Error::Event { .. }
            | Error::Invalid(_) => USAGE,
            _ => FAILED,
        };
        let text = match &error {
            // One line for each.
            Error::Refused(faults) => format!("cannot start:\n  - {}", faults.join("\n  - ")),
            error => error.without_help(),
        };
        Self {
            help: error.help().map(Cow::into_owned),
            ..Self::new(code, text)
        }
    }
}

/// Converts an error that `setup` returned.
impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => error.into(),
            Err(error) => Self::new(FAILED, format!("{error:#}")),
        }
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::new(FAILED, format!("cannot write JSON: {error}"))
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        // The reader has closed the pipe, as in `list | head -1`.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(0);
        }
        Self::new(FAILED, format!("cannot write the output: {error}"))
    }
}
