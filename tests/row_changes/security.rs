//! Names are never SQL, and whoever writes a table needs no rights on ours.

use conductor::testing::TestConductor;
use sqlx::Executor;

use super::tables::{outputs, prepared};
use crate::support::{Role, number, run_sql};

const ODD: &str = r#""Odd Schema"."x""; drop table conductor.tasks; --""#;
const TASK: &str = "rows.odd'; drop table conductor.tasks; --";

#[conductor::test]
async fn hostile_names_are_names(test: TestConductor) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(
        &test,
        &format!(
            r#"insert into {ODD} values ('it''s "x"; drop table conductor.tasks; --', 1);
               update {ODD} set "N n" = 2;
               update {ODD} set "y""; drop table conductor.steps; --" = 'changed';
               insert into "Mixed" values (1)"#
        ),
    )
    .await?;
    let found = outputs(&test, TASK).await?;
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[1], "changed");
    assert_eq!(outputs(&test, "rows.mixed").await?, ["null"]);
    assert!(test.row_faults().await?.is_empty());
    assert_eq!(
        number(&test, "select count(*) from conductor.steps").await,
        0
    );
    Ok(())
}

#[conductor::test]
async fn a_role_that_may_only_insert_starts_tasks(test: TestConductor) -> anyhow::Result<()> {
    prepared(&test).await?;
    let role = Role::new(&test).await;
    role.owner_runs(&test, "grant insert on users to {role}")
        .await;
    let pool = role.pool();
    // Whatever the role's search path holds, ours is not led astray.
    let mut connection = pool.acquire().await?;
    connection
        .execute(
            "create function pg_temp.lower(text) returns text language sql as 'select null::text';
             create temp table live_executions (id integer);
             set search_path = pg_temp, public",
        )
        .await?;
    connection
        .execute("insert into users (id, email) values (1, 'a')")
        .await?;
    for refused in [
        "select * from users",
        "select * from conductor.live_executions",
        "select conductor.note_row_fault('users', 'insert', null, '', '')",
        "create temp table mine (id integer);
         create trigger t after insert on mine for each statement execute function conductor.rows_changed()",
    ] {
        let said = connection.execute(refused).await;
        assert!(said.is_err(), "{refused}");
    }
    drop(connection);
    pool.close().await;
    assert_eq!(outputs(&test, "rows.audit").await?, ["insert - a"]);
    Ok(())
}

#[conductor::test]
async fn the_trigger_function_has_a_fixed_search_path_and_no_public_right(
    test: TestConductor,
) -> anyhow::Result<()> {
    let loose = "select count(*) from pg_proc p join pg_namespace n on n.oid = p.pronamespace
         where n.nspname = 'conductor' and p.proname ~ 'row|as_jsonb'
           and (not p.proconfig @> array['search_path=pg_catalog, pg_temp']
                or p.proconfig is null
                or exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0))";
    assert_eq!(number(&test, loose).await, 0);
    let definers = "select count(*) from pg_proc p join pg_namespace n on n.oid = p.pronamespace
         where n.nspname = 'conductor' and p.prosecdef and p.proname ~ '_rows?$|_rows?_|^rows?_|as_jsonb'";
    assert_eq!(number(&test, definers).await, 1);
    Ok(())
}

#[conductor::test]
async fn names_of_row_changes_cannot_be_emitted(test: TestConductor) -> anyhow::Result<()> {
    let said = run_sql(
        &test,
        "select conductor.emit('conductor:insert public.users (id)', '{}')",
    )
    .await;
    assert!(said.unwrap_err().to_string().contains("row changes"));
    let said = test.emit_json("conductor:x", "{}").await;
    assert!(said.unwrap_err().to_string().contains("row changes"));
    Ok(())
}
