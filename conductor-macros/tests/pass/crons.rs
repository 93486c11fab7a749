//! Schedules and windows.
use conductor::__private::{TaskDefinition, inventory};
use conductor::prelude::*;
use conductor::{CronDefinition, Missed, Overlap};

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Day {
    schedule: String,
}

impl From<CronTick> for Day {
    fn from(tick: CronTick) -> Self {
        Self {
            schedule: tick.schedule,
        }
    }
}

#[task(cron = "0 6 L * *")]
async fn last_day(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(cron = "*/3 * * * * *")]
async fn beat(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(
    cron("0 0 9 * * Mon-Fri", name = "morning", tz = "Europe/Berlin", missed = "skip", overlap = "skip"),
    cron("@weekly", name = "weekly", payload = Day { schedule: "of the week".to_owned() }),
    window("22:00-06:00", tz = "Europe/Berlin", days = "Mon-Fri"),
)]
async fn daily(ctx: &TaskContext, payload: Day) -> anyhow::Result<String> {
    Ok(payload.schedule)
}

#[task(cron = "@hourly", window = "18:00-24:00")]
async fn ticked(ctx: &TaskContext, payload: CronTick) -> anyhow::Result<()> {
    println!("{} at {}", payload.schedule, payload.scheduled_at);
    Ok(())
}

const PAGES: u32 = 3;

#[task(cron("0 0 29 2 *", payload = Report { pages: PAGES, to: vec!["a".into()] }))]
async fn report(ctx: &TaskContext, pages: u32, to: Vec<String>) -> anyhow::Result<u32> {
    Ok(pages + u32::try_from(to.len())?)
}

macro_rules! scheduled {
    ($rule:literal, $payload:expr) => {
        #[task(cron($rule, payload = $payload))]
        async fn from_macro(ctx: &TaskContext, payload: Vec<u8>) -> anyhow::Result<()> {
            drop(payload);
            Ok(())
        }
    };
}
scheduled!("@yearly", vec![1, 2]);

fn definition(name: &str) -> &'static TaskDefinition {
    inventory::iter::<TaskDefinition>()
        .find(|task| task.name == name && task.place.file == file!())
        .unwrap()
}

fn payload(cron: &CronDefinition) -> String {
    let tick = CronTick::new(cron.name, "2026-01-01T00:00:00Z".parse().unwrap());
    (cron.payload)(&tick).unwrap()
}

#[test]
fn holds() {
    let [cron] = definition("beat").crons else {
        panic!()
    };
    assert_eq!(
        (cron.name, cron.cron, cron.timezone),
        ("default", "*/3 * * * * *", "UTC")
    );
    assert_eq!((cron.missed, cron.overlap), (Missed::Once, Overlap::Allow));
    assert_eq!(payload(cron), "null");
    assert_eq!(definition("beat").window, None);

    let daily = definition("daily");
    let [morning, weekly] = daily.crons else {
        panic!()
    };
    assert_eq!(
        (morning.name, morning.timezone),
        ("morning", "Europe/Berlin")
    );
    assert_eq!(
        (morning.missed, morning.overlap),
        (Missed::Skip, Overlap::Skip)
    );
    assert_eq!(payload(morning), r#"{"schedule":"morning"}"#);
    assert_eq!(payload(weekly), r#"{"schedule":"of the week"}"#);
    let window = daily.window.unwrap();
    assert_eq!(
        (window.times, window.days),
        ("22:00-06:00", Some("Mon-Fri"))
    );
    assert_eq!(window.timezone, "Europe/Berlin");
    assert!(format!("{daily:?}").contains("0 0 9 * * Mon-Fri"));

    let ticked = definition("ticked");
    assert!(payload(&ticked.crons[0]).contains(r#""scheduled_at":"2026-01-01T00:00:00Z""#));
    assert_eq!(ticked.window.unwrap().timezone, "UTC");

    assert_eq!(
        payload(&definition("report").crons[0]),
        r#"{"pages":3,"to":["a"]}"#
    );
    assert_eq!(payload(&definition("from_macro").crons[0]), "[1,2]");
}
