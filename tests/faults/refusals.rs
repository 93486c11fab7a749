//! A server that answers, and does not do it.

use conductor::prelude::*;
use conductor::testing::TestConductor;
use sqlx::Connection;

use super::{Bodies, durable_ones, start};
use crate::support::{count, number, session};

/// Each kind of statement is refused several times, as the victim of a deadlock or of a conflict.
#[conductor::test]
async fn what_lost_a_race_is_done_again(test: TestConductor) -> anyhow::Result<()> {
    sqlx::raw_sql(
        "create sequence refusals;
         create function refuse() returns trigger language plpgsql as $$
         declare n bigint := nextval('public.refusals');
         begin
             if n % 5 < 2 then
                 raise exception 'refused' using errcode = case n % 2 when 0 then '40001' else '40P01' end;
             end if;
             return null;
         end $$;
         create trigger refuse after insert on conductor.live_executions
            for each statement execute function refuse();
         create trigger refuse after insert on conductor.finished_executions
            for each statement execute function refuse();
         create trigger refuse after insert on conductor.waits
            for each statement execute function refuse();
         create trigger refuse after insert on conductor.steps
            for each statement execute function refuse();",
    )
    .execute(test.pool())
    .await?;
    let bodies = Bodies::default();
    let worker = start(&test, &bodies).await?;
    durable_ones(&test, 10, &bodies, async { Ok(()) }).await?;
    let refused = number(&test, "select last_value * 2 / 5 from refusals").await;
    assert!(refused > 20, "{refused}");
    worker.stop().await?;
    assert_eq!(count(&test, "failures + crashes > 0").await?, 0);
    Ok(())
}

/// The role's or the database's own `statement_timeout` ends statements of ours that wait.
#[conductor::test]
async fn a_statement_timeout_delays_only(test: TestConductor) -> anyhow::Result<()> {
    sqlx::raw_sql(
        "do $$ begin
             execute format('alter database %I set statement_timeout = 300', current_database());
         end $$",
    )
    .execute(test.pool())
    .await?;
    let client = Conductor::connect_to(test.url()).await?;
    let bodies = Bodies::default();
    let worker = start(&client, &bodies).await?;
    let mut session = session(&test).await?;
    let blocked = async {
        let lock = "set statement_timeout = 0; begin;
                    lock table conductor.live_executions in exclusive mode";
        sqlx::raw_sql(lock).execute(&mut session).await?;
        // Long enough that what waits is cancelled, and cancelled again.
        sqlx::raw_sql("select pg_sleep(1); commit")
            .execute(&mut session)
            .await?;
        Ok(())
    };
    durable_ones(&client, 10, &bodies, blocked).await?;
    worker.stop().await?;
    assert_eq!(count(&test, "failures + crashes > 0").await?, 0);
    session.close().await?;
    Ok(())
}
