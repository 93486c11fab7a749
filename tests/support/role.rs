use std::str::FromStr;

use conductor::Conductor;
use conductor::testing::TestConductor;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

const PASSWORD: &str = "a password";

/// A role of a test's own, dropped with this value: roles are the whole server's.
pub struct Role {
    pub name: String,
    url: String,
}

impl Role {
    pub async fn new(test: &TestConductor) -> Self {
        let name = format!("conductor_role_{}", Uuid::now_v7().simple());
        let role = Self {
            url: test.url().to_owned(),
            name,
        };
        role.owner_runs(test, "create role {role} login password 'a password'")
            .await;
        role
    }

    /// Runs statements as the database's owner; `{role}` stands for the name.
    pub async fn owner_runs(&self, conductor: &Conductor, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.replace("{role}", &self.name)))
            .execute(conductor.pool())
            .await
            .unwrap();
    }

    /// The address of the test's database, for processes of this role's.
    pub fn url(&self) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap();
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        let password = PASSWORD.replace(' ', "%20");
        format!("{scheme}://{}:{password}@{place}", self.name)
    }

    /// A pool of this role's sessions, not yet connected.
    pub fn pool(&self) -> PgPool {
        let options = PgConnectOptions::from_str(&self.url)
            .unwrap()
            .username(&self.name)
            .password(PASSWORD);
        PgPoolOptions::new()
            .max_connections(5)
            .connect_lazy_with(options)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let (name, url) = (self.name.clone(), self.url.clone());
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut owner = PgConnection::connect(&url).await.unwrap();
                let sql = format!("drop owned by {name} cascade; drop role {name}");
                sqlx::raw_sql(AssertSqlSafe(sql))
                    .execute(&mut owner)
                    .await
                    .unwrap();
            });
        });
        assert!(dropper.join().is_ok() || std::thread::panicking());
    }
}
