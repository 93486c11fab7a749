use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use conductor_postgres::sqlstate::OBJECT_IN_USE;
use conductor_postgres::store::databases;
use conductor_postgres::{functions, has_code, migrations};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::client::Conductor;
use crate::error::{Error, Result};

/// Serialises the creation of templates. The number is arbitrary and must never change.
const LOCK: i64 = 0x0063_6f6e_6475_6375;

/// A test's own database, dropped with this value.
pub(super) struct Database {
    url: String,
    server: String,
    name: String,
    // Keeps the server up.
    #[cfg(feature = "embedded")]
    _embedded: Option<crate::embedded::Embedded>,
}

/// Leaves out the addresses, which may contain a password.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Database {
    pub(super) async fn create() -> Result<Self> {
        let (server, embedded) = match std::env::var("DATABASE_URL") {
            Ok(url) if !url.is_empty() => (url, None),
            _ => {
                use crate::embedded::{Embedded, Kind};
                let embedded = Embedded::start(Kind::Volatile).await?;
                (embedded.url("postgres"), Some(embedded))
            }
        };
        let mut admin = PgConnection::connect(&server).await?;
        let template = template(&mut admin, &server).await?;
        let name = format!("conductor_test_{}", Uuid::now_v7().simple());
        // Copying files is faster than logging blocks; Postgres 15 or later has the choice.
        let as_files = databases::server_version(&mut admin).await? >= 150_000;
        copy(&mut admin, &name, &template, as_files).await?;
        admin.close().await?;
        Ok(Self {
            url: with_database(&server, &name)?,
            server,
            name,
            #[cfg(feature = "embedded")]
            _embedded: embedded,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A thread with its own runtime: the test's runtime may be ending, or may run on this
        // thread.
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(drop_patiently(&server, &name))
        });
        match dropper.join() {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(database = %self.name, %error, "a test's database stays");
            }
            Err(_) => tracing::warn!(database = %self.name, "a test's database stays"),
        }
    }
}

/// Drops the database, with retries: many tests that end at once may use all of the server's
/// connections.
async fn drop_patiently(server: &str, name: &str) -> std::io::Result<()> {
    const TRIES: u32 = 120;
    let mut tries = 0;
    loop {
        let dropped = async {
            let mut admin = PgConnection::connect(server).await?;
            databases::drop_if_exists(&mut admin, name).await?;
            admin.close().await
        };
        tries += 1;
        match dropped.await {
            Ok(()) => return Ok(()),
            Err(error) if tries == TRIES => return Err(std::io::Error::other(error)),
            Err(error) => tracing::debug!(name, %error, "a test's database is dropped again"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
}

/// Returns the template with this build's schema; the first test that needs it creates it.
async fn template(admin: &mut PgConnection, server: &str) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for migration in migrations() {
        migration.sql.hash(&mut hasher);
    }
    functions().checksum.hash(&mut hasher);
    let name = format!("conductor_template_{:016x}", hasher.finish());
    if databases::is_template(admin, &name).await? {
        return Ok(name);
    }
    // A session lock, because a database cannot be created in a transaction; it ends with the
    // session.
    databases::lock(admin, LOCK).await?;
    if !databases::is_template(admin, &name).await? {
        // One that is unfinished.
        databases::drop_if_exists(admin, &name).await?;
        databases::create(admin, &name).await?;
        let conductor = Conductor::connect_to(&with_database(server, &name)?).await?;
        conductor.pool().close().await;
        databases::mark_as_template(admin, &name).await?;
    }
    databases::unlock(admin, LOCK).await?;
    Ok(name)
}

/// Copies the template, with retries: autovacuum may be connected to it for a moment.
async fn copy(admin: &mut PgConnection, name: &str, template: &str, as_files: bool) -> Result<()> {
    const TRIES: u32 = 50;
    for attempt in 1.. {
        match databases::copy(admin, name, template, as_files).await {
            Ok(()) => return Ok(()),
            Err(error) if has_code(&error, OBJECT_IN_USE) && attempt < TRIES => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Returns the same server's address with another database.
fn with_database(url: &str, database: &str) -> Result<String> {
    let malformed = || Error::Invalid("DATABASE_URL is malformed".to_owned());
    let (scheme, rest) = url.split_once("://").ok_or_else(malformed)?;
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, format!("?{query}")),
        None => (rest, String::new()),
    };
    let authority = rest.split('/').next().ok_or_else(malformed)?;
    Ok(format!("{scheme}://{authority}/{database}{query}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::with_database;

    #[test]
    fn the_database_is_exchanged_and_nothing_else() {
        assert_eq!(
            with_database("postgres://a:b@h:1/old?host=%2Ftmp", "new").unwrap(),
            "postgres://a:b@h:1/new?host=%2Ftmp"
        );
        assert_eq!(
            with_database("postgresql://h", "new").unwrap(),
            "postgresql://h/new"
        );
    }
}
