//! `why`: explains why an execution is not running.

use conductor_runtime::client::{Conductor, Reason};
use conductor_runtime::error::Error;
use serde_json::json;

use super::arguments::Show;
use super::fault::Done;
use super::{json, output};

pub(crate) async fn why(command: Show, conductor: &Conductor) -> Done {
    let why = conductor.inspect().why(command.id).await?;
    if why.reason == Reason::Unknown {
        return Err(Error::NotFound(command.id).into());
    }
    let text = if command.json {
        json::pretty(&json!(why).to_string(), "")
    } else {
        output::lines(&why.text)
    };
    output::print(&text)?;
    Ok(())
}
