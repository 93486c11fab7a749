//! `migrate` and `db`: migrates the database, and opens psql.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use conductor_runtime::client::Conductor;
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::{Db, Migrate};
use super::fault::{Done, FAILED, Fault};
use super::log::log;
use super::output;

pub(crate) async fn migrate(command: Migrate, url: Option<&str>) -> Done {
    log();
    let conductor = open(url).await?;
    let before = conductor.schema_version().await?;
    conductor.migrate_within(command.wait).await?;
    let now = conductor.schema_version().await?;
    output::print(&if before == now {
        format!("schema version {now}; nothing to do")
    } else {
        format!("schema version {now}; it was {before}")
    })?;
    if command.roles {
        conductor.create_roles().await?;
        output::print("the roles conductor_client and conductor_worker have their rights")?;
    }
    Ok(())
}

pub(crate) async fn db(command: Db, url: Option<&str>) -> Done {
    let interactive = !command.url && io::stdin().is_terminal() && io::stdout().is_terminal();
    let given = match url {
        Some(url) => Some(url.to_owned()),
        None => std::env::var("DATABASE_URL")
            .ok()
            .filter(|url| !url.is_empty()),
    };
    let (address, bin_dir) = match &given {
        Some(url) => (url.clone(), None),
        None => private(interactive).await?,
    };
    output::print(&address)?;
    if !interactive {
        return Ok(());
    }
    psql(&address, bin_dir).await
}

/// Starts the private server and returns its URL and the directory of its programs.
#[cfg(feature = "embedded")]
async fn private(stays: bool) -> Done<(String, Option<PathBuf>)> {
    let conductor = open(None).await?;
    let embedded = conductor
        .embedded()
        .ok_or_else(|| Fault::new(FAILED, "no private server was started"))?;
    if !stays {
        output::note("the private server runs as long as a process of this project does");
    }
    Ok((
        embedded.url("postgres"),
        Some(embedded.bin_dir().to_path_buf()),
    ))
}

#[cfg(not(feature = "embedded"))]
async fn private(_stays: bool) -> Done<(String, Option<PathBuf>)> {
    open(None).await?;
    Err(Fault::new(FAILED, "DATABASE_URL is unset"))
}

async fn psql(address: &str, bin_dir: Option<PathBuf>) -> Done {
    let beside = bin_dir
        .map(|dir| dir.join("psql"))
        .filter(|psql| psql.exists());
    let psql = beside.unwrap_or_else(|| PathBuf::from("psql"));
    // Leaves Ctrl-C to psql: this process must outlive it, also because the private server ends with this process.
    let _interrupts = signal(SignalKind::interrupt())?;
    match tokio::process::Command::new(&psql)
        .arg(address)
        .status()
        .await
    {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Fault::new(FAILED, format!("psql ended with {status}"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            output::note("no psql was found; the address above serves any Postgres client");
            Ok(())
        }
        Err(error) => Err(Fault::new(
            FAILED,
            format!("cannot run {}: {error}", psql.display()),
        )),
    }
}

pub(crate) async fn open(url: Option<&str>) -> Done<Conductor> {
    Ok(match url {
        Some(url) => Conductor::open_url(url).await?,
        None => Conductor::open().await?,
    })
}

/// Returns the location of the database, without a password.
pub(crate) fn place(conductor: &Conductor) -> String {
    #[cfg(feature = "embedded")]
    if let Some(embedded) = conductor.embedded() {
        return format!(
            "private PostgreSQL {} in {}",
            embedded.version(),
            embedded.data_dir().display()
        );
    }
    let options = conductor.pool().connect_options();
    let database = options.get_database().unwrap_or(options.get_username());
    let host = match options.get_socket() {
        Some(folder) => folder.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    format!("{database} on {host} as {}", options.get_username())
}
