use conductor::Conductor;
use conductor::embedded::{Embedded, Kind};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

/// The server that is measured.
pub(crate) struct Server {
    url: String,
    _embedded: Option<Embedded>,
}

/// A fresh database with the schema; `close` drops it.
pub(crate) struct Fresh {
    pub(crate) conductor: Conductor,
    server: String,
    name: String,
}

impl Server {
    pub(crate) async fn start(url: Option<String>) -> anyhow::Result<Self> {
        match url {
            Some(url) => Ok(Self {
                url,
                _embedded: None,
            }),
            None => {
                let embedded = Embedded::start(Kind::Durable).await?;
                Ok(Self {
                    url: embedded.url("postgres"),
                    _embedded: Some(embedded),
                })
            }
        }
    }

    pub(crate) async fn fresh(&self) -> anyhow::Result<Fresh> {
        let name = format!("conductor_bench_{}", Uuid::now_v7().simple());
        let mut admin = PgConnection::connect(&self.url).await?;
        admin
            .execute(AssertSqlSafe(format!("create database {name}")))
            .await?;
        // What an earlier run left to be written should not be written during this one.
        admin.execute("checkpoint").await?;
        admin.close().await?;
        let (start, query) = match self.url.split_once('?') {
            Some((start, query)) => (start, format!("?{query}")),
            None => (self.url.as_str(), String::new()),
        };
        let (start, _) = start
            .rsplit_once('/')
            .ok_or_else(|| anyhow::anyhow!("--url needs the form postgres://user@host/database"))?;
        let conductor = Conductor::connect_to(&format!("{start}/{name}{query}")).await?;
        Ok(Fresh {
            conductor,
            server: self.url.clone(),
            name,
        })
    }
}

impl Fresh {
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.conductor.pool().close().await;
        let mut admin = PgConnection::connect(&self.server).await?;
        admin
            .execute(AssertSqlSafe(format!(
                "drop database {} with (force)",
                self.name
            )))
            .await?;
        admin.close().await?;
        Ok(())
    }
}
