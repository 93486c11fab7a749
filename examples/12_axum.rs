//! A web shop: an axum server and the workers in one process, with a `main` of its own.
//!
//!     cargo run --example 12_axum
//!
//! It listens on 127.0.0.1:3000, or on the address in `LISTEN`. In another terminal, order something, report the
//! payment as a payment service would, and look at the order:
//!
//!     curl localhost:3000/orders -H 'content-type: application/json' -d '{"item": "tea", "cents": 250}'
//!     curl localhost:3000/webhooks/payment -H 'content-type: application/json' -d '{"order": 1}'
//!     curl localhost:3000/orders/1
//!
//! The order is now `shipped`. The task `fulfil` was invoked together with the order, and waited for the event that
//! the webhook emits. A bad order, for example one without `cents`, is answered with status 400.
//!
//! Ctrl-C or SIGTERM stops the server and the workers together: open requests are answered, and running handlers have
//! 30 s to end.

use std::io;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use conductor::Error;
// Not the whole prelude: axum has a `State`, too.
use conductor::prelude::{Conductor, Orchestrator, TaskContext, event, task};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// An order was paid.
#[event]
struct OrderPaid {
    order: i64,
}

/// Ships an order once it is paid, and closes it if that takes longer than a week.
#[task]
async fn fulfil(ctx: &TaskContext, order: i64) -> anyhow::Result<()> {
    let payment = ctx
        .wait_for_event::<OrderPaid>("payment")
        .when(OrderPaid::order.eq(order))
        .timeout(Duration::from_secs(7 * 24 * 60 * 60));
    let state = match payment.await {
        Ok(_) => "shipped",
        Err(Error::NoEvent { .. }) => "closed",
        Err(error) => return Err(error.into()),
    };
    ctx.transaction("finish", async |tx| {
        sqlx::query("update shop.orders set state = $2 where id = $1")
            .bind(order)
            .bind(state)
            .execute(tx)
            .await
            .map(drop)
    })
    .await?;
    Ok(())
}

/// Creates the table if it does not exist.
async fn create_tables(conductor: &Conductor) -> sqlx::Result<()> {
    sqlx::raw_sql(
        "select pg_advisory_xact_lock(12);
         create schema if not exists shop;
         create table if not exists shop.orders (
             id bigint generated always as identity primary key,
             item text not null,
             cents bigint not null,
             state text not null
         );",
    )
    .execute(conductor.pool())
    .await
    .map(drop)
}

/// The body of `POST /orders`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewOrder {
    item: String,
    cents: i64,
}

/// Stores an order and invokes its task, both or neither.
async fn order(
    State(conductor): State<Conductor>,
    body: Result<Json<NewOrder>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Fault> {
    let Json(new) = body?;
    let readable = !new.item.trim().is_empty() && !new.item.contains(char::is_control);
    if !readable || new.cents <= 0 {
        return Err(Fault::bad(
            "an order has an item and a positive number of cents",
        ));
    }
    let mut tx = conductor.pool().begin().await?;
    let order: i64 = sqlx::query_scalar(
        "insert into shop.orders (item, cents, state) values ($1, $2, 'new') returning id",
    )
    .bind(new.item)
    .bind(new.cents)
    .fetch_one(&mut *tx)
    .await?;
    let run = conductor
        .invoke::<Fulfil>(Fulfil { order })
        .in_transaction(&mut tx)
        .await?;
    tx.commit().await?;
    let made = json!({ "order": order, "execution": run.id() });
    Ok((StatusCode::CREATED, Json(made)))
}

/// Returns the state of an order.
async fn state(
    State(conductor): State<Conductor>,
    Path(order): Path<i64>,
) -> Result<Json<Value>, Fault> {
    let state: Option<String> = sqlx::query_scalar("select state from shop.orders where id = $1")
        .bind(order)
        .fetch_optional(conductor.pool())
        .await?;
    let state = state.ok_or_else(|| Fault::unknown(order))?;
    Ok(Json(json!({ "order": order, "state": state })))
}

/// Emits an event for a payment. A real webhook first checks the signature of the sender.
///
/// Payment services repeat their calls. Further events for an order have no effect, as `fulfil` waits for one.
async fn payment(
    State(conductor): State<Conductor>,
    body: Result<Json<OrderPaid>, JsonRejection>,
) -> Result<StatusCode, Fault> {
    let Json(paid) = body?;
    let known: bool = sqlx::query_scalar("select exists (select from shop.orders where id = $1)")
        .bind(paid.order)
        .fetch_one(conductor.pool())
        .await?;
    if !known {
        return Err(Fault::unknown(paid.order));
    }
    conductor.emit(paid).await?;
    Ok(StatusCode::ACCEPTED)
}

/// A request that was not done.
struct Fault(StatusCode, String);

impl Fault {
    fn bad(text: impl ToString) -> Self {
        Self(StatusCode::BAD_REQUEST, text.to_string())
    }

    fn unknown(order: i64) -> Self {
        Self(StatusCode::NOT_FOUND, format!("there is no order {order}"))
    }
}

impl From<JsonRejection> for Fault {
    fn from(rejection: JsonRejection) -> Self {
        Self::bad(rejection.body_text())
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::from(Error::from(error))
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        // The caller needs no details of the database.
        tracing::error!(%error, "a request failed");
        Self(
            StatusCode::SERVICE_UNAVAILABLE,
            "try again later".to_owned(),
        )
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

/// Returns a token that SIGTERM and Ctrl-C cancel.
fn cancelled_by_signals() -> io::Result<CancellationToken> {
    let end = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let guard = end.clone().drop_guard();
    tokio::spawn(async move {
        let _cancels = guard;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    Ok(end)
}

/// Runs a part of the program, and cancels the token when that part ends.
async fn until_one_ends<T>(end: &CancellationToken, part: impl Future<Output = T>) -> T {
    let _cancels = end.drop_guard_ref();
    part.await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let end = cancelled_by_signals()?;
    let conductor = Conductor::connect().await?;
    create_tables(&conductor).await?;

    let app = Router::new()
        .route("/orders", post(order))
        .route("/orders/{order}", get(state))
        .route("/webhooks/payment", post(payment))
        .with_state(conductor.clone());
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address).await.context(address)?;
    println!("listening on http://{}", listener.local_addr()?);

    let server = axum::serve(listener, app).with_graceful_shutdown(end.clone().cancelled_owned());
    let workers = Orchestrator::builder(conductor).build()?;
    // A signal ends both. If one ends for another reason, the other does not go on alone.
    let (served, worked) = tokio::join!(
        until_one_ends(&end, server.into_future()),
        until_one_ends(&end, workers.run_until(end.cancelled())),
    );
    served?;
    worked?;
    Ok(())
}
