//! Generated code depends on no name in scope, and stands wherever an item can.
#![deny(warnings, missing_docs)]
#![allow(clippy::non_minimal_cfg)]
#![forbid(unsafe_code)]

use ::conductor::{TaskContext as Context, task};
use ::std::string::String as Text;

mod shadows {
    #![allow(unused, non_camel_case_types, non_upper_case_globals)]
    use ::conductor::{TaskContext, task};

    struct Result;
    struct String;
    struct Option;
    struct Vec;
    struct Box;
    struct Send;
    struct u32;
    enum Ok {}
    enum Err {}
    mod serde {}
    mod schemars {}
    mod conductor {}
    mod core {}
    mod std {}
    mod inventory {}
    mod anyhow {}
    const ctx: u8 = 0;
    const payload: u8 = 0;
    const argument0: u8 = 0;
    const name: u8 = 0;
    macro_rules! file {
        () => {
            0
        };
    }
    macro_rules! concat {
        ($($t:tt)*) => {
            0
        };
    }

    /// Documented.
    #[task(
        queue = "a",
        retry(backoff = "1s"),
        cron("@daily", missed = "all", overlap = "skip", payload = Shadowed { id: 5 }),
        window("22:00-06:00", days = "Sat,Sun"),
    )]
    pub(super) async fn shadowed(_: &TaskContext, id: u64) -> ::anyhow::Result<u64> {
        ::anyhow::Result::Ok(id)
    }
}

macro_rules! make_task {
    ($name:ident, $argument:ident: $ty:ty, $queue:literal, $priority:expr) => {
        #[task(queue = $queue, priority = $priority)]
        async fn $name(_ctx: &::conductor::TaskContext, $argument: $ty) -> ::anyhow::Result<$ty> {
            ::anyhow::Result::Ok($argument)
        }
    };
}

make_task!(from_macro, id: u64, "fast", -5);
make_task!(whole_from_macro, payload: Text, "fast", 5);

/// In a module that may be private, with conditions.
pub mod conditions {
    use ::conductor::{TaskContext, task};

    /// Is not there.
    #[task]
    #[cfg(any())]
    pub async fn absent(ctx: &TaskContext, id: u64) -> Missing {}

    /// Is there.
    #[task]
    #[cfg(all())]
    pub async fn present(ctx: &TaskContext, id: u64) -> ::anyhow::Result<u64> {
        ::anyhow::Result::Ok(id)
    }

    /// Another type may have the name of the absent one.
    #[derive(Debug)]
    pub struct Absent;
}

fn _is_context(_: &Context) {}

#[test]
fn holds() {
    #[task]
    async fn local(ctx: &::conductor::TaskContext, id: u64) -> ::anyhow::Result<u64> {
        ::anyhow::Result::Ok(id)
    }
    let _ = Local { id: 1 };
    let _ = FromMacro { id: 1 };
    let _ = shadows::Shadowed { id: 1 };
    let _ = conditions::Present { id: 1 };
    let _ = conditions::Absent;
    let tasks = ::conductor::__private::inventory::iter::<::conductor::__private::TaskDefinition>();
    let here = ::std::iter::Iterator::filter(tasks, |task| task.place.file == ::std::file!());
    ::std::assert_eq!(::std::iter::Iterator::count(here), 5);
}
