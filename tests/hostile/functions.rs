//! All functions of the schema that take texts.

use std::collections::{BTreeMap, BTreeSet};

use conductor::testing::TestConductor;
use sqlx::{AssertSqlSafe, Executor};

use super::NAMES;
use super::story::{KEPT, REFUSED, STORY, WORDS};
use crate::support::{run_sql, sqlstate};

/// Whom the hostile ones are compared with.
const PLAIN: &str = "plain";

fn written_out(sql: &str) -> AssertSqlSafe<String> {
    let sql = WORDS.iter().fold(sql.to_owned(), |sql, (word, words)| {
        sql.replace(word, words)
    });
    AssertSqlSafe(sql)
}

/// What a statement says of a name.
async fn holds(test: &TestConductor, sql: &str, name: &str) -> bool {
    let said: Result<Option<bool>, _> = sqlx::query_scalar(written_out(sql))
        .bind(name)
        .fetch_one(test.pool())
        .await;
    match said {
        Ok(said) => said == Some(true),
        Err(error) => panic!("{name:?}: {sql}: {error}"),
    }
}

async fn texts(test: &TestConductor, sql: &'static str) -> Vec<String> {
    sqlx::query_scalar(sql)
        .fetch_all(test.pool())
        .await
        .unwrap()
}

/// The schema itself: tables with their columns, functions with their bodies, triggers and constraints.
async fn schema(test: &TestConductor) -> Vec<String> {
    let sql = "select c.relname || ' ' || a.attname || ' ' || a.atttypid::regtype
                 from pg_class c join pg_attribute a on a.attrelid = c.oid
                where c.relnamespace = 'conductor'::regnamespace
                union all
               select p.oid::regprocedure || md5(p.prosrc) || coalesce(p.proacl::text, '') || coalesce(p.proconfig::text, '')
                      || coalesce(pg_get_function_sqlbody(p.oid), '')
                 from pg_proc p where p.pronamespace = 'conductor'::regnamespace
                union all
               select conname || ' ' || pg_get_constraintdef(oid) from pg_constraint
                where connamespace = 'conductor'::regnamespace
                order by 1";
    texts(test, sql).await
}

/// How many rows each of the tables has.
async fn rows(test: &TestConductor) -> anyhow::Result<BTreeMap<String, i64>> {
    let mut rows = BTreeMap::new();
    let tables = "select relname::text from pg_class where relnamespace = 'conductor'::regnamespace and relkind = 'r'";
    for table in texts(test, tables).await {
        let count = AssertSqlSafe(format!("select count(*) from conductor.{table}"));
        let count: i64 = sqlx::query_scalar(count).fetch_one(test.pool()).await?;
        rows.insert(table, count);
    }
    Ok(rows)
}

async fn run(test: &TestConductor, name: &str) -> anyhow::Result<()> {
    let quoted: String = sqlx::query_scalar("select format('%I', $1)")
        .bind(name)
        .fetch_one(test.pool())
        .await?;
    let table = format!("create table {quoted} ({quoted} text, n integer)");
    test.pool().execute(AssertSqlSafe(table)).await?;
    for (function, sql) in STORY {
        assert!(sql.contains(&format!("conductor.{function}(")), "{sql}");
        assert!(holds(test, sql, name).await, "{name:?}: {sql}");
    }
    // In a row and in the table's triggers; the last statement changes nothing that counts.
    for change in [
        "insert into {} values ($1)",
        "update {} set {} = $1 || ' '",
        "update {} set {} = $1",
        "update {} set n = 1",
    ] {
        let change = change.replace("{}", &quoted);
        let query = sqlx::query(AssertSqlSafe(change.clone()));
        let query = if change.contains("$1") {
            query.bind(name)
        } else {
            query
        };
        query.execute(test.pool()).await?;
    }
    for (code, sql) in REFUSED {
        let refused = sqlx::query(written_out(sql))
            .bind(name)
            .execute(test.pool())
            .await;
        let error = refused.expect_err(sql);
        assert_eq!(
            sqlstate(&error).as_deref(),
            Some(*code),
            "{name:?}: {sql}: {error}"
        );
    }
    for sql in KEPT {
        assert!(holds(test, sql, name).await, "{name:?}: {sql}");
    }
    Ok(())
}

#[conductor::test]
async fn no_function_takes_a_text_for_more_than_a_text(test: TestConductor) -> anyhow::Result<()> {
    // The first call of `know_tasks` creates the queue "default", which would count as a row of the first name.
    run_sql(&test, "select conductor.know_tasks(array['unserved'])").await?;
    let (before, empty) = (schema(&test).await, rows(&test).await?);
    run(&test, PLAIN).await?;
    let one = rows(&test).await?;
    for name in NAMES {
        run(&test, name).await?;
    }
    assert_eq!(schema(&test).await, before);
    let names = NAMES.len() as i64;
    let numbers = NAMES
        .iter()
        .filter(|name| name.parse::<i64>().is_ok())
        .count() as i64;
    let expected: BTreeMap<String, i64> = empty
        .into_iter()
        .map(|(table, empty)| {
            let each = one[&table] - empty;
            // A field whose name is a number is not noted, as it may lead into an array.
            let without = match table.as_str() {
                "event_fields" | "event_paths" => numbers,
                _ => 0,
            };
            (table, empty + each * (names + 1 - without))
        })
        .collect();
    assert_eq!(rows(&test).await?, expected);
    let faults = texts(
        &test,
        "select message from conductor.row_faults where op in ('insert', 'update', 'delete')",
    );
    assert_eq!(faults.await, Vec::<String>::new());
    Ok(())
}

/// A new function has to be told here what it is called with.
#[conductor::test]
async fn each_function_with_a_text_is_called(test: TestConductor) -> anyhow::Result<()> {
    let takes_texts = "select p.proname::text from pg_proc p
         where p.pronamespace = 'conductor'::regnamespace
           and exists (
               select from unnest(p.proargtypes) a
                 join pg_type t on t.oid = a
                 left join pg_type e on e.oid = t.typelem and t.typcategory = 'A'
                where coalesce(e.typcategory, t.typcategory) in ('S', 'U', 'C')
                  and coalesce(e.oid, t.oid) <> 'uuid'::regtype)
         order by 1";
    let known = texts(&test, takes_texts).await;
    // One that does nothing but refuse is called there alone.
    let refuses = REFUSED
        .iter()
        .filter(|(_, sql)| sql.contains("conductor.refuse_invoke("));
    let refuses = refuses.map(|_| "refuse_invoke");
    let story = STORY.iter().map(|(function, _)| *function);
    let called: BTreeSet<&str> = story.chain(refuses).collect();
    // Several of one name would be told apart by nothing here.
    assert_eq!(Vec::from_iter(called), known);
    Ok(())
}
