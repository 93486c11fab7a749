//! Every way in which arguments make a payload.
use conductor::__private::{Handler, TaskDefinition, inventory};
use conductor::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Resize {
    url: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Thumb(String);

#[task]
async fn nothing(_: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

/// Greets.
///
///   Indented, with `code`.
#[task]
async fn greet(
    ctx: &TaskContext,
    /// Whom to greet.
    mut name: String,
    #[serde(default)] times: u32,
) -> anyhow::Result<String> {
    name.push('!');
    Ok(name.repeat(times as usize))
}

#[task]
async fn resize_image(_ctx: &conductor::TaskContext, payload: Resize) -> anyhow::Result<Thumb> {
    Ok(Thumb(payload.url))
}

#[task]
async fn resize(ctx: &'_ TaskContext, mut payload: Resize) -> anyhow::Result<()> {
    payload.url.clear();
    Ok(())
}

#[task]
async fn ignore_it(ctx: &TaskContext, _payload: Vec<Resize>) -> anyhow::Result<()> {
    Ok(())
}

#[task(marker = Types)]
async fn r#type(ctx: &TaskContext, r#type: String, r#match: Option<u8>) -> anyhow::Result<()> {
    assert!(r#match.is_none(), "{type}");
    Ok(())
}

fn definition(name: &str) -> &'static TaskDefinition {
    inventory::iter::<TaskDefinition>()
        .find(|task| task.name == name && task.place.file == file!())
        .unwrap()
}

// As in a unit test.
async fn call_directly(ctx: &TaskContext) -> anyhow::Result<()> {
    nothing(ctx).await?;
    let _: String = greet(ctx, "Ada".into(), 2).await?;
    let Thumb(_) = resize_image(ctx, Resize { url: String::new() }).await?;
    resize(ctx, Resize { url: String::new() }).await?;
    let _: String = Greet::call(
        ctx,
        Greet {
            name: "Ada".into(),
            times: 2,
        },
    )
    .await?;
    Ok(())
}

fn payload_is<T: Task<Payload = P, Output = O>, P, O>() {}

#[test]
fn holds() {
    let _ = call_directly;
    payload_is::<Nothing, (), ()>();
    payload_is::<Greet, Greet, String>();
    payload_is::<ResizeImage, Resize, Thumb>();
    payload_is::<Resize, Resize, ()>();
    payload_is::<IgnoreIt, Vec<Resize>, ()>();
    payload_is::<Types, Types, ()>();

    assert_eq!(
        definition("greet").docs,
        "Greets.\n\n  Indented, with `code`."
    );
    assert_eq!(definition("nothing").docs, "");
    assert!(definition("greet").place.file.ends_with("payloads.rs"));
    assert_eq!(definition("greet").place.line, 23);

    let greet = |json| definition("greet").check_given(json);
    assert_eq!(greet(r#"{"name": "Ada"}"#), Ok(()));
    assert_eq!(greet(r#"{"name": "Ada", "times": 2}"#), Ok(()));
    assert!(
        greet(r#"{"nmae": "Ada"}"#)
            .unwrap_err()
            .contains("unknown field `nmae`; did you mean `name`?")
    );
    // A newer build may have written what this one does not know.
    let more = r#"{"name": "Ada", "fragile": true}"#;
    assert!(greet(more).unwrap_err().contains("unknown field `fragile`"));
    assert!(definition("greet").check_payload(more).is_ok());
    let schema = definition("greet").payload_schema().to_string();
    assert!(schema.contains("Whom to greet."), "{schema}");
    assert!(schema.contains("Greets."), "{schema}");
    let types = definition("type");
    assert!(types.check_payload(r#"{"type": "a", "match": 1}"#).is_ok());
    assert!(definition("nothing").check_payload("{}").is_ok());
}

#[task]
pub async fn undocumented(_: &TaskContext, n: i64) -> anyhow::Result<i64> {
    Ok(n)
}
