use std::future::Future;

use sqlx::FromRow;
use sqlx::postgres::{PgArguments, PgQueryResult, PgRow, Postgres};
use sqlx::query::{Query, QueryAs, QueryScalar};

use super::{Database, Session};

/// A statement that runs alone, in a transaction of its own.
pub trait Alone: Sized + Send {
    /// What a row becomes.
    type Row: Send;

    /// Returns the only row, in this session.
    fn one_in(
        self,
        session: Session,
    ) -> impl Future<Output = Result<Self::Row, sqlx::Error>> + Send;

    /// Returns the first row in this session, if there is any.
    fn optional_in(
        self,
        session: Session,
    ) -> impl Future<Output = Result<Option<Self::Row>, sqlx::Error>> + Send;

    /// Returns all rows, in this session.
    fn all_in(
        self,
        session: Session,
    ) -> impl Future<Output = Result<Vec<Self::Row>, sqlx::Error>> + Send;

    /// Returns the only row.
    fn one(
        self,
        database: &Database,
    ) -> impl Future<Output = Result<Self::Row, sqlx::Error>> + Send {
        async { self.one_in(database.session().await?).await }
    }

    /// Returns the first row, if there is any.
    fn optional(
        self,
        database: &Database,
    ) -> impl Future<Output = Result<Option<Self::Row>, sqlx::Error>> + Send {
        async { self.optional_in(database.session().await?).await }
    }

    /// Returns all rows.
    fn all(
        self,
        database: &Database,
    ) -> impl Future<Output = Result<Vec<Self::Row>, sqlx::Error>> + Send {
        async { self.all_in(database.session().await?).await }
    }
}

macro_rules! alone {
    (@$name:ident, $fetch:ident, $answer:ty) => {
        async fn $name(self, mut session: Session) -> Result<$answer, sqlx::Error> {
            let mut flight = session.flight();
            let answer = self.$fetch(&mut *flight).await;
            flight.landed = true;
            drop(flight);
            session.heed(&answer);
            session.settle(answer).await
        }
    };
    ($query:ty, $row:ty, [$($output:ident: $($bound:tt)+)?]) => {
        impl$(<$output: $($bound)+>)? Alone for $query {
            type Row = $row;

            alone!(@one_in, fetch_one, $row);
            alone!(@optional_in, fetch_optional, Option<$row>);
            alone!(@all_in, fetch_all, Vec<$row>);
        }
    };
}

alone!(Query<'_, Postgres, PgArguments>, PgRow, []);
alone!(QueryAs<'_, Postgres, O, PgArguments>, O, [O: for<'r> FromRow<'r, PgRow> + Send + Unpin]);
alone!(QueryScalar<'_, Postgres, O, PgArguments>, O, [O: Send + Unpin + sqlx::Type<Postgres> + for<'r> sqlx::Decode<'r, Postgres>]);

impl Database {
    /// Runs a statement alone, for its effect.
    pub async fn run(
        &self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<PgQueryResult, sqlx::Error> {
        let mut session = self.session().await?;
        let mut flight = session.flight();
        let done = query.execute(&mut *flight).await;
        flight.landed = true;
        drop(flight);
        session.heed(&done);
        session.settle(done).await
    }
}
