//! Generated code draws no warning, also from lints that are off by default. Run by clippy, too.
#![deny(warnings, missing_docs, unused, unreachable_pub, unused_qualifications)]
#![deny(
    missing_copy_implementations,
    let_underscore_drop,
    single_use_lifetimes
)]
#![deny(clippy::pedantic, clippy::nursery)]
#![forbid(unsafe_code)]

use conductor::__private::{TaskDefinition, inventory};
use conductor::prelude::*;

struct Mailer;

#[allow(clippy::unused_async)]
async fn nothing_to_await(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(cron = "@daily", window = "22:00-06:00")]
async fn idle(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(cron("@daily", payload = Consume { text: String::new(), flags: (true, false) }))]
async fn consume(ctx: &TaskContext, text: String, flags: (bool, bool)) -> anyhow::Result<usize> {
    Ok(text.len() + usize::from(flags.0))
}

// The function's own, and not the generated struct's `struct_excessive_bools`.
#[allow(clippy::fn_params_excessive_bools)]
#[task]
async fn switches(ctx: &TaskContext, a: bool, b: bool, c: bool, d: bool) -> anyhow::Result<bool> {
    Ok(a || b || c || d)
}

#[task]
async fn unused_ones(
    ctx: &TaskContext,
    #[allow(unused_variables)] a: bool,
    _mailer: State<Mailer>,
) -> anyhow::Result<()> {
    nothing_to_await(ctx).await
}

/// Documented, as a public function must be.
///
/// # Errors
/// None.
#[task]
#[deprecated]
pub async fn outdated(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[event]
struct Seen {
    id: i64,
    place: Option<String>,
}

#[task(event(Seen, when = id > 3 && !place.is_none()))]
async fn look(ctx: &TaskContext, payload: Seen) -> anyhow::Result<()> {
    drop(payload);
    Ok(())
}

/// Public tasks in a module.
pub mod public {
    use conductor::prelude::*;

    /// A public event.
    #[event]
    #[derive(Copy)]
    pub struct Announced {
        /// Which.
        pub id: u64,
    }

    /// The function's docs go to the type, and an argument needs none.
    ///
    /// # Errors
    /// None.
    #[task]
    pub async fn published(ctx: &TaskContext, id: u64, name: String) -> anyhow::Result<String> {
        Ok(format!("{name} {id}"))
    }

    #[allow(missing_docs, clippy::missing_errors_doc)]
    #[task]
    pub async fn undocumented(ctx: &TaskContext) -> anyhow::Result<()> {
        Ok(())
    }
}

#[test]
fn all_are_registered() {
    assert_eq!(inventory::iter::<TaskDefinition>().count(), 8);
}

#[test]
fn a_stand_in_doc_is_not_in_the_schema() {
    let published = inventory::iter::<TaskDefinition>().find(|task| task.name == "published");
    let schema = published.map(|task| task.payload_schema().to_string());
    assert!(
        schema.is_some_and(|schema| schema.contains("integer") && !schema.contains("The argument"))
    );
}
