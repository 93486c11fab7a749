//! Changes by transactions whose one snapshot is older than what listens: none is lost, they have to try again.

use conductor::testing::TestConductor;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::Listening;
use super::tables::{OPS, TABLES, outputs, prepared};
use crate::support::{number, run_sql, session, sqlstate};

const STRICT: [&str; 2] = ["repeatable read", "serializable"];
const INBOX: &str = "select count(*) from conductor.event_inbox";

/// A user whose transaction has begun, and has its snapshot.
async fn begun(test: &TestConductor, level: &str) -> anyhow::Result<PgConnection> {
    let mut user = session(test).await?;
    run(&mut user, &format!("begin isolation level {level}")).await?;
    run(&mut user, "select count(*) from pg_class").await?;
    Ok(user)
}

async fn run(user: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(user)
        .await
        .map(drop)
}

/// What a user at these levels does with a serialization_failure.
async fn tries_again(user: &mut PgConnection, level: &str, sql: &str) -> anyhow::Result<()> {
    let refused = run(user, sql).await.unwrap_err();
    assert_eq!(sqlstate(&refused).as_deref(), Some("40001"), "{level}");
    run(user, "rollback").await?;
    run(user, &format!("begin isolation level {level}")).await?;
    run(user, sql).await?;
    Ok(run(user, "commit").await?)
}

async fn watch(test: &TestConductor, op: &str, column: &str) -> anyhow::Result<()> {
    let watch = format!(
        "select conductor.watch_rows('users', '{op}', array['{column}'], null, true, '5 s')"
    );
    Ok(run_sql(test, &watch).await?)
}

fn insert(id: i32) -> String {
    format!("insert into users (id, email) values ({id}, 'a')")
}

/// The first watch of a table, another one of its columns, and one where the trigger was made by hand.
#[conductor::test]
async fn a_watch_hears_of_transactions_that_began_before_it(test: Listening) -> anyhow::Result<()> {
    run_sql(&test, TABLES).await?;
    for level in ["read committed", STRICT[0], STRICT[1]] {
        for (id, column, trigger) in [(1, "id", false), (2, "email", false), (3, "plan", true)] {
            if trigger {
                run_sql(
                    &test,
                    "drop trigger conductor_insert on users; delete from conductor.row_watches;
                     delete from conductor.row_rules;
                     select conductor.install_row_trigger('users', 'insert', '5 s')",
                )
                .await?;
            }
            let before = number(&test, INBOX).await;
            let mut user = begun(&test, level).await?;
            watch(&test, "insert", column).await?;
            if level == "read committed" {
                run(&mut user, &insert(id)).await?;
                run(&mut user, "commit").await?;
            } else {
                tries_again(&mut user, level, &insert(id)).await?;
            }
            let heard = "select count(*) from conductor.event_inbox
                          where name = format('conductor:insert public.users (%s)', ";
            assert!(number(&test, INBOX).await > before);
            assert_eq!(
                number(&test, &format!("{heard}'{column}')")).await,
                1,
                "{level}"
            );
        }
        run_sql(
            &test,
            "drop trigger conductor_insert on users; delete from conductor.row_watches;
             delete from conductor.row_rules; delete from conductor.event_inbox; delete from users",
        )
        .await?;
    }
    Ok(())
}

/// A deploy with new tasks, or with other columns of an old one.
#[conductor::test]
async fn a_task_hears_of_transactions_that_began_before_its_deploy(
    test: Listening,
) -> anyhow::Result<()> {
    run_sql(&test, TABLES).await?;
    let mut expected = Vec::new();
    for (n, level) in STRICT.into_iter().enumerate() {
        let id = i32::try_from(n)? * 10;
        let mut users = Vec::new();
        for _ in 0..2 {
            users.push(begun(&test, level).await?);
        }
        if n > 0 {
            run_sql(
                &test,
                "delete from conductor.row_triggers r using conductor.tasks t
                  where t.id = r.task_id and t.name = 'rows.audit'",
            )
            .await?;
        }
        test.drain().await?;
        tries_again(&mut users[0], level, &insert(id)).await?;
        run_sql(
            &test,
            "update conductor.row_triggers r set columns = array['id'] from conductor.tasks t
              where t.id = r.task_id and t.name = 'rows.audit' and r.op = 'insert'",
        )
        .await?;
        users[1] = begun(&test, level).await?;
        test.drain().await?;
        tries_again(&mut users[1], level, &insert(id + 1)).await?;
        expected.extend(["insert - a", "insert - a"]);
        assert_eq!(outputs(&test, "rows.audit").await?, expected);
    }
    Ok(())
}

/// Whoever began after the last change of the rules is told nothing, whatever else starts or waits meanwhile.
#[conductor::test]
async fn later_transactions_are_not_disturbed(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    watch(&test, "insert", "id").await?;
    for (n, level) in STRICT.into_iter().enumerate() {
        let id = i32::try_from(n)? * 10;
        let mut one = begun(&test, level).await?;
        let mut two = begun(&test, level).await?;
        // A start that changes nothing, a watch that is used again, and one of something else.
        test.drain().await?;
        run_sql(
            &test,
            "update conductor.row_watches set used_at = used_at - interval '2 hours'",
        )
        .await?;
        watch(&test, "insert", "id").await?;
        run_sql(
            &test,
            "select conductor.watch_rows('kinds', 'insert', array['id'], null, true, '5 s')",
        )
        .await?;
        for (user, id) in [(&mut one, id), (&mut two, id + 1)] {
            run(user, &insert(id)).await?;
        }
        run(&mut one, "commit").await?;
        run(&mut two, "commit").await?;
        assert_eq!(number(&test, INBOX).await, 2, "{level}");
    }
    assert_eq!(outputs(&test, "rows.audit").await?.len(), 4);
    assert!(test.row_faults().await?.is_empty());
    Ok(())
}

/// A trigger for which nothing was ever declared: no user waits for another one, nor does who declares.
#[conductor::test]
async fn a_trigger_without_rules_holds_up_nobody(test: Listening) -> anyhow::Result<()> {
    run_sql(&test, TABLES).await?;
    for op in OPS {
        run_sql(
            &test,
            &format!("select conductor.install_row_trigger('users', '{op}', '5 s')"),
        )
        .await?;
    }
    let mut users = Vec::new();
    for level in STRICT {
        users.push(begun(&test, level).await?);
    }
    for (id, user) in (1..).zip(&mut users) {
        run(user, "set local lock_timeout = '5s'").await?;
        run(user, &insert(id)).await?;
        run(user, &insert(id + 10)).await?;
    }
    run_sql(
        &test,
        "set lock_timeout = '5s'; select conductor.row_rules_have_changed('{users}', '{insert}')",
    )
    .await?;
    for mut user in users {
        run(&mut user, "commit").await?;
        user.close().await?;
    }
    assert_eq!(
        number(
            &test,
            "select sum(version)::bigint from conductor.row_rules"
        )
        .await,
        1
    );
    assert!(test.row_faults().await?.is_empty());
    Ok(())
}
