//! The attribute macros of the crate `conductor`, which is the one to depend on.

mod errors;
mod event;
mod literal;
mod task;
mod test;

use proc_macro::TokenStream;

/// Makes a durable task of an `async fn`.
///
/// The function stays as it is written and can be called in a unit test. Beside it stands a type
/// in UpperCamelCase that implements `Task`: the key by which the task is invoked.
///
/// ```
/// use conductor::prelude::*;
///
/// /// Doc comments travel with the task, to the command line and the stored schema.
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
/// or a `Result<T, E>` whose `E` turns into `anyhow::Error`. `T` and the payload are stored as
/// JSON: they derive `Serialize`, `Deserialize` and `JsonSchema`, and own their data. The function
/// is neither generic nor a method, and its future is `Send`.
///
/// # The payload
///
/// **Arguments as fields.** Each argument after the context becomes a field of the generated type,
/// which is the payload too. Attributes and doc comments of an argument move to its field; levels
/// of lints stay. A payload with an unknown field is refused. Without arguments the payload
/// is `()`.
///
/// ```
/// use conductor::prelude::*;
///
/// #[task]
/// async fn send_report(
///     ctx: &TaskContext,
///     /// Who gets it.
///     to: String,
///     #[serde(default)] copies: u8,
/// ) -> anyhow::Result<()> {
///     Ok(())
/// }
///
/// let _ = SendReport { to: "ada@example.com".into(), copies: 1 };
/// ```
///
/// **One argument as the whole.** An argument named `payload` (or `_payload`) is all of it. Where
/// its type bears the task's own name, that type becomes the task and none is generated.
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
/// **Injected values.** Arguments of a type `State<T>` are taken from the orchestrator and are no
/// part of the payload. They may stand anywhere after the context.
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
/// | `name = "resize-image"` | The name in the database: 1 to 100 bytes without control characters. Executions refer to it, so keep it when the function is renamed. | the function's name |
/// | `queue = "fast"` | The queue that executions go to, named like a task. | `"default"` |
/// | `retry(max_attempts = 5)` | How many attempts may fail, from 1 to 1000. | 3 |
/// | `retry(backoff = "15s..2h")` | The delay after the first failure, which doubles up to the longest. `"30s"` is constant. | `"15s..2h"` |
/// | `retry(jitter = 0.2)` | The share, from 0 to 1, by which delays vary at random. | 0.1 |
/// | `timeout = "5m"` | How long one attempt may take. One that blocks its thread for longer has timed out when it yields; code that blocks belongs into `tokio::task::spawn_blocking`, awaited in a step. | none |
/// | `priority = 10` | Higher is claimed first; may be negative. | 0 |
/// | `keep(completed = "7d")` | How long completed executions are kept; `"0s"` is not at all. | 7 days |
/// | `keep(failed = "30d")` | The same for failed and cancelled ones. | 30 days |
/// | `concurrency = 5` | How many executions run at once, in all workers, see below. May be given several times. | any |
/// | `rate_limit = "100/1m"` | How many start in an interval, in all workers, see below. May be given several times. | any |
/// | `batch(max_size = 100, max_wait = "500ms")` | Executions run together, see below; 1 to 10000 of them, and at most `"1h"`. | each runs for itself |
/// | `cron = "0 9 * * Mon-Fri"` | Runs the task by a schedule, see below. May be given several times. | none |
/// | `event(UserSignedUp)` | Runs the task for an event, see below. May be given several times. | none |
/// | `window = "22:00-06:00"` | The hours in which the task may run, see below. | any |
/// | `marker = Other` | The name of the generated type, where it would clash with another. | the function's name in UpperCamelCase |
/// | `crate = "::my_crate::conductor"` | The path to this crate, for macros that re-export it. | `::conductor` |
///
/// Durations are numbers with units, such as `"500ms"`, `"2h 30m"` or `"7d"`, and at most 100 years.
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
/// A cron rule has 5 fields (minute, hour, day of month, month, weekday), 6 (seconds first) or 7 (a
/// year last), or is one of `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly`. Weekdays are
/// written by their names. Both day fields must fit: `0 9 1-7 * Mon` is the first Monday of a month.
/// `L` is the last day of a month: `0 6 L * *`.
/// A rule that names a date which never comes does not compile.
///
/// `cron("0 9 * * Mon-Fri", …)` takes options:
///
/// | option | meaning | default |
/// | --- | --- | --- |
/// | `name = "morning"` | Tells the schedules of a task apart. | `"default"` |
/// | `tz = "Europe/Berlin"` | The zone whose clock counts. | `"UTC"` |
/// | `missed = "skip"` | What becomes of ticks that came while nothing ran: `"skip"` leaves them out, `"once"` runs the latest, `"all"` runs each. | `"once"` |
/// | `overlap = "skip"` | What a tick does while the execution before has not ended: `"allow"` starts one more, `"skip"` none. With `missed = "all"`, missed ticks run one behind the other. | `"allow"` |
/// | `payload = EXPR` | The payload, evaluated at each tick. | made of the tick |
///
/// Without `payload`, the payload is made of the tick by its `From<CronTick>`; `()` needs none.
///
/// When the clock is put forward, a time that is left out comes at the end of the gap, once. When it
/// is put back, a time that comes twice counts at the first. Rules whose hour is `*` keep their beat
/// in real time instead.
///
/// A window such as `window("22:00-06:00", tz = "Europe/Berlin", days = "Mon-Fri")` may reach into
/// the next day, which belongs to the day on which it opened. `24:00` is the end of a day.
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
/// `concurrency = 5` and `rate_limit = "100/1m"` are limits of the whole task.
/// `concurrency(limit = 2, key = payload.tenant_id)` and `rate_limit("10/s", key = payload.tenant_id)`
/// count for each value of a field of the payload, or of a field of a field. Several hold together; two of
/// one kind and key are refused. Whatever waits or sleeps does not count as running. A rate lets
/// executions start one by one at even distances, and saves nothing up. `rate_limit("100/1m", burst = 20)` lets up
/// to 20 start at once after a rest, and so at most 100 + 20 - 1 in any minute; a burst is at most the amount.
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
/// With a `name`, the tasks of a queue that have a limit of this name and kind share it:
/// `concurrency(limit = 5, name = "stripe", key = payload.account)`; each says where the key stands in its own payload.
///
/// # Order
///
/// `ordered_by = payload.account` runs executions with one value of this field one behind the other, in the order in which
/// they were invoked. Each keeps its turn until it has ended: while it sleeps or waits for its next attempt, and over
/// crashes. It cannot be combined with `batch`.
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
/// # Keys
///
/// The key must be a field of the payload type, which the compiler checks, and stand under the same name
/// in its JSON, which is checked at start. A `?` leads through an `Option`: `payload.new?.account`.
///
/// # Batches
///
/// With `batch`, executions that are due run together: a worker calls the function when `max_size`
/// of them have come to it, or when the first one has waited there for `max_wait`. The arguments
/// are a `&BatchContext`, the payloads as `items: Vec<P>`, and `State<T>`s. Each item is an execution
/// of its own, with its own retries, cancel and result. The type that is written chooses what the
/// function gives:
///
/// | result | meaning |
/// | --- | --- |
/// | `anyhow::Result<Vec<anyhow::Result<T>>>` | a result of each item, in their order |
/// | `anyhow::Result<Vec<T>>` | all completed, with an output of each |
/// | `anyhow::Result<()>` | all completed |
///
/// An error, a panic and a timeout of the whole are one of each item. Limits cannot be combined with
/// `batch`; how many batches run at once is the concurrency of the queue's worker.
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
/// `event(UserSignedUp, when = …)` only for those that fulfil a condition. The payload is the event
/// itself or made of it by its `From`; `()` needs none.
///
/// A condition is written in Rust, checked by the compiler and evaluated by the database. It compares
/// fields, by their bare names, with literals or constants: `==`, `!=`, `<`, `<=`, `>`, `>=`, joined by
/// `&&`, `||` and `!`. There are also `field.is_some()`, `field.is_none()` and
/// `["a", "b"].contains(&field)`. `address.city` is a field of a nested struct, under its name in
/// Rust, whatever serde makes of it.
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
/// the code that takes the payload apart and calls the function; and the registration by which
/// every binary that links the task finds it. Mistakes are reported together, each at its place.
#[proc_macro_attribute]
pub fn task(args: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(args.into(), item.into()).into()
}

