//! Workers under everything that may befall them, at random, with a load that can be checked to the
//! last cent. The seed is printed; `CHAOS_SEED` repeats its sequence of faults (their moments differ
//! with the machine), and `CHAOS_SECONDS` says how long the storm lasts.

pub mod dice;
pub mod journal;
pub mod load;
pub mod storm;
pub mod tasks;
pub mod verdict;
pub mod worker;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use conductor::Conductor;
use uuid::Uuid;

use dice::Dice;
use load::{Load, leases, live};
use storm::Storm;
use verdict::Verdict;

use crate::alone;
use crate::support::eventually;

const SECONDS: u64 = 25;
const WORKERS: usize = 3;
/// Behind the storm, until the next execution ends: what crashed several times is due at times of its own.
const PATIENCE: Duration = Duration::from_secs(90);

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_loses_nothing_and_doubles_nothing() -> anyhow::Result<()> {
    let _alone = alone().await;
    let seed = variable("CHAOS_SEED").unwrap_or_else(|| Uuid::now_v7().as_u64_pair().1);
    let seconds = variable("CHAOS_SECONDS").unwrap_or(SECONDS);
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={seconds}");
    let folder: PathBuf = std::env::temp_dir().join(format!("conductor-chaos-{}", Uuid::now_v7()));
    std::fs::create_dir_all(&folder)?;
    let dice = Dice::new(seed);
    let mut storm = Storm::new(WORKERS, &folder, dice.clone()).await?;
    let conductor = Conductor::connect_to(&storm.url()).await?;
    sqlx::raw_sql(tasks::TABLES)
        .execute(conductor.pool())
        .await?;
    storm.start_workers()?;
    // An event that nobody has subscribed to yet starts nothing.
    eventually("the workers", || async {
        leases(&storm.server.url()).await.unwrap() == WORKERS as i64
    })
    .await;

    let began = Instant::now();
    let server = storm.server.url();
    let load = Load::start(&conductor, server, &dice, Duration::from_millis(200));
    storm.blow(Duration::from_secs(seconds)).await?;
    let asked = load.stop().await;
    let calm = Instant::now();
    let url = storm.server.url();
    let (mut least, mut ended) = (i64::MAX, calm);
    loop {
        storm.mend()?;
        let live = live(&url).await?;
        if live == 0 {
            break;
        }
        if live < least {
            (least, ended) = (live, Instant::now());
        }
        if ended.elapsed() > PATIENCE {
            println!(
                "{live} executions or events do not come to an end; see {}",
                folder.display()
            );
            panic!("CHAOS_SEED={seed}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let quiet = calm.elapsed();
    // The lease of one that was killed at last is over only later.
    eventually("only the living ones are left", || {
        storm.mend().unwrap();
        let here = storm.all_at_work();
        let left = leases(&url);
        async move { here && left.await.unwrap() == WORKERS as i64 }
    })
    .await;
    storm.end().await?;
    conductor.pool().close().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let verdict = Verdict::of(&url, &folder, &asked, &storm.log).await?;
    let unknown = asked.iter().filter(|call| call.id.is_none()).count();
    println!(
        "\nCHAOS_SEED={seed}, {} s and {:.1} s until all had ended\n{}{:<34} {unknown:>8}\n{verdict}",
        began.elapsed().as_secs(),
        quiet.as_secs_f64(),
        storm.counts,
        "calls that ended in an error",
    );
    assert!(
        verdict.is_clean(),
        "CHAOS_SEED={seed}: see above and {}",
        folder.display()
    );
    assert_eq!(verdict.most_at_once, tasks::LIMIT);
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
