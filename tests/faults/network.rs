//! A network that fails in other ways than by saying so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Handle, Orchestrator};
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Bodies, FaultsChild, FaultsTold, durable_ones, start};
use crate::support::{Gate, Proxy, count, eventually, narrow, number, soon};

#[task(name = "faults.gated")]
async fn faults_gated(ctx: &TaskContext) -> anyhow::Result<u32> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(ctx.attempt())
}

/// The old connections stay open and say nothing, as behind a firewall that has forgotten them.
#[conductor::test]
async fn a_connection_that_says_nothing_any_more_costs_no_lease(
    test: TestConductor,
) -> anyhow::Result<()> {
    let proxy = Proxy::of(&test).await?;
    let gate = Gate::new();
    let worker = Orchestrator::builder(Conductor::connect_to(&proxy.url()).await?)
        .worker(narrow(5))
        .allow_unserved_queues()
        .heartbeat(Duration::from_millis(300), Duration::from_secs(2))
        .state(gate.clone())
        .build()?
        .start()
        .await?;
    let lease = async || {
        let until = "select (extract(epoch from max(lease_until)) * 1000)::bigint from conductor.orchestrators";
        number(&test, until).await
    };
    let taken = lease().await;
    test.invoke::<FaultsGated>(()).await?;
    gate.entered(1).await;
    eventually("a renewal", async || lease().await > taken).await;
    proxy.swallow();
    let before = lease().await;
    // Longer than the lease.
    eventually("renewals", async || lease().await > before + 3000).await;
    assert!(
        !gate.has_dropped(),
        "the lease was lost, and the handler with it"
    );
    drop(worker);
    Ok(())
}

#[derive(Debug, Default)]
struct Order {
    asked: Notify,
    fail: Notify,
}

/// A worker whose pool has one connection.
async fn start_narrow(proxy: &Proxy, order: &Arc<Order>) -> anyhow::Result<Handle> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false)
        .connect(&proxy.url())
        .await?;
    let orchestrator = Orchestrator::builder(Conductor::from_pool(pool))
        .allow_unserved_queues()
        .state(Arc::clone(order))
        .build()?;
    Ok(orchestrator.start().await?)
}

#[task(name = "faults.in_transaction", retry(max_attempts = 1))]
async fn faults_in_transaction(ctx: &TaskContext) -> anyhow::Result<()> {
    let order = ctx.state::<Arc<Order>>();
    ctx.transaction("wait", async |_tx| {
        order.asked.notify_one();
        order.fail.notified().await;
        anyhow::bail!("as told")
    })
    .await
}

/// The pool's only connection comes back from a transaction, and never answers again.
#[conductor::test]
async fn a_connection_that_is_given_back_and_says_nothing_makes_room(
    test: TestConductor,
) -> anyhow::Result<()> {
    let proxy = Proxy::of(&test).await?;
    let order = Arc::new(Order::default());
    let worker = start_narrow(&proxy, &order).await?;
    let handle = test.invoke::<FaultsInTransaction>(()).await?;
    order.asked.notified().await;
    proxy.swallow();
    order.fail.notify_one();
    let failed = soon("its failure", handle.result()).await;
    assert!(failed.unwrap_err().to_string().contains("as told"));
    worker.stop().await?;
    Ok(())
}

#[task(name = "faults.gives_up", retry(max_attempts = 1))]
async fn faults_gives_up(ctx: &TaskContext) -> anyhow::Result<bool> {
    let order = ctx.state::<Arc<Order>>();
    order.asked.notify_one();
    order.fail.notified().await;
    let budget = Duration::from_millis(300);
    let begun = tokio::time::timeout(budget, ctx.transaction("book", async |_tx| anyhow::Ok(())));
    let in_time = begun.await.is_ok();
    order.asked.notify_one();
    Ok(in_time)
}

/// The server begins the transaction, which nobody wants any more when its answer comes.
#[conductor::test]
async fn a_transaction_that_is_given_up_while_it_begins_swallows_nothing(
    test: TestConductor,
) -> anyhow::Result<()> {
    let proxy = Proxy::of(&test).await?;
    let order = Arc::new(Order::default());
    let worker = start_narrow(&proxy, &order).await?;
    // The only connection may serve somebody else just then.
    for _ in 0..5 {
        let handle = test.invoke::<FaultsGivesUp>(()).await?;
        order.asked.notified().await;
        // Until the worker, which has gone idle, has looked again and sleeps.
        tokio::time::sleep(Duration::from_millis(500)).await;
        proxy.hold(true);
        order.fail.notify_one();
        soon("the handler's end", order.asked.notified()).await;
        proxy.hold(false);
        // Written where others can see it.
        assert!(!soon("its result", handle.result()).await?);
    }
    drop(worker);
    Ok(())
}

#[conductor::test]
async fn connections_that_are_cut_all_the_time_delay_only(
    test: TestConductor,
) -> anyhow::Result<()> {
    let proxy = Proxy::of(&test).await?;
    let client = Conductor::connect_to(&proxy.url()).await?;
    let bodies = Bodies::default();
    let worker = start(&client, &bodies).await?;
    let cuts = async {
        for n in 0..20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if n % 2 == 0 {
                proxy.cut();
            } else {
                proxy.close_halves();
            }
        }
        Ok(())
    };
    durable_ones(&client, 30, &bodies, cuts).await?;
    worker.stop().await?;
    assert_eq!(count(&test, "failures + crashes > 0").await?, 0);
    Ok(())
}

/// A call that must be given up.
async fn unavailable(call: impl Future<Output = conductor::Result<Uuid>>) {
    let began = Instant::now();
    let error = soon("the end of a call", call).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(began.elapsed() > Duration::from_secs(25), "{error:?}");
}

/// Nothing passes, on old connections and on new ones. Also a call that is made behind others ends, and
/// when the network is back, those that write calls together serve the next ones.
#[conductor::test]
async fn calls_into_silence_end_and_later_ones_get_through(
    test: TestConductor,
) -> anyhow::Result<()> {
    let proxy = Proxy::of(&test).await?;
    let client = Conductor::connect_to(&proxy.url()).await?;
    let invoke = async |n| {
        let run = client.invoke::<FaultsChild>(FaultsChild { n }).await?;
        Ok(run.id())
    };
    let keyed = async |n: i64| {
        let call = client.invoke::<FaultsChild>(FaultsChild { n });
        Ok(call.dedupe_key(n.to_string()).await?.id())
    };
    let emit = async |n| client.emit(FaultsTold { n }).await;
    tokio::try_join!(invoke(1), keyed(2), emit(3))?;
    proxy.hold(true);
    let later = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        tokio::join!(
            unavailable(invoke(14)),
            unavailable(keyed(15)),
            unavailable(emit(16))
        );
    };
    tokio::join!(
        unavailable(invoke(11)),
        unavailable(keyed(12)),
        unavailable(emit(13)),
        later
    );
    proxy.hold(false);
    let back = async { tokio::try_join!(invoke(21), keyed(22), emit(23)) };
    let (plain, keyed, event) = soon("calls", back).await?;
    for id in [plain, keyed] {
        assert!(test.find(id).await?.is_some());
    }
    assert!(
        test.events(None, 1)
            .await?
            .iter()
            .any(|known| known.id == event)
    );
    Ok(())
}
