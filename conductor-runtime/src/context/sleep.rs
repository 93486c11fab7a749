use std::time::{Duration, Instant};

use chrono::Datelike;

use super::TaskContext;
use super::block::Block;
use super::memo::{Stands, Wait, Wake, Wanted};
use crate::error::{Error, Result, too_long};
use crate::task::PointInTime;

const KIND: &str = "sleep";

impl TaskContext {
    /// Sleeps, by the database's clock. The worker's slot is free meanwhile.
    ///
    /// The handler then runs again from the top. The end of the sleep is fixed when it is first
    /// registered; replays, crashes and deploys do not extend it.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// # use std::time::{Duration, Instant};
    /// #[task]
    /// async fn remind(ctx: &TaskContext, to: String) -> anyhow::Result<()> {
    ///     ctx.sleep("a day", Duration::from_secs(24 * 60 * 60)).await?;
    ///     ctx.step("mail", || async { send_mail(&to).await }).await
    /// }
    /// # async fn send_mail(_: &str) -> anyhow::Result<()> { Ok(()) }
    /// ```
    pub fn sleep(
        &self,
        key: impl Into<String>,
        duration: Duration,
    ) -> impl Future<Output = Result<()>> + Send {
        let wake = match too_long(duration) {
            None => Ok(Wake::In(duration)),
            Some(error) => Err(error),
        };
        self.sleep_until_wake(key.into(), wake)
    }

    /// Sleeps until an instant, by the database's clock. Returns at once if it has passed.
    pub fn sleep_until(
        &self,
        key: impl Into<String>,
        at: impl PointInTime,
    ) -> impl Future<Output = Result<()>> + Send {
        let at = at.utc();
        let wake = if (1..=9999).contains(&at.year()) {
            Ok(Wake::At(at))
        } else {
            Err(Error::Invalid(format!(
                "a sleep until {at} lies outside the years 1 to 9999"
            )))
        };
        self.sleep_until_wake(key.into(), wake)
    }

    fn sleep_until_wake(
        &self,
        key: String,
        wake: Result<Wake>,
    ) -> impl Future<Output = Result<()>> + Send {
        let met = self.memo.meet(&key, KIND);
        let wanted = Wanted::new(&self.memo, &key);
        async move {
            if met?.is_some() {
                wanted.had();
                return Ok(());
            }
            let wait = Wait {
                kind: KIND,
                group: key.clone(),
                wake: Some(wake?),
                child: None,
                event: None,
                since: Instant::now(),
                // A duration is often what is left until some time, and differs in each run of correct code.
                input: None,
                stands: Stands::No,
            };
            self.durable()?;
            self.go_on().await?;
            Block::on(&self.memo, vec![(key, wait)]).await;
            wanted.had();
            Ok(())
        }
    }
}
