//! The SQL of Conductor, as source.
//!
//! - `tables/NNN_*.sql` are migrations: applied once each, in order, and never edited after a release.
//! - `functions/*.sql` are the source of every function: edited in place, and applied whole when a database has those of
//!   another build. See [`FunctionSet`].
//!
//! `README.md` beside the sources has the rules for both.

mod functions;
mod tables;

pub use functions::{Function, FunctionSet};
pub use tables::Migration;

/// The MD5 of a text, in hexadecimal, as the function `md5` of Postgres returns it.
fn checksum(texts: impl IntoIterator<Item = &'static str>) -> String {
    use md5::{Digest, Md5};
    let mut digest = Md5::new();
    for text in texts {
        digest.update(text);
    }
    let bytes = digest.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
