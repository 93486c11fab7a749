use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The linker of every Rust tool chain here is the C compiler, so it is there.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/support/clock.c");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Several binaries may come here at the same time.
    let own = folder.join(format!("clock-{}.so", std::process::id()));
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", source, "-o"])
        .arg(&own)
        .status();
    assert!(built.unwrap().success());
    let library = folder.join("clock.so");
    std::fs::rename(own, &library).unwrap();
    library
});

/// Gives a process that is to start a wall clock which is wrong by hours, before or behind.
pub fn wrong_clock(command: &mut Command, hours: i64) {
    command
        .env("LD_PRELOAD", &*LIBRARY)
        .env("CLOCK_SHIFT", (hours * 3600).to_string());
}
