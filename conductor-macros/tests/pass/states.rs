//! Injected values, alone and among payload arguments.
use std::fmt;

use conductor::__private::{Handler, TaskDefinition, inventory};
use conductor::prelude::*;

struct Mailer {
    sender: String,
}

#[task]
async fn remind(
    ctx: &TaskContext,
    State(mailer): State<Mailer>,
    to: String,
    clock: conductor::State<std::time::Duration>,
) -> anyhow::Result<String> {
    Ok(format!("{} {to} {clock:?}", mailer.sender))
}

#[task]
async fn only_state(ctx: &TaskContext, _: State<Mailer>) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn beside_payload(
    ctx: &TaskContext,
    payload: u8,
    mailer: State<Mailer>,
) -> anyhow::Result<String> {
    Ok(format!("{payload} {}", mailer.sender))
}

#[derive(Debug)]
struct OwnError;

impl fmt::Display for OwnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("own")
    }
}

impl std::error::Error for OwnError {}

#[task]
async fn with_own_error(ctx: &TaskContext) -> Result<Option<String>, OwnError> {
    Err(OwnError)
}

type Outcome = Result<(), OwnError>;

#[task]
async fn aliased(ctx: &TaskContext) -> Outcome {
    Ok(())
}

async fn call_directly(ctx: &TaskContext) -> anyhow::Result<()> {
    let mailer = State::new(Mailer {
        sender: "me".into(),
    });
    remind(
        ctx,
        mailer.clone(),
        "you".into(),
        State::new(std::time::Duration::ZERO),
    )
    .await?;
    only_state(ctx, mailer).await?;
    Remind::call(ctx, Remind { to: "you".into() }).await?;
    let _: u8 = 1 as <BesidePayload as Task>::Payload;
    let _: Option<String> = with_own_error(ctx).await?;
    let _: <own::OwnErrors as Task>::Output = Some(String::new());
    Ok(())
}

mod own {
    use conductor::prelude::*;

    #[task]
    pub(super) async fn own_errors(ctx: &TaskContext) -> Result<Option<String>, super::OwnError> {
        Ok(None)
    }
}

#[test]
fn holds() {
    let _ = call_directly;
    let count = |name| {
        let task = inventory::iter::<TaskDefinition>()
            .find(|task| task.name == name && task.place.file == file!());
        task.unwrap().states.len()
    };
    assert_eq!(count("remind"), 2);
    assert_eq!(count("only_state"), 1);
    assert_eq!(count("own_errors"), 0);
}
