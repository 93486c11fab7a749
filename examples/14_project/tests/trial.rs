//! Tests of the project: each has a database and a clock of its own, and two weeks pass at once.
//!
//!     cargo test -p trial

use std::process::Command;
use std::time::Duration;

use conductor::Status;
use conductor::testing::TestConductor;
use trial::{Mailer, REMINDER, Subscribed, TRIAL, Trial};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn alice() -> Trial {
    Trial {
        email: "alice@example.com".to_owned(),
    }
}

/// A test database whose handlers send mail by this mailer.
fn with_mailer(test: TestConductor) -> (TestConductor, Mailer) {
    let mailer = Mailer::default();
    (test.state(mailer.clone()), mailer)
}

#[conductor::test]
async fn a_trial_ends_with_two_more_mails_after_two_weeks(
    test: TestConductor,
) -> anyhow::Result<()> {
    let (test, mailer) = with_mailer(test);
    let run = test.invoke::<Trial>(alice()).await?;
    test.drain().await?;
    assert_eq!(mailer.sent(), ["alice@example.com: welcome"]);

    test.advance(TRIAL - REMINDER).await?;
    test.drain().await?;
    assert_eq!(mailer.sent().len(), 2);

    test.advance(REMINDER).await?;
    test.drain().await?;
    assert!(!run.result().await?);
    // Each step ran once, although the handler began anew at each wait.
    assert_eq!(
        mailer.sent(),
        [
            "alice@example.com: welcome",
            "alice@example.com: three days left",
            "alice@example.com: goodbye",
        ]
    );
    Ok(())
}

#[conductor::test]
async fn who_subscribes_is_not_reminded(test: TestConductor) -> anyhow::Result<()> {
    let (test, mailer) = with_mailer(test);
    let run = test.invoke::<Trial>(alice()).await?;
    test.drain().await?;
    test.advance(5 * DAY).await?;
    for email in ["bob@example.com", "alice@example.com"] {
        test.emit(Subscribed {
            email: email.to_owned(),
        })
        .await?;
    }
    test.drain().await?;
    assert!(run.result().await?);
    test.advance(TRIAL).await?;
    test.drain().await?;
    assert_eq!(mailer.sent().len(), 1);
    Ok(())
}

#[conductor::test]
async fn a_bad_address_fails_at_once(test: TestConductor) -> anyhow::Result<()> {
    let (test, mailer) = with_mailer(test);
    let email = "nobody".to_owned();
    let run = test.invoke::<Trial>(Trial { email }).await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Failed);
    assert_eq!(test.failures(run.id()).await?.len(), 1);
    assert!(mailer.sent().is_empty());
    Ok(())
}

#[conductor::test]
async fn the_program_runs_the_task(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<Trial>(alice()).await?;
    let drained = Command::new(env!("CARGO_BIN_EXE_trial"))
        .arg("drain")
        .env("DATABASE_URL", test.url())
        .output()?;
    assert!(drained.status.success(), "{drained:?}");
    let printed = String::from_utf8(drained.stdout)?;
    assert_eq!(printed, "mail to alice@example.com: welcome\n");
    assert_eq!(run.status().await?, Status::Suspended);
    Ok(())
}
