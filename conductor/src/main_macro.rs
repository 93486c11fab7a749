/// Generates the program's `main`: a worker for its tasks, and its command line.
///
/// ```no_run
/// use conductor::prelude::*;
///
/// /// Greets a person by name.
/// #[task]
/// async fn greet(ctx: &TaskContext, name: String) -> anyhow::Result<String> {
///     Ok(format!("Hello, {name}!"))
/// }
///
/// conductor::main!();
/// ```
///
/// `cargo run` then runs the tasks, and `cargo run -- invoke greet name=Alice --wait` prints
/// `"Hello, Alice!"`. `cargo run -- --help` lists all commands. A program with a `main` of its own
/// calls [`cli::run`](crate::cli::run) instead.
///
/// Optional fields configure it, in any order:
///
/// ```no_run
/// use conductor::prelude::*;
///
/// struct Mailer;
///
/// impl Mailer {
///     async fn connect() -> std::io::Result<Self> { Ok(Mailer) }
/// }
///
/// #[task(queue = "fast")]
/// async fn remind(ctx: &TaskContext, to: String, mailer: State<Mailer>) -> anyhow::Result<()> {
///     Ok(())
/// }
///
/// conductor::main! {
///     workers: [Worker::queue("fast").concurrency(5)],
///     setup: async |app| Ok(app.state(Mailer::connect().await?)),
///     link: [serde_json],
/// }
/// ```
///
/// | field | meaning |
/// | --- | --- |
/// | `workers` | the queues to serve, as in [`Builder::workers`](crate::Builder::workers) |
/// | `setup` | an async closure that takes the orchestrator's [`Builder`](crate::Builder) and returns it in an `anyhow::Result`; only the commands that run tasks call it |
/// | `link` | crates that contain tasks and that the program does not mention elsewhere; without it, their tasks would not be linked |
///
/// An unknown field is a compile error:
///
/// ```compile_fail
/// conductor::main! { worker: [] }
/// ```
#[macro_export]
macro_rules! main {
    // Takes one field at a time: the values read so far are in brackets, the remaining fields follow.
    (@ [$($workers:tt)*] [$($setup:tt)*] [$($link:tt)*] $(,)?) => {
        $(use $link as _;)*

        fn main() -> ::std::process::ExitCode {
            $crate::cli::main($crate::cli::Options::new() $($workers)* $($setup)*)
        }
    };
    (@ [] $setup:tt $link:tt workers : $workers:expr, $($rest:tt)*) => {
        $crate::main! { @ [.workers($workers)] $setup $link $($rest)* }
    };
    (@ $workers:tt [] $link:tt setup : $setup:expr, $($rest:tt)*) => {
        $crate::main! { @ $workers [.setup($setup)] $link $($rest)* }
    };
    (@ $workers:tt $setup:tt [] link : [$($link:ident),* $(,)?], $($rest:tt)*) => {
        $crate::main! { @ $workers $setup [$($link)*] $($rest)* }
    };
    // The errors. They include a `main`, so that the compiler does not also report a missing one.
    (@ [$($given:tt)+] $setup:tt $link:tt workers : $($rest:tt)*) => {
        $crate::main! { @wrong "`workers` is given twice" }
    };
    (@ $workers:tt [$($given:tt)+] $link:tt setup : $($rest:tt)*) => {
        $crate::main! { @wrong "`setup` is given twice" }
    };
    (@ $workers:tt $setup:tt [$($given:tt)+] link : $($rest:tt)*) => {
        $crate::main! { @wrong "`link` is given twice" }
    };
    (@ $workers:tt $setup:tt $link:tt workers $($rest:tt)*) => {
        $crate::main! { @wrong "`workers` is written like `workers: [Worker::queue(\"fast\").concurrency(5)]`" }
    };
    (@ $workers:tt $setup:tt $link:tt setup $($rest:tt)*) => {
        $crate::main! { @wrong "`setup` is written like `setup: async |app| Ok(app.state(Mailer::new()))`" }
    };
    (@ $workers:tt $setup:tt $link:tt link $($rest:tt)*) => {
        $crate::main! { @wrong "`link` is written with names of crates, like `link: [media_tasks]`" }
    };
    (@ $workers:tt $setup:tt $link:tt $field:ident $($rest:tt)*) => {
        $crate::main! { @wrong ::core::concat!(
            "unknown field `", ::core::stringify!($field),
            "`: `conductor::main!` knows `workers`, `setup` and `link`"
        ) }
    };
    (@wrong $($text:tt)*) => {
        ::core::compile_error! { $($text)* }

        fn main() {}
    };
    (@ $($wrong:tt)*) => {
        $crate::main! {
            @wrong "`conductor::main!` is written with fields, like `conductor::main! { workers: [Worker::queue(\"fast\")] }`"
        }
    };
    ($($fields:tt)*) => {
        $crate::main! { @ [] [] [] $($fields)*, }
    };
}
