//! Tasks that row changes start, and a task that waits for a row change.
//!
//! In one terminal, the worker. It creates the table `public.users`, if it does not exist, and the triggers on
//! it:
//!
//!     cargo run --example 11_row_changes
//!
//! In another one, wait for Ada to sign up, for at most two minutes:
//!
//!     cargo run --example 11_row_changes -- invoke greet name=Ada --wait
//!
//! In a third one, let her sign up. The waiting command prints her address, and the worker prints `Ada has
//! come`:
//!
//!     cargo run --example 11_row_changes -- invoke sign_up name=Ada
//!
//! The triggers detect changes by any client. `cargo run --example 11_row_changes -- db` opens psql:
//!
//!     insert into users (name, email) select 'guest ' || n, n || '@example.com' from generate_series(1, 5) n;
//!     update users set plan = 'pro' where name = 'Ada';
//!     begin; delete from users; rollback;
//!
//! The update also starts `celebrate`. The delete is rolled back, so it starts nothing. This command lists the
//! triggers and their errors:
//!
//!     cargo run --example 11_row_changes -- triggers

use std::time::Duration;

use conductor::Field;
use conductor::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

/// The columns that the tasks read. Other columns are not copied from the table.
#[derive(Serialize, Deserialize, JsonSchema)]
struct User {
    id: i64,
    name: String,
    email: String,
    plan: String,
}

const NAME: Field<User, String> = Field::new(&["name"]);

/// Prints users that are added or deleted, and users whose address changes.
#[task(
    on_insert("public.users"),
    on_update("public.users", columns = [email]),
    on_delete("public.users")
)]
async fn audit(_ctx: &TaskContext, payload: RowChange<User>) -> anyhow::Result<()> {
    match (&payload.old, &payload.new) {
        (None, Some(user)) => println!("{} has come", user.name),
        (Some(user), None) => println!("{} has gone", user.name),
        (Some(old), Some(new)) => println!("{}: {} is {} now", new.name, old.email, new.email),
        (None, None) => {}
    }
    Ok(())
}

/// Runs if a user starts to pay.
#[task(on_update("public.users", when = new.plan == "pro" && old.plan != new.plan))]
async fn celebrate(_ctx: &TaskContext, payload: RowChange<User>) -> anyhow::Result<()> {
    if let Some(user) = payload.new {
        println!("{} pays!", user.name);
    }
    Ok(())
}

/// Waits until a user with this name signs up, and returns the address.
#[task]
async fn greet(ctx: &TaskContext, name: String) -> anyhow::Result<String> {
    let joined = ctx
        .wait_for_insert::<User>("joined", "public.users")
        .when(NAME.eq(name))
        .timeout(Duration::from_secs(120))
        .await?;
    Ok(joined
        .into_row()
        .map_or_else(String::new, |user| user.email))
}

/// Adds a user. The tasks above start by the table, without a reference to this task.
#[task]
async fn sign_up(ctx: &TaskContext, name: String) -> anyhow::Result<i64> {
    ctx.transaction("insert", async |tx| {
        let email = format!("{}@example.com", name.to_lowercase());
        let insert = "insert into users (name, email) values ($1, $2) returning id";
        let id: i64 = sqlx::query_scalar(insert)
            .bind(&name)
            .bind(email)
            .fetch_one(&mut *tx)
            .await?;
        Ok::<_, anyhow::Error>(id)
    })
    .await
}

async fn create_table(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::query(
        "create table if not exists public.users (
             id bigint primary key generated always as identity,
             name text not null,
             email text not null,
             plan text not null default 'free',
             password text)",
    )
    .execute(pool)
    .await?;
    Ok(())
}

conductor::main! {
    setup: async |app| {
        create_table(app.conductor().pool()).await?;
        Ok(app)
    },
}
