use std::time::Instant;

use sqlx::{Executor, PgPool};

use crate::database::Server;
use crate::report::Report;
use crate::tasks::Noop;

/// Rows of one bulk insert, and single inserts, each of which commits.
const BULK: i64 = 100_000;
const SINGLE: i64 = 1_000;

/// What listens to the table.
#[derive(Clone, Copy)]
enum Listener {
    Task,
    /// A task whose filter lets nothing through.
    Filtered,
    Wait,
}

/// Inserts into a table with a trigger, each beside the same into one without in the same database.
pub(crate) async fn measure(
    server: &Server,
    runs: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    for (name, listener) in [
        ("a task", Listener::Task),
        ("a task whose filter takes none", Listener::Filtered),
        ("a wait", Listener::Wait),
    ] {
        let [
            mut bulk_with,
            mut bulk_without,
            mut single_with,
            mut single_without,
        ] = [const { Vec::new() }; 4];
        for _ in 0..runs {
            let fresh = server.fresh().await?;
            let pool = fresh.conductor.pool();
            // Declares the task.
            fresh.conductor.invoke::<Noop>(Noop { n: 0 }).await?;
            prepare(pool, listener).await?;
            bulk_without.push(bulk(pool, "plain").await?);
            bulk_with.push(bulk(pool, "heard").await?);
            single_without.push(single(pool, "plain").await?);
            single_with.push(single(pool, "heard").await?);
            fresh.close().await?;
        }
        report.rate(&format!("rows: bulk insert with {name}"), &mut bulk_with);
        report.ratio(
            &format!("rows: bulk insert, without over with {name}"),
            &bulk_without,
            &bulk_with,
        );
        report.ratio(
            &format!("rows: single inserts, without over with {name}"),
            &single_without,
            &single_with,
        );
    }
    Ok(())
}

async fn prepare(pool: &PgPool, listener: Listener) -> anyhow::Result<()> {
    pool.execute(
        "create table plain (id bigint primary key, email text not null, plan text not null);
         create table heard (id bigint primary key, email text not null, plan text not null)",
    )
    .await?;
    match listener {
        Listener::Task | Listener::Filtered => {
            let filter = matches!(listener, Listener::Filtered)
                .then(|| r#"{"op": "eq", "path": ["new", "plan"], "value": "none"}"#);
            sqlx::query(
                "insert into conductor.row_triggers (task_id, relation, op, columns, filter, owner)
                 select t.id, 'heard'::regclass, 'insert', array['id', 'email', 'plan'], $1::jsonb, 'bench'
                   from conductor.tasks t where t.name = 'noop'",
            )
            .bind(filter)
            .execute(pool)
            .await?;
            pool.execute("select conductor.install_row_trigger('heard', 'insert', '10s')")
                .await?;
        }
        Listener::Wait => {
            pool.execute(
                "select conductor.watch_rows('heard', 'insert', array['id', 'email', 'plan'], null, true, '10s')",
            )
            .await?;
        }
    }
    Ok(())
}

/// Rows a second.
async fn bulk(pool: &PgPool, table: &'static str) -> anyhow::Result<f64> {
    let insert = match table {
        "plain" => {
            "insert into plain select n, n || '@example.com', 'pro' from generate_series(1, $1) n"
        }
        _ => "insert into heard select n, n || '@example.com', 'pro' from generate_series(1, $1) n",
    };
    let began = Instant::now();
    sqlx::query(insert).bind(BULK).execute(pool).await?;
    Ok(BULK as f64 / began.elapsed().as_secs_f64())
}

/// Commits a second.
async fn single(pool: &PgPool, table: &'static str) -> anyhow::Result<f64> {
    let insert = match table {
        "plain" => "insert into plain values ($1, 'a@example.com', 'pro')",
        _ => "insert into heard values ($1, 'a@example.com', 'pro')",
    };
    let mut connection = pool.acquire().await?;
    let began = Instant::now();
    for n in 1..=SINGLE {
        sqlx::query(insert)
            .bind(BULK + n)
            .execute(&mut *connection)
            .await?;
    }
    Ok(SINGLE as f64 / began.elapsed().as_secs_f64())
}
