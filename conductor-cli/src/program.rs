use std::ffi::OsString;
use std::path::Path;

/// The name and the command by which this program was called.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    call: String,
}

impl Program {
    pub(crate) fn of(arguments: &[OsString]) -> Self {
        let path = Path::new(
            arguments
                .first()
                .map_or("program".as_ref(), OsString::as_os_str),
        );
        let name = path.file_name().unwrap_or(path.as_os_str());
        let name = name.to_string_lossy().into_owned();
        let by_cargo = std::env::var_os("CARGO").is_some();
        let folder = path.parent().and_then(Path::file_name);
        let call = match folder.and_then(|folder| folder.to_str()) {
            Some("examples") if by_cargo => format!("cargo run --example {name} --"),
            Some("debug" | "release") if by_cargo => format!("cargo run --bin {name} --"),
            _ => path.to_string_lossy().into_owned(),
        };
        Self { name, call }
    }

    /// Returns the file name of the program.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the command that calls the program from the current directory.
    pub(crate) fn call(&self) -> &str {
        &self.call
    }
}
