//! The macros of the crate `conductor`. Depend on that crate instead.

mod errors;
mod event;
mod literal;
mod task;
mod test;

use proc_macro::TokenStream;

/// Turns an `async fn` into a durable task.
///
/// The function stays as it is written and can be called in a unit test. In addition, the macro
/// generates a type in UpperCamelCase that implements `Task`. Invokes name the task by this type.
///
/// ```
/// use conductor::prelude::*;
///
/// /// Doc comments appear in the command line and in the stored schema.
/// #[task]
/// async fn greet(ctx: &TaskContext, name: String, times: u32) -> anyhow::Result<String> {
///     Ok(format!("Hello, {name}! ").repeat(times as usize))
/// }
///
/// let payload = Greet { name: "Ada".into(), times: 2 };
/// assert_eq!(Greet::NAME, "greet");
/// # let _ = payload;
/// ```
///
/// # The function
///
/// The first argument is the context, `ctx: &TaskContext`. The result is an `anyhow::Result<T>`,
/// or a `Result<T, E>` whose `E` converts into `anyhow::Error`. `T` and the payload are stored as
/// JSON: they implement `Serialize`, `Deserialize` and `JsonSchema`, and own their data. The
/// function is neither generic nor a method, and its future is `Send`.
///
/// # The payload
///
/// **Arguments as fields.** Each argument after the context becomes a field of the generated type,
/// which is also the payload. Attributes and doc comments of an argument move to its field; lint
/// levels such as `#[allow(…)]` stay. Without arguments, the payload is `()`. An invoke by the
/// command line or by `invoke_json` fails if its payload has an unknown field; unknown fields in
/// stored payloads, which newer builds may have added, are ignored.
///
/// ```
/// use conductor::prelude::*;
///
/// #[task]
/// async fn send_report(
///     ctx: &TaskContext,
///     /// The recipient.
///     to: String,
///     #[serde(default)] copies: u8,
/// ) -> anyhow::Result<()> {
///     Ok(())
/// }
///
/// let _ = SendReport { to: "ada@example.com".into(), copies: 1 };
/// ```
///
/// **One argument as the payload.** An argument named `payload` (or `_payload`) is the whole
/// payload. If its type has the name of the task's type, that type implements `Task` and no other
/// one is generated.
///
/// ```
/// use conductor::prelude::*;
///
/// #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
/// struct Resize { url: String, width: u32 }
///
/// #[task]                                     // type `ResizeImage`, payload `Resize`
/// async fn resize_image(ctx: &TaskContext, payload: Resize) -> anyhow::Result<u32> {
///     Ok(payload.width)
/// }
///
/// #[task]                                     // type and payload `Resize`
/// async fn resize(ctx: &TaskContext, payload: Resize) -> anyhow::Result<()> {
///     Ok(())
/// }
/// ```
///
/// **Injected values.** Arguments of a type `State<T>` come from the orchestrator and are not part
/// of the payload. They may appear anywhere after the context.
///
/// ```
/// use conductor::prelude::*;
///
/// struct Mailer { sender: String }
///
/// #[task]
/// async fn remind(ctx: &TaskContext, to: String, State(mailer): State<Mailer>) -> anyhow::Result<()> {
///     println!("{} reminds {to}", mailer.sender);
///     Ok(())
/// }
///
/// let _ = Remind { to: "Ada".into() };
/// ```
///
/// # Keys
///
/// | key | meaning | default |
/// | --- | --- | --- |
/// | `name = "resize-image"` | The name in the database: 1 to 100 bytes without control characters. Stored executions refer to it, so keep it when you rename the function. | the function's name |
/// | `queue = "fast"` | The queue of its executions. Names of queues follow the rules for names of tasks. | `"default"` |
/// | `retry(max_attempts = 5)` | The number of attempts that may fail, from 1 to 1000. | 3 |
/// | `retry(backoff = "15s..2h")` | The delay after the first failure, and the longest delay. The delay doubles after each failure. `"30s"` is a constant delay. | `"15s..2h"` |
/// | `retry(jitter = 0.2)` | The fraction, from 0 to 1, by which delays vary at random. | 0.1 |
/// | `timeout = "5m"` | The time limit of one attempt. An attempt that blocks its thread for longer times out when it yields, so run blocking code in `tokio::task::spawn_blocking`, awaited in a step. | none |
/// | `priority = 10` | Executions with a higher priority are claimed first. May be negative. | 0 |
/// | `keep(completed = "7d")` | How long completed executions are kept; with `"0s"` they are not. | 7 days |
/// | `keep(failed = "30d")` | The same for failed and cancelled ones. | 30 days |
/// | `concurrency = 5` | The maximum number of executions that run at once, across all workers. See [Limits](#limits). May be given several times. | no limit |
/// | `rate_limit = "100/1m"` | The maximum number of executions that start in an interval, across all workers. See [Limits](#limits). May be given several times. | no limit |
/// | `ordered_by = payload.account` | Runs executions with the same value of this field one after another. See [Order](#order). | any order |
/// | `batch(max_size = 100, max_wait = "500ms")` | Runs several executions in one call of the function: 1 to 10000 of them, gathered for at most `"1h"`. See [Batches](#batches). | one execution per call |
/// | `cron = "0 9 * * Mon-Fri"` | Runs the task by a schedule. See [Schedules](#schedules). May be given several times. | none |
/// | `event(UserSignedUp)` | Runs the task for each event of this type. See [Events](#events). May be given several times. | none |
/// | `on_insert("public.users")` | Runs the task for each inserted row of a table; likewise `on_update` and `on_delete`. The guide's page on row changes describes their options. May be given several times. | none |
/// | `window = "22:00-06:00"` | The hours in which the task may run. See [Windows](#windows). | always |
/// | `marker = Other` | The name of the generated type. Use it if the default clashes with another type. | the function's name in UpperCamelCase |
/// | `linked = false` | Leaves the task out of every program that links it, unless it is added to a `Registry`. | `true` |
/// | `crate = "::my_crate::conductor"` | The path to this crate, for macros that re-export it. | `::conductor` |
///
/// Durations are numbers with units, such as `"500ms"`, `"2h 30m"` or `"7d"`, of at most 100 years.
///
/// ```
/// use conductor::prelude::*;
///
/// #[task(
///     name = "charge-card",
///     queue = "payments",
///     retry(max_attempts = 5, backoff = "15s..2h", jitter = 0.2),
///     timeout = "5m",
///     priority = 10,
///     keep(completed = "7d", failed = "30d"),
///     marker = ChargeTask,
/// )]
/// async fn charge(ctx: &TaskContext, cents: u64) -> anyhow::Result<u64> {
///     Ok(cents)
/// }
///
/// assert_eq!(ChargeTask::NAME, "charge-card");
/// ```
///
/// # Schedules
///
/// A cron expression has 5 fields (minute, hour, day of month, month, weekday), 6 (seconds first) or 7
/// (a year last), or is one of `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly`. Weekdays are
/// written by name. Both day fields must match: `0 9 1-7 * Mon` is the first Monday of a month.
/// `L` is the last day of a month: `0 6 L * *`. An expression for a date that does not exist is a
/// compile error.
///
/// `cron("0 9 * * Mon-Fri", …)` takes options:
///
/// | option | meaning | default |
/// | --- | --- | --- |
/// | `name = "morning"` | The name of the schedule, unique within the task. | `"default"` |
/// | `tz = "Europe/Berlin"` | The time zone of the expression. | `"UTC"` |
/// | `missed = "skip"` | How to handle ticks that were missed because no worker was running: `"skip"` runs none of them, `"once"` runs the latest, `"all"` runs each. | `"once"` |
/// | `overlap = "skip"` | How to handle a tick while the execution of the previous tick has not ended: `"allow"` starts another one, `"skip"` does not. With `missed = "all"` and `"skip"`, missed ticks run one after another. | `"allow"` |
/// | `payload = EXPR` | The payload, evaluated at each tick. | `From<CronTick>` |
///
/// Without `payload`, the payload type implements `From<CronTick>`; `()` needs no implementation.
///
/// If daylight saving time skips a local time, its tick comes at the end of the gap, once. If a local
/// time occurs twice, the tick comes at the first occurrence. Expressions whose hour is `*` tick at
/// regular intervals of real time instead.
///
/// # Windows
///
/// Outside its window, a task is not claimed, and a running execution suspends at its next step or
/// checkpoint. A window such as `window("22:00-06:00", tz = "Europe/Berlin", days = "Mon-Fri")` can
/// extend into the next day; `days` are the days on which it opens. `24:00` is the end of a day.
///
/// ```
/// use conductor::prelude::*;
///
/// #[task(
///     cron("0 9 * * Mon-Fri", name = "morning", tz = "Europe/Berlin", payload = Digest { pages: 1 }),
///     cron("@weekly", name = "weekly", missed = "skip", payload = Digest { pages: 20 }),
///     window("06:00-22:00", tz = "Europe/Berlin"),
/// )]
/// async fn digest(ctx: &TaskContext, pages: u32) -> anyhow::Result<()> {
///     Ok(())
/// }
/// ```
///
/// # Limits
///
/// `concurrency = 5` and `rate_limit = "100/1m"` limit the whole task.
/// `concurrency(limit = 2, key = payload.tenant_id)` and `rate_limit("10/s", key = payload.tenant_id)`
/// count separately for each value of a field of the payload, or of a nested field. If a task has several
/// limits, all of them apply; two of the same kind and key are a compile error. An execution that waits or
/// sleeps does not count as running.
///
/// A rate limit spaces starts evenly, and unused starts do not accumulate. With
/// `rate_limit("100/1m", burst = 20)`, up to 20 executions start at once after a pause, so at most
/// 100 + 20 - 1 start in any minute. A burst is at most the amount.
///
/// ```
/// use conductor::prelude::*;
///
/// #[task(concurrency = 50, concurrency(limit = 2, key = payload.tenant_id), rate_limit = "100/1m")]
/// async fn sync_tenant(ctx: &TaskContext, tenant_id: i64) -> anyhow::Result<()> {
///     Ok(())
/// }
/// ```
///
/// With a `name`, the tasks of a queue that have a limit of this name and kind share it, as in
/// `concurrency(limit = 5, name = "stripe", key = payload.account)`. Each task gives the path to the key in its
/// own payload.
///
/// # Order
///
/// `ordered_by = payload.account` runs executions with the same value of this field one after another, in the
/// order in which they were invoked. The next one starts only after the previous one has ended. An execution keeps
/// its turn while it sleeps, while it waits for its next attempt, and after a crash. `ordered_by` cannot be
/// combined with `batch`.
///
/// ```
/// use conductor::prelude::*;
///
/// #[task(ordered_by = payload.account, concurrency(limit = 5, name = "bank"))]
/// async fn book(ctx: &TaskContext, account: i64, cents: i64) -> anyhow::Result<()> {
///     Ok(())
/// }
/// ```
///
/// # Fields of limits and order
///
/// The field after `key` or `ordered_by` must be a field of the payload type, which the compiler checks.
/// It must have the same name in the payload's JSON, which is checked at start. Write a `?` after a field
/// that is an `Option`: `payload.new?.account`.
///
/// # Batches
///
/// With `batch`, due executions run together: a worker calls the function when it has claimed
/// `max_size` of them, or when the first one has waited for `max_wait`. The arguments are a
/// `&BatchContext`, the payloads as `items: Vec<P>`, and `State<T>`s. Each item is an execution of its
/// own, with its own retries, cancellation and result. The function has one of these result types:
///
/// | result | meaning |
/// | --- | --- |
/// | `anyhow::Result<Vec<anyhow::Result<T>>>` | a result for each item, in order |
/// | `anyhow::Result<Vec<T>>` | all completed, with an output for each item, in order |
/// | `anyhow::Result<()>` | all completed |
///
/// If the call fails, panics or times out, every item fails. Limits cannot be combined with `batch`;
/// the concurrency of the queue's worker limits the number of batches that run at once.
///
/// ```
/// use conductor::prelude::*;
///
/// #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
/// struct Mail { to: String, text: String }
///
/// #[task(batch(max_size = 50, max_wait = "2s"))]
/// async fn send_mail(
///     ctx: &BatchContext,
///     items: Vec<Mail>,
/// ) -> anyhow::Result<Vec<anyhow::Result<()>>> {
///     Ok(items.iter().map(|mail| deliver(mail)).collect())
/// }
/// # fn deliver(_: &Mail) -> anyhow::Result<()> { Ok(()) }
/// ```
///
/// # Events
///
/// `event(UserSignedUp)` starts one execution for each event of this type, and
/// `event(UserSignedUp, when = …)` for each event that fulfils a condition. The payload is the event
/// itself, or a type that implements `From` for it; `()` needs no implementation.
///
/// A condition is written in Rust, checked by the compiler and evaluated by the database. It compares
/// fields, by their bare names, with literals or constants: `==`, `!=`, `<`, `<=`, `>`, `>=`, joined by
/// `&&`, `||` and `!`. It can also contain `field.is_some()`, `field.is_none()` and
/// `["a", "b"].contains(&field)`. `address.city` is a field of a nested struct, by its name in Rust,
/// even if serde renames it.
///
/// ```
/// use conductor::prelude::*;
///
/// #[event]
/// struct UserSignedUp { user_id: i64, plan: String, visits: u32, invited_by: Option<i64> }
///
/// #[event]
/// struct UserCameBack { user_id: i64 }
///
/// #[task(event(UserSignedUp, when = plan == "pro" && (visits > 3 || invited_by.is_some())))]
/// async fn welcome(ctx: &TaskContext, payload: UserSignedUp) -> anyhow::Result<()> {
///     println!("Welcome, {}!", payload.user_id);
///     Ok(())
/// }
///
/// #[task(event(UserSignedUp), event(UserCameBack))]
/// async fn count(ctx: &TaskContext, user_id: i64) -> anyhow::Result<()> {
///     Ok(())
/// }
///
/// impl From<UserSignedUp> for Count {
///     fn from(event: UserSignedUp) -> Self {
///         Self { user_id: event.user_id }
///     }
/// }
///
/// impl From<UserCameBack> for Count {
///     fn from(event: UserCameBack) -> Self {
///         Self { user_id: event.user_id }
///     }
/// }
/// ```
///
/// # What is generated
///
/// The type, with the function's visibility, docs, `#[cfg]`s and `#[allow]`s; its impl of `Task`;
/// the code that destructures the payload and calls the function; and a registration, by which every
/// binary that links the task finds it. All mistakes are reported at once, each at its place in the
/// source.
#[proc_macro_attribute]
pub fn task(args: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(args.into(), item.into()).into()
}

