use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use crate::error::{Error, Result};

/// Connections that one client opens at most, the listener apart.
const MAX_CONNECTIONS: u32 = 10;

/// Where the database is, with a text that shows no password.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    options: PgConnectOptions,
    shown: String,
}

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let shown = without_password(url);
        let refuse = |reason: String| Error::Connect {
            url: shown.clone(),
            reason,
        };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(refuse(
                "the address must look like postgres://user:password@host:5432/database".to_owned(),
            ));
        }
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| refuse(error.to_string()))?
            .application_name("conductor")
            .disable_statement_logging();
        Ok(Self { options, shown })
    }
}

/// Opens a pool and makes sure that the server answers.
pub(crate) async fn open(address: &Address) -> Result<PgPool> {
    let opened = PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(Duration::from_secs(10))
        // A ping before each use would double the round trips; whoever meets a broken
        // connection retries where that is safe.
        .test_before_acquire(false)
        .connect_with(address.options.clone())
        .await;
    let reason = match opened {
        Ok(pool) => return Ok(pool),
        Err(sqlx::Error::PoolTimedOut) => why_no_answer(address).await,
        Err(error) => error.to_string(),
    };
    Err(Error::Connect {
        url: address.shown.clone(),
        reason,
    })
}

/// The pool waits for a server that is about to start, and does not say what it has met.
async fn why_no_answer(address: &Address) -> String {
    let attempt = address.options.connect();
    match tokio::time::timeout(Duration::from_secs(1), attempt).await {
        Ok(Err(error)) => format!("no answer within 10 s ({error})"),
        Ok(Ok(_)) | Err(_) => "no answer within 10 s".to_owned(),
    }
}

fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "the address in DATABASE_URL".to_owned();
    };
    // The last `@`, as a password may hold `@`, `/` and `?` that should have been escaped.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (user.split(':').next().unwrap_or_default(), rest),
        None => ("", rest),
    };
    let (host, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let at = if user.is_empty() { "" } else { "@" };
    let authority = format!("{user}{at}{host}");
    // A password may also stand among the parameters.
    let tail = tail.split_once('?').map_or(tail, |(path, query)| {
        if query.contains("password") {
            path
        } else {
            tail
        }
    });
    format!("{scheme}://{authority}{tail}")
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn a_shown_address_has_no_password() {
        let shown = without_password("postgres://ann:se:cr@t@db.example:5432/app?sslmode=require");
        assert_eq!(shown, "postgres://ann@db.example:5432/app?sslmode=require");
        assert_eq!(
            without_password("postgres:///app?password=secret"),
            "postgres:///app"
        );
        assert_eq!(without_password("secret"), "the address in DATABASE_URL");
        assert_eq!(
            without_password("postgres://ann:se/c?r@et@db/app"),
            "postgres://ann@db/app"
        );
        assert_eq!(
            without_password("postgres://:secret@db/app"),
            "postgres://db/app"
        );
    }
}
