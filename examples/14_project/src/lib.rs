//! A trial of two weeks: the tasks of a small project. `tests/trial.rs` tests them without waiting.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conductor::Error;
use conductor::prelude::*;

/// How long a trial lasts.
pub const TRIAL: Duration = Duration::from_secs(14 * DAY);
/// How long before its end the user is reminded.
pub const REMINDER: Duration = Duration::from_secs(3 * DAY);
const DAY: u64 = 24 * 60 * 60;

/// A user has subscribed.
#[event]
pub struct Subscribed {
    /// The user's address.
    pub email: String,
}

/// Sends mail. This one prints it, and keeps what it has sent for tests.
#[derive(Debug, Default, Clone)]
pub struct Mailer {
    sent: Arc<Mutex<Vec<String>>>,
}

impl Mailer {
    /// Sends a mail.
    ///
    /// # Errors
    /// The address has no `@`.
    pub async fn send(&self, to: &str, subject: &str) -> anyhow::Result<()> {
        anyhow::ensure!(to.contains('@'), "{to:?} is not an address");
        println!("mail to {to}: {subject}");
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push(format!("{to}: {subject}"));
        Ok(())
    }

    /// Returns the mails that were sent.
    pub fn sent(&self) -> Vec<String> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.clone()
    }
}

/// Accompanies a trial to its end. Returns whether the user has subscribed.
///
/// A bad address does not get better with time, so its error is permanent.
#[task(retry(max_attempts = 5, backoff = "1m..1h"))]
pub async fn trial(
    ctx: &TaskContext,
    email: String,
    mailer: State<Mailer>,
) -> anyhow::Result<bool> {
    ctx.step("welcome", || mailer.send(&email, "welcome"))
        .await
        .permanent()?;
    if subscribes(ctx, "early", &email, TRIAL - REMINDER).await? {
        return Ok(true);
    }
    ctx.step("remind", || mailer.send(&email, "three days left"))
        .await?;
    if subscribes(ctx, "late", &email, REMINDER).await? {
        return Ok(true);
    }
    ctx.step("goodbye", || mailer.send(&email, "goodbye"))
        .await?;
    Ok(false)
}

/// Waits at most this long for the user to subscribe.
async fn subscribes(
    ctx: &TaskContext,
    key: &str,
    email: &str,
    within: Duration,
) -> anyhow::Result<bool> {
    let subscribed = ctx
        .wait_for_event::<Subscribed>(key)
        .when(Subscribed::email.eq(email))
        .timeout(within);
    match subscribed.await {
        Ok(_) => Ok(true),
        Err(Error::NoEvent { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