/// Turns an `async fn` into a test with a database of its own.
///
/// The function takes a `TestConductor`, a `Conductor` or nothing. The database is created from a
/// template within milliseconds and dropped afterwards.
///
/// ```
/// use conductor::prelude::*;
/// use conductor::testing::TestConductor;
///
/// #[task]
/// async fn double(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
///     Ok(n * 2)
/// }
///
/// #[conductor::test]
/// async fn doubles(test: TestConductor) -> anyhow::Result<()> {
///     let run = test.invoke::<Double>(Double { n: 21 }).await?;
///     test.drain().await?;
///     assert_eq!(run.result().await?, 42);
///     Ok(())
/// }
/// ```
#[proc_macro_attribute]
pub fn test(args: TokenStream, item: TokenStream) -> TokenStream {
    test::expand(args.into(), item.into()).into()
}

/// Turns a struct into a typed event.
///
/// ```
/// use conductor::prelude::*;
///
/// /// A user has created an account.
/// #[event]
/// struct UserSignedUp { user_id: i64, email: String, plan: String }
///
/// assert_eq!(UserSignedUp::NAME, "user_signed_up");
///
/// let paying = UserSignedUp::plan.is_in(["pro", "team"]).and(UserSignedUp::user_id.gt(1000));
/// # assert_eq!(paying.to_json()["op"], "and");
/// ```
///
/// The struct has named fields or no fields, owns its data and is not generic. It stays as it is
/// written. The macro adds the derives `Serialize`, `Deserialize`, `JsonSchema`, `Debug` and `Clone` if
/// they are missing. Write `#[event]` above all `#[derive]`s, as it sees only those below.
///
/// # Keys
///
/// | key | meaning | default |
/// | --- | --- | --- |
/// | `name = "user.signed_up"` | The name in the database: 1 to 100 bytes without control characters. Keep it when you rename the struct. | the struct's name in snake_case |
/// | `version = 2` | The version. Increase it with changes that older builds cannot read. | 1 |
/// | `keep = "30d"` | How long its events are kept. Takes effect when a worker with this value starts. A wait that begins later does not see removed events. | 7 days |
/// | `crate = "::my_crate::conductor"` | The path to this crate, for macros that re-export it. | `::conductor` |
///
/// ```
/// use conductor::prelude::*;
///
/// #[event(name = "user.signed_up", version = 2)]
/// #[derive(PartialEq)]
/// #[serde(rename_all = "camelCase")]
/// pub struct Signup {
///     pub user_id: i64,
///     #[serde(rename = "tier")]
///     pub plan: String,
/// }
///
/// assert_eq!((Signup::NAME, Signup::VERSION), ("user.signed_up", 2));
/// assert_eq!(Signup::user_id.gt(3).to_json()["path"][0], "userId");
/// assert_eq!(Signup::plan.eq("pro").to_json()["path"][0], "tier");
/// ```
///
/// # Handles
///
/// Each field becomes an associated constant with its name and visibility, which filters use. A field
/// has no handle if serde does not store its own value under a name of its own (`flatten`, `skip`,
/// `skip_serializing`, `with`, `serialize_with`). A method of the struct cannot have the name of a
/// field. For nested fields, derive [`macro@EventFields`] on the nested struct.
///
/// # What is generated
///
/// The derives, the impl of `Event`, the handles, a registration, by which the command line finds the
/// event, and a `From` for `()`, so that it can start tasks without a payload. All mistakes are
/// reported at once, each at its place in the source.
#[proc_macro_attribute]
pub fn event(args: TokenStream, item: TokenStream) -> TokenStream {
    event::expand(args.into(), item.into()).into()
}

/// Generates handles for the fields of a struct that is nested in an event.
///
/// Filters use them in `Moved::to.then(Address::city)` and in `when = to.city == "Berlin"`. They contain
/// the names under which serde stores the fields. The trait of the same name has an example.
///
/// The struct has named fields. As with [`macro@event`], a field has no handle if serde does not store
/// its own value under a name of its own.
#[proc_macro_derive(EventFields)]
pub fn event_fields(item: TokenStream) -> TokenStream {
    match syn::parse(item) {
        Ok(input) => event::nested::expand(&input).into(),
        Err(error) => error.into_compile_error().into(),
    }
}
