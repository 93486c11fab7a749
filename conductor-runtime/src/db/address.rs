use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Executor};

use crate::error::{Error, Result};

/// Connections that one client opens at most, the listener apart.
const MAX_CONNECTIONS: u32 = 10;
/// Has the server find out within 11 s, before a lease of the usual 15 s ends, that this host is cut off.
/// By itself it does within two hours, and what a session holds is locked for that long.
const BE_MISSED: &str = "set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2;
     set tcp_keepalives_count = 3; set tcp_user_timeout = 11000";

/// What the driver reads behind the `?`.
const PARAMETERS: [&str; 17] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
];

/// Where the database is, with a text that shows no password.
#[derive(Clone)]
pub(crate) struct Address {
    options: PgConnectOptions,
    shown: String,
}

/// The options would show the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.shown).finish()
    }
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
        let options = PgConnectOptions::from_str(&known_part(url))
            .map_err(|error| refuse(error.to_string()))?
            .application_name("conductor")
            // PgBouncer refuses it, and a server of today does without.
            .extra_float_digits(None)
            .disable_statement_logging();
        Ok(Self { options, shown })
    }
}

/// Where LISTEN is to be had while `DATABASE_URL` leads through a pooler: `CONDUCTOR_LISTEN_URL`.
pub(crate) fn direct_way() -> Option<PgConnectOptions> {
    let url = std::env::var("CONDUCTOR_LISTEN_URL").ok()?;
    match Address::parse(&url) {
        _ if url.is_empty() => None,
        Ok(address) => Some(address.options),
        Err(error) => {
            tracing::warn!("CONDUCTOR_LISTEN_URL is not used: {error}");
            None
        }
    }
}

/// Of a pool of our own.
pub(crate) fn pool_options() -> PgPoolOptions {
    PgPoolOptions::new().after_connect(|connection, _| Box::pin(be_missed(connection)))
}

/// A connection beside the pool.
pub(crate) async fn connect(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    let mut connection = options.connect().await?;
    be_missed(&mut connection).await?;
    Ok(connection)
}

async fn be_missed(connection: &mut PgConnection) -> sqlx::Result<()> {
    match connection.execute(BE_MISSED).await {
        Ok(_) => Ok(()),
        // A server that is not quite Postgres may not know them.
        Err(error @ sqlx::Error::Database(_)) => {
            tracing::debug!(%error, "the server does not take keepalives");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Opens a pool and makes sure that the server answers.
pub(crate) async fn open(address: &Address) -> Result<PgPool> {
    let opened = pool_options()
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

/// The address without the parameters that the driver does not know: it would log each with its value, which
/// may be a password (`sslpassword`, or a slip). Their names are not told either, as behind a password that
/// holds `?` they are a part of it.
fn known_part(url: &str) -> Cow<'_, str> {
    let Some((place, query)) = url.split_once('?') else {
        return Cow::Borrowed(url);
    };
    let known = |parameter: &&str| {
        let name = parameter.split('=').next().unwrap_or_default();
        name == "options"
            || name.starts_with("options[")
            || name.starts_with("options%5B")
            || PARAMETERS.contains(&name)
    };
    let kept: Vec<&str> = query.split('&').filter(known).collect();
    if kept.len() < query.split('&').filter(|p| !p.is_empty()).count() {
        tracing::warn!(
            "the database's address has parameters that are not known here and have no effect; these are known: {}, options",
            PARAMETERS.join(", ")
        );
    }
    Cow::Owned(format!("{place}?{}", kept.join("&")))
}

fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "the address in DATABASE_URL".to_owned();
    };
    // The last `@`, as a password may hold `@`, `/` and `?` that should have been escaped.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (user.split(':').next().unwrap_or_default(), rest),
        None => match host_forgotten(rest) {
            Some(user) => return format!("{scheme}://{user}"),
            None => ("", rest),
        },
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

/// The user where no host follows and the password stands where a port would.
fn host_forgotten(rest: &str) -> Option<&str> {
    let authority = rest.split(['/', '?']).next()?;
    let (user, port) = authority.split_once(':')?;
    (!user.starts_with('[') && port.parse::<u16>().is_err()).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::{known_part, without_password};

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
        for (url, shown) in [
            ("postgres://ann:secret/app", "postgres://ann"),
            ("postgres://ann:se/cret", "postgres://ann"),
            ("postgres://db:5432/app", "postgres://db:5432/app"),
            ("postgres://[::1]:5432/app", "postgres://[::1]:5432/app"),
            ("postgres://ann@[::1]/app", "postgres://ann@[::1]/app"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[test]
    fn the_driver_sees_what_it_knows_only() {
        let url =
            "postgres://db/app?sslmode=require&sslpassword=secret&options[geqo]=off&passwd=secret";
        assert_eq!(
            known_part(url),
            "postgres://db/app?sslmode=require&options[geqo]=off"
        );
        assert_eq!(known_part("postgres://db/app"), "postgres://db/app");
    }
}
