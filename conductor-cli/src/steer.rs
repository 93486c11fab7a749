//! `cancel` and `retry`: the commands that change an execution.

use conductor_runtime::client::{Conductor, Status};
use conductor_runtime::error::Error;

use super::arguments::{Cancel, Retry};
use super::fault::{Done, FAILED, Fault};
use super::output;

pub(crate) async fn cancel(command: Cancel, conductor: &Conductor) -> Done {
    let id = command.id;
    let mut cancel = conductor.cancel(id);
    if let Some(reason) = command.reason {
        cancel = cancel.reason(reason);
    }
    let done = cancel.await?;
    let state = conductor.inspect().find(id).await?.map(|info| info.state);
    match (done, state) {
        (true, Some(Status::Running)) => {
            output::print(&format!(
                "{id} is being cancelled; its handler has been told"
            ))?;
        }
        (true, _) => output::print(&format!("{id} cancelled"))?,
        (false, None) => return Err(Error::NotFound(id).into()),
        (false, Some(state)) => {
            let text = format!("execution {id} has ended already: it is {state}");
            return Err(Fault::new(FAILED, text));
        }
    }
    Ok(())
}

pub(crate) async fn retry(command: Retry, conductor: &Conductor) -> Done {
    let id = command.id;
    if let Some(again) = conductor.retry(id).await? {
        output::print(&again.to_string())?;
        return Ok(());
    }
    let Some(info) = conductor.inspect().find(id).await? else {
        return Err(Error::NotFound(id).into());
    };
    let text = format!(
        "execution {id} is {}; only what has failed, was cancelled or waits for its next attempt can be retried",
        info.state
    );
    Err(Fault::new(FAILED, text))
}