/// A test with a database of its own: an `async fn` that takes a `TestConductor`, a `Conductor`
/// or nothing. The database is made from a template in some milliseconds and dropped afterwards.
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

/// Makes a typed event of a struct.
///
/// ```
/// use conductor::prelude::*;
///
/// /// Somebody has an account now.
/// #[event]
/// struct UserSignedUp { user_id: i64, email: String, plan: String }
///
/// assert_eq!(UserSignedUp::NAME, "user_signed_up");
///
/// let paying = UserSignedUp::plan.is_in(["pro", "team"]).and(UserSignedUp::user_id.gt(1000));
/// # assert_eq!(paying.to_json()["op"], "and");
/// ```
///
/// The struct has named fields or none, owns its data and is not generic. It stays as it is written,
/// and gets those of the derives `Serialize`, `Deserialize`, `JsonSchema`, `Debug` and `Clone` that it
/// lacks. `#[event]` stands above other `#[derive]`s, as it does not see those before it.
///
/// # Keys
///
/// | key | meaning | default |
/// | --- | --- | --- |
/// | `name = "user.signed_up"` | The name in the database: 1 to 100 bytes without control characters. Keep it when the struct is renamed. | the struct's name in snake_case |
/// | `version = 2` | Grows with changes that old readers would not understand. | 1 |
/// | `keep = "30d"` | How long its events are kept, once a worker that has them in its code was started. Executions that come to their wait later do not see them. | 7 days |
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
/// Each field becomes an associated constant of its name and visibility, by which filters name it.
/// Where serde does not store the field's own value under a name of its own (`flatten`, `skip`,
/// `skip_serializing`, `with`, `serialize_with`), there is none. A method of the struct cannot have
/// a field's name. For fields of fields, the struct that has them derives [`macro@EventFields`].
///
/// # What is generated
///
/// The derives, the impl of `Event`, the handles, the registration by which the command line knows
/// the event, and a `From` for `()`, so that tasks without a payload can be started by it. Mistakes
/// are reported together, each at its place.
#[proc_macro_attribute]
pub fn event(args: TokenStream, item: TokenStream) -> TokenStream {
    event::expand(args.into(), item.into()).into()
}

/// Lets filters name the fields of a struct that an event holds: `Moved::to.then(Address::city)`, and
/// `when = to.city == "Berlin"` by the names under which serde stores them. The trait of the same name
/// has an example.
///
/// The struct has named fields. Those that serde stores otherwise have no handle, as with
/// [`macro@event`].
#[proc_macro_derive(EventFields)]
pub fn event_fields(item: TokenStream) -> TokenStream {
    match syn::parse(item) {
        Ok(input) => event::nested::expand(&input).into(),
        Err(error) => error.into_compile_error().into(),
    }
}
