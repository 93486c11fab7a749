use conductor::Conductor;
use conductor::testing::TestConductor;
use uuid::Uuid;

use super::{eventually, number};

/// A client of its own, whose calls of functions the server tells once its sessions have ended.
pub struct Counted {
    pub conductor: Conductor,
    name: String,
}

impl Counted {
    pub async fn connect(test: &TestConductor) -> anyhow::Result<Self> {
        // For sessions that begin from now on.
        sqlx::query(
            "do $$ begin execute format('alter database %I set track_functions = pl', current_database()); end $$",
        )
        .execute(test.pool())
        .await?;
        let name = format!("counted-{}", Uuid::now_v7().simple());
        let url = test.url();
        let and = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{and}application_name={name}");
        Ok(Self {
            conductor: Conductor::connect_to(&url).await?,
            name,
        })
    }

    /// Ends its sessions and gives the calls of a function, its own and those before it.
    pub async fn calls(self, test: &TestConductor, function: &str) -> i64 {
        self.conductor.pool().close().await;
        drop(self.conductor);
        let sessions = format!(
            "select count(*) from pg_stat_activity
              where datname = current_database() and application_name = '{}'",
            self.name
        );
        eventually("the end of its sessions", async || {
            number(test, &sessions).await == 0
        })
        .await;
        let calls = format!(
            "select coalesce(sum(calls), 0)::bigint from pg_stat_user_functions
              where schemaname = 'conductor' and funcname = '{function}'"
        );
        number(test, &calls).await
    }
}
