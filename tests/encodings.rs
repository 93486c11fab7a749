//! Databases that cannot store every text are refused before anything is made in them.

use std::path::Path;

use conductor::Error;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use uuid::Uuid;

use crate::support::{number, run_sql};

/// They are applied to databases of any encoding, by any tool.
#[test]
fn migrations_are_ascii() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let folder = |name| std::fs::read_dir(package.join(name)).unwrap();
    let mut files = 0;
    for entry in folder("tables").chain(folder("functions")) {
        let path = entry.unwrap().path();
        files += 1;
        for (n, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            assert!(line.is_ascii(), "{}:{}: {line}", path.display(), n + 1);
        }
    }
    assert!(files >= 70, "{files}");
}

#[conductor::test]
async fn another_encoding_than_utf8_is_refused_by_name(test: TestConductor) -> anyhow::Result<()> {
    for encoding in ["LATIN1", "SQL_ASCII", "EUC_JP"] {
        let name = format!("conductor_{}", Uuid::now_v7().simple());
        run_sql(
            &test,
            &format!(
                "create database {name} encoding '{encoding}' template template0 lc_collate 'C' lc_ctype 'C'"
            ),
        )
        .await?;
        let options: PgConnectOptions = test.url().parse()?;
        let pool = PgPoolOptions::new().connect_lazy_with(options.database(&name));
        // By the command and the call, and at the start of a worker that has not migrated.
        let client = Conductor::from_pool(pool.clone());
        let migrated = client.migrate().await;
        let started = Orchestrator::builder(client).build()?.drain().await;
        for refused in [migrated.map(drop), started] {
            let Err(Error::Schema(text)) = refused else {
                panic!("{refused:?}");
            };
            assert!(text.contains(encoding) && text.contains(&name), "{text}");
            assert!(
                text.contains("encoding 'UTF8' template template0"),
                "{text}"
            );
        }
        let schemas: i64 =
            sqlx::query_scalar("select count(*) from pg_namespace where nspname = 'conductor'")
                .fetch_one(&pool)
                .await?;
        assert_eq!(schemas, 0);
        pool.close().await;
        run_sql(&test, &format!("drop database {name}")).await?;
    }
    let own =
        "select count(*) from pg_database where datname = current_database() and encoding = 6";
    assert_eq!(number(&test, own).await, 1);
    Ok(())
}
