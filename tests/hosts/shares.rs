use std::time::Duration;

use super::scene::{PROMPT, Scene};
use super::tasks::HostsQuick;
use crate::alone;
use crate::chaos::dice::Dice;
use crate::chaos::journal::Mark;
use crate::chaos::load::Load;
use crate::chaos::tasks::LIMIT;
use crate::chaos::worker::Times;
use crate::support::eventually;

const HOSTS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_share_the_work_and_keep_its_limits() -> anyhow::Result<()> {
    let _alone = alone().await;
    let Some(mut scene) = Scene::of(HOSTS, Times::SHORT).await? else {
        return Ok(());
    };
    for host in 0..HOSTS {
        scene.start_worker(host).await?;
    }
    scene
        .conductor
        .schedule::<HostsQuick>("each second", "* * * * * *", HostsQuick { n: 0 })
        .await?;
    let pause = Duration::from_millis(100);
    let load = Load::start(&scene.conductor, scene.server.url(), &Dice::new(1), pause);
    for host in 0..HOSTS {
        // Limited ones, too.
        scene.marked(host, Mark::End, "limited", 20).await;
        scene.marked(host, Mark::End, "", 200).await;
    }
    let ticks =
        "select count(*) from conductor.finished_executions where trigger->>'name' = 'each second'";
    eventually("ticks", async || scene.number(ticks).await.unwrap() >= 4).await;
    let asked = load.stop().await;
    scene
        .conductor
        .unschedule::<HostsQuick>("each second")
        .await?;
    let seconds: Vec<i64> = sqlx::query_scalar(
        "select extract(epoch from (trigger->>'scheduled_at')::timestamptz)::bigint
           from conductor.executions where trigger->>'name' = 'each second' order by 1",
    )
    .fetch_all(scene.conductor.pool())
    .await?;
    for pair in seconds.windows(2) {
        assert_eq!(pair[1] - pair[0], 1, "{seconds:?}");
    }
    let verdict = scene.end(&asked).await?;
    assert_eq!(verdict.most_at_once, LIMIT);
    assert_eq!((verdict.lost_leases, verdict.repeated), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_sleeps_on_another_host_is_woken_by_a_call() -> anyhow::Result<()> {
    let _alone = alone().await;
    let Some(mut scene) = Scene::of(1, Times::SHORT).await? else {
        return Ok(());
    };
    scene.start_worker(0).await?;
    let waking = scene.waking().await?;
    assert!(waking < PROMPT, "{waking:?}");
    scene.end(&[]).await?;
    Ok(())
}
