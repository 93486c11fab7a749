//! TLS to the server, and what is said where it does not come about.
//!
//! Needs the program `openssl` to make certificates; without it this test says so and passes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use conductor::prelude::*;
use conductor::{Conductor, Error};

use crate::support::{Server, own};

#[task]
async fn tls_add(_ctx: &TaskContext, a: i64, b: i64) -> anyhow::Result<i64> {
    Ok(a + b)
}

/// Certificates of an authority of the test's own; removed with this value.
struct Certificates(PathBuf);

impl Certificates {
    /// None where the program is missing.
    fn new() -> anyhow::Result<Option<Self>> {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("openssl is not installed: TLS was not tested");
            return Ok(None);
        }
        let folder = std::env::temp_dir().join(format!("conductor-tls-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let made = Self(folder);
        for authority in ["ours", "other"] {
            made.openssl(&format!(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
            ))?;
        }
        made.openssl(
            "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        )?;
        fs::write(made.path("names"), "subjectAltName=DNS:localhost\n")?;
        made.openssl(
            "x509 -req -in server.csr -CA ours.pem -CAkey ours.key -CAcreateserial -days 2 -extfile names -out server.pem",
        )?;
        own(&made.0)?;
        Ok(Some(made))
    }

    fn openssl(&self, arguments: &str) -> anyhow::Result<()> {
        let done = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(&self.0)
            .output()?;
        anyhow::ensure!(done.status.success(), "{done:?}");
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        // They lie in the temporary folder at worst.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Gives a file to the user that Postgres runs as; it refuses keys that others may read.
fn give(certificates: &Certificates, name: &str) -> anyhow::Result<String> {
    let path = certificates.path(name);
    let owner = nix::sys::stat::stat(&certificates.0)?;
    let (user, group) = (
        nix::unistd::Uid::from_raw(owner.st_uid),
        nix::unistd::Gid::from_raw(owner.st_gid),
    );
    nix::unistd::chown(Path::new(&path), Some(user), Some(group))?;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(path.display().to_string())
}

async fn refused(url: &str) -> String {
    match Conductor::connect_to(url).await {
        Err(error @ Error::Connect { .. }) => format!("{error} {error:?}"),
        other => panic!("{url}: {other:?}"),
    }
}

#[tokio::test]
async fn a_certificate_is_checked_as_the_address_says() -> anyhow::Result<()> {
    let Some(certificates) = Certificates::new()? else {
        return Ok(());
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let server = Server::start_with(&[
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", give(&certificates, "server.pem")?),
        format!("ssl_key_file={}", give(&certificates, "server.key")?),
    ])
    .await?;
    let url = |host: &str, mode: &str, authority: &str| {
        let authority = certificates.path(authority);
        format!(
            "postgres://postgres:s3cr3t@{host}:{port}/postgres?sslmode={mode}&sslrootcert={}",
            authority.display()
        )
    };

    for good in [
        url("localhost", "verify-full", "ours.pem"),
        url("127.0.0.1", "verify-ca", "ours.pem"),
        url("127.0.0.1", "require", "ours.pem"),
    ] {
        let client = Conductor::connect_to(&good).await?;
        let encrypted: bool =
            sqlx::query_scalar("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
                .fetch_one(client.pool())
                .await?;
        assert!(encrypted, "{good}");
        let run = client.invoke::<TlsAdd>(TlsAdd { a: 1, b: 2 }).await?;
        Orchestrator::builder(client).build()?.drain().await?;
        assert_eq!(run.result().await?, 3);
    }
    for bad in [
        url("localhost", "verify-full", "other.pem"),
        url("localhost", "verify-ca", "other.pem"),
        // The certificate is made out to the name.
        url("127.0.0.1", "verify-full", "ours.pem"),
    ] {
        let text = refused(&bad).await;
        assert!(text.to_lowercase().contains("certificate"), "{text}");
        assert!(!text.contains("s3cr3t"), "{text}");
    }
    drop(server);
    Ok(())
}
