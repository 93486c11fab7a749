use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Executor};

use crate::error::{Error, Result};

/// The most connections that one client opens, not counting the listener's.
const MAX_CONNECTIONS: u32 = 10;
/// Makes the server detect within 11 s that this host is unreachable, before a lease of the default 15 s ends. By
/// default that takes two hours, during which the session's locks are held.
const BE_MISSED: &str = "set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2;
     set tcp_keepalives_count = 3; set tcp_user_timeout = 11000";

/// The parameters of a URL that the driver knows.
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

/// A database address, with a text that contains no password.
#[derive(Clone)]
pub struct Address {
    options: PgConnectOptions,
    shown: String,
}

/// Shows the text only, because the options contain the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.shown).finish()
    }
}

impl Address {
    /// Reads an address, and checks what the driver would not.
    pub fn parse(url: &str) -> Result<Self> {
        let shown = without_password(url);
        let refuse = |reason: String, source: Option<sqlx::Error>| Error::Connect {
            url: shown.clone(),
            reason,
            source,
        };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(refuse(
                "the address must look like postgres://user:password@host:5432/database".to_owned(),
                None,
            ));
        }
        let options = PgConnectOptions::from_str(&known_part(url))
            .map_err(|error| refuse(error.to_string(), Some(error)))?
            .application_name("conductor")
            // PgBouncer refuses this parameter, and current servers do not need it.
            .extra_float_digits(None)
            .disable_statement_logging();
        Ok(Self { options, shown })
    }
}

/// Returns the direct address for LISTEN, `CONDUCTOR_LISTEN_URL`, for use if `DATABASE_URL` leads through a pooler.
pub fn direct_way() -> Option<PgConnectOptions> {
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

/// Returns options for a pool that the library opens.
pub fn pool_options() -> PgPoolOptions {
    PgPoolOptions::new().after_connect(|connection, _| Box::pin(be_missed(connection)))
}

/// Opens a connection outside the pool.
pub async fn connect(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    let mut connection = options.connect().await?;
    be_missed(&mut connection).await?;
    Ok(connection)
}

async fn be_missed(connection: &mut PgConnection) -> sqlx::Result<()> {
    match connection.execute(BE_MISSED).await {
        Ok(_) => Ok(()),
        // A server that is only compatible with Postgres may not have these settings.
        Err(error @ sqlx::Error::Database(_)) => {
            tracing::debug!(%error, "the server does not take keepalives");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Opens a pool and checks that the server answers.
pub async fn open(address: &Address) -> Result<PgPool> {
    let opened = pool_options()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(Duration::from_secs(10))
        // A ping before each use would double the round trips. Callers that get a broken connection retry if that is
        // safe.
        .test_before_acquire(false)
        .connect_with(address.options.clone())
        .await;
    let (reason, source) = match opened {
        Ok(pool) => return Ok(pool),
        Err(sqlx::Error::PoolTimedOut) => why_no_answer(address).await,
        Err(error) => (error.to_string(), error),
    };
    Err(Error::Connect {
        url: address.shown.clone(),
        reason,
        source: Some(source),
    })
}

/// Returns why there was no answer: the pool waits for a server that is starting, and hides its errors.
async fn why_no_answer(address: &Address) -> (String, sqlx::Error) {
    let attempt = address.options.connect();
    match tokio::time::timeout(Duration::from_secs(1), attempt).await {
        Ok(Err(error)) => (format!("no answer within 10 s ({error})"), error),
        Ok(Ok(_)) | Err(_) => (
            "no answer within 10 s".to_owned(),
            sqlx::Error::PoolTimedOut,
        ),
    }
}

/// Returns the address without parameters that the driver does not know. It would log each with its value, which may
/// be a password (`sslpassword`, or a typo). Their names are not logged either, because after a password that
/// contains `?` they are part of it.
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
    // The last `@`, because a password may contain unescaped `@`, `/` and `?`.
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
    // A password may also be among the parameters.
    let tail = tail.split_once('?').map_or(tail, |(path, query)| {
        if query.contains("password") {
            path
        } else {
            tail
        }
    });
    format!("{scheme}://{authority}{tail}")
}

/// Returns the user if the host is missing, so that the password is at the place of the port.
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
