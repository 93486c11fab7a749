//! A user's two-phase transaction may invoke, emit and change rows that tasks listen to.

use conductor::prelude::*;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::{Server, Shutdown, eventually, narrow, number};

#[event(name = "phase.said")]
struct PhaseSaid {
    n: i64,
}

#[task(name = "phase.said", event(PhaseSaid))]
async fn phase_said(_ctx: &TaskContext, payload: PhaseSaid) -> anyhow::Result<i64> {
    Ok(payload.n)
}

#[task(name = "phase.job")]
async fn phase_job(_ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    Ok(n)
}

const ALL: &str = r#"
    begin;
    select conductor.invoke('phase.job', '{"n": 1}');
    select conductor.invoke('phase.job', '{"n": 2}', dedupe_key => 'k');
    select conductor.emit('phase.said', '{"n": 3}');
    insert into users values (1);"#;

#[tokio::test]
async fn a_two_phase_transaction_may_invoke_emit_and_change_rows() -> anyhow::Result<()> {
    let mut server = Server::start_with(&["max_prepared_transactions=5".to_owned()]).await?;
    let url = server.url();
    let conductor = Conductor::connect_to(&url).await?;
    let worker = Orchestrator::builder(conductor.clone())
        .worker(narrow(2))
        .allow_unserved_queues()
        .build()?
        .start()
        .await?;
    let mut session = PgConnection::connect(&url).await?;
    sqlx::raw_sql(
        "create table users (id int);
         select conductor.install_row_trigger('users'::regclass, 'insert', '1 s');
         insert into conductor.row_triggers
         select t.id, 'users'::regclass, 'insert', '{id}', null, null, 'x'
           from conductor.tasks t where t.name = 'phase.job'",
    )
    .execute(&mut session)
    .await?;
    let prepared = format!("{ALL} prepare transaction 'p'");
    sqlx::raw_sql(AssertSqlSafe(prepared))
        .execute(&mut session)
        .await?;
    sqlx::raw_sql("commit prepared 'p'")
        .execute(&mut session)
        .await?;
    // The row's change is no payload of the job, which stays for a build that can read it.
    let ended = "select (select count(*) from conductor.finished_executions)
                      + (select count(*) from conductor.live_executions l where l.claim > 0)";
    eventually("all of it has run", || async {
        number(&conductor, ended).await == 4
    })
    .await;
    assert_eq!(
        number(&conductor, "select count(*) from conductor.row_faults").await,
        0
    );

    // Where it is said so, it notifies, and cannot be prepared.
    let told = format!("set conductor.notify = on; {ALL} prepare transaction 'q'");
    let refused = sqlx::raw_sql(AssertSqlSafe(told))
        .execute(&mut session)
        .await;
    assert!(refused.unwrap_err().to_string().contains("NOTIFY"));
    sqlx::raw_sql("rollback").execute(&mut session).await?;
    worker.stop().await?;
    server.stop(Shutdown::Fast).await?;
    Ok(())
}
