//! Batch handlers, in all forms.
use conductor::__private::{TaskDefinition, inventory};
use conductor::prelude::*;

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Item {
    n: u32,
}

#[derive(Debug)]
struct OwnError;

impl std::fmt::Display for OwnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("own")
    }
}

impl std::error::Error for OwnError {}

#[task(batch)]
async fn done(_ctx: &BatchContext, _items: Vec<Item>) -> anyhow::Result<()> {
    Ok(())
}

#[task(
    batch(max_size = 7, max_wait = "2s"),
    timeout = "1m",
    retry(max_attempts = 9)
)]
pub async fn all(ctx: &BatchContext, mut items: std::vec::Vec<Item>) -> Result<Vec<u32>, OwnError> {
    items.truncate(ctx.len());
    Ok(items.iter().map(|item| item.n).collect())
}

#[task(batch(max_size = 1))]
async fn each(
    ctx: &conductor::BatchContext,
    State(factor): State<u32>,
    items: Vec<Item>,
    _: State<String>,
) -> anyhow::Result<Vec<Result<Option<String>, OwnError>>> {
    let both = ctx.items().iter().zip(items);
    Ok(both
        .map(|(item, Item { n })| Ok(Some(format!("{} {}", n * *factor, item.attempt()))))
        .collect())
}

/// The payload is the task.
#[task(batch())]
async fn item(_ctx: &BatchContext, items: Vec<Item>) -> anyhow::Result<Vec<anyhow::Result<u32>>> {
    Ok(items.into_iter().map(|item| Ok(item.n)).collect())
}

#[test]
fn holds() {
    let sizes = |name: &str| {
        let task = inventory::iter::<TaskDefinition>()
            .find(|task| task.name == name && task.place.file == file!())
            .unwrap();
        let batch = task.batch().unwrap();
        (
            batch.max_size,
            batch.max_wait.as_millis(),
            task.states.len(),
        )
    };
    assert_eq!(sizes("done"), (100, 500, 0));
    assert_eq!(sizes("all"), (7, 2000, 0));
    assert_eq!(sizes("each"), (1, 500, 2));
    assert_eq!(Item::NAME, "item");
    let _: <Each as Task>::Output = Some(String::new());
    let _: <All as Task>::Output = 1u32;
    let _: <Done as Task>::Output = ();
    let _: <Item as Task>::Output = 1u32;
    let _: <Done as Task>::Payload = Item { n: 1 };
}
