//! What this build brings to a database: its migrations and its functions.

pub(crate) use conductor_migrations::FunctionSet;
pub use conductor_migrations::Migration;

/// All migrations of this binary, in order.
pub fn migrations() -> &'static [Migration] {
    #[cfg(feature = "testing")]
    if let Some(migrations) = pretended::MIGRATIONS.get() {
        return migrations;
    }
    Migration::ALL
}

/// The functions of this binary.
pub fn functions() -> &'static FunctionSet {
    #[cfg(feature = "testing")]
    if let Some(functions) = pretended::FUNCTIONS.get() {
        return functions;
    }
    FunctionSet::current()
}

/// The schema version that this binary brings.
pub fn latest_version() -> i32 {
    migrations().last().map_or(0, |migration| migration.id)
}

/// Makes this process one of another build, for tests of deploys. The first call of each counts.
#[cfg(feature = "testing")]
pub mod pretended {
    use std::sync::OnceLock;

    use conductor_migrations::Function;

    use super::{FunctionSet, Migration};

    pub(crate) static MIGRATIONS: OnceLock<Vec<Migration>> = OnceLock::new();
    pub(crate) static FUNCTIONS: OnceLock<FunctionSet> = OnceLock::new();

    /// A build with one migration more.
    pub fn migration(breaking: bool, sql: &'static str) {
        MIGRATIONS.get_or_init(|| {
            let mut all = Migration::ALL.to_vec();
            all.push(Migration {
                id: all.len() as i32 + 1,
                name: "pretended",
                breaking,
                sql,
            });
            all
        });
    }

    /// A build of another version, with these statements behind all functions.
    pub fn functions(version: [i32; 3], sql: &'static str) {
        FUNCTIONS.get_or_init(|| {
            let mut all = FunctionSet::current().functions.to_vec();
            all.push(Function {
                name: "pretended",
                sql,
            });
            FunctionSet::new(version, all.leak())
        });
    }
}
