use std::time::{Duration, Instant};

use super::network::Cut;
use super::scene::{PROMPT, Scene};
use super::tasks::{HostsSeat, HostsStand};
use crate::alone;
use crate::chaos::dice::Dice;
use crate::chaos::journal::{Mark, micros, now};
use crate::chaos::load::Load;
use crate::chaos::worker::Times;
use crate::support::eventually;

const STANDING: usize = 8;
/// For a busy machine.
const SLACK: Duration = Duration::from_secs(5);
/// From a cut on until the server has missed the host and ends its sessions.
const MISSED: Duration = Duration::from_secs(11);
/// From the mending on until the host works again.
const BACK: Duration = Duration::from_secs(15);

/// Host 0 is cut off while its handlers stand in their middle, and host 1 does its work.
async fn is_cut_off(how: Cut, times: Times) -> anyhow::Result<()> {
    let _alone = alone().await;
    let Some(mut scene) = Scene::of(2, times).await? else {
        return Ok(());
    };
    scene.start_worker(0).await?;
    for n in 0..STANDING as i64 {
        scene
            .conductor
            .invoke::<HostsStand>(HostsStand { n })
            .await?;
    }
    scene
        .conductor
        .invoke::<HostsSeat>(HostsSeat { n: 0 })
        .await?;
    scene.marked(0, Mark::Begin, "stand", STANDING).await;
    scene.marked(0, Mark::Begin, "seat", 1).await;
    scene.start_worker(1).await?;
    let pause = Duration::from_millis(200);
    let load = Load::start(&scene.conductor, scene.server.url(), &Dice::new(2), pause);
    scene.marked(0, Mark::End, "limited", 3).await;
    scene.marked(1, Mark::End, "limited", 3).await;

    let cut = now();
    scene.network.cut(0, how)?;
    let (old, lease_until) = scene.lease(0).await.unwrap();
    scene.marked(0, Mark::Drop, "stand", STANDING).await;
    scene.open()?;
    // What its sessions have locked is locked until the server misses them, which is before the end of
    // a lease of the usual length.
    let free = lease_until.max(cut + micros(MISSED));
    for (key, many) in [("stand", STANDING), ("seat", 1)] {
        for end in scene.marked(1, Mark::End, key, many).await {
            assert!(end.at > lease_until, "{key}: before its time");
            let late = end
                .at
                .saturating_sub(free + micros(2 * times.every + SLACK));
            assert!(late == 0, "{key}: {late} µs too late");
        }
    }
    // A while.
    let seen = scene.marks(1, Mark::End, "").len();
    scene.marked(1, Mark::End, "", seen + 200).await;
    assert!(scene.lease(0).await.is_none_or(|(id, _)| id == old));
    for mark in [Mark::Begin, Mark::End, Mark::Drop] {
        let late = scene.marks(0, mark, "").into_iter();
        let late: Vec<_> = late.filter(|entry| entry.at >= lease_until).collect();
        assert!(late.is_empty(), "behind the lease: {late:?}");
    }

    let before = scene.marks(0, Mark::Begin, "").len();
    scene.network.mend(0, how)?;
    let mended = Instant::now();
    eventually("a new lease", async || {
        scene.lease(0).await.is_some_and(|(id, _)| id > old)
    })
    .await;
    scene.marked(0, Mark::Begin, "", before + 1).await;
    println!("{how:?}: works again after {:?}", mended.elapsed());
    assert!(mended.elapsed() < BACK, "{:?}", mended.elapsed());
    scene.marked(0, Mark::End, "limited", 20).await;

    let asked = load.stop().await;
    let twice =
        "select count(*) from (select from stands group by execution, key having count(*) <> 1) t";
    assert_eq!(scene.number(twice).await?, 0);
    let all = 2 * STANDING as i64 + 1;
    assert_eq!(scene.number("select count(*) from stands").await?, all);
    assert_eq!(scene.number("select taken from seats").await?, 1);
    let verdict = scene.end(&asked).await?;
    assert!(verdict.lost_leases > 0 && verdict.repeated >= STANDING);
    assert_eq!(verdict.given_up, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unplugged_host_stops_in_time_and_comes_back() -> anyhow::Result<()> {
    is_cut_off(Cut::Unplugged, Times::USUAL).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_packets_are_swallowed_stops_in_time_and_comes_back() -> anyhow::Result<()> {
    is_cut_off(Cut::Silent, Times::SHORT).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_comes_back_with_another_address_works_again() -> anyhow::Result<()> {
    is_cut_off(Cut::Moved, Times::SHORT).await
}

/// Its old connections say nothing any more, and nothing ever will tell that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_comes_back_with_another_address_is_told_of_work_again() -> anyhow::Result<()> {
    let _alone = alone().await;
    let Some(mut scene) = Scene::of(1, Times::SHORT).await? else {
        return Ok(());
    };
    scene.start_worker(0).await?;
    scene.network.cut(0, Cut::Moved)?;
    eventually("the loss of the lease", async || {
        !scene.workers[&0].lost_leases().is_empty()
    })
    .await;
    // Nobody was there to bury it, so that it may go on under its old identity.
    let (_, over) = scene.lease(0).await.unwrap();
    scene.network.mend(0, Cut::Moved)?;
    eventually("a renewal", async || scene.lease(0).await.unwrap().1 > over).await;
    eventually("prompt calls", async || {
        scene.waking().await.unwrap() < PROMPT
    })
    .await;
    scene.end(&[]).await?;
    Ok(())
}
