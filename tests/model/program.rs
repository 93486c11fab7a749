use proptest::collection::vec;
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How often a program may fail, as the task that runs it has it.
pub const MAX_ATTEMPTS: u32 = 3;

/// What a handler does, one after the other.
pub type Program = Vec<Op>;

/// One thing that a handler does. Its key, and the name of its effect, is its place in the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Op {
    Step,
    Transaction,
    Sleep {
        seconds: u8,
    },
    Checkpoint,
    /// A step that always fails; the handler goes on.
    Caught,
    /// A transaction that always fails; the handler goes on.
    RolledBack,
    /// A step that fails as long as the execution has failed less often than this.
    Flaky {
        failures: u32,
    },
    Fail {
        permanent: bool,
    },
    Child {
        program: Program,
        handled: bool,
        detached: bool,
    },
    All {
        programs: Vec<Program>,
        handled: bool,
    },
    /// Branches side by side, each to its end; the first error counts.
    Join(Vec<Program>),
    /// A child that takes longer than the handler waits.
    TimedOut {
        late: Program,
        detached: bool,
    },
    /// A child that is cancelled while it waits, by the handler itself or by another child.
    Rivals {
        late: Program,
        by_sibling: bool,
    },
    /// A child that lives on when the handler fails beside it.
    Abandoned {
        late: Program,
        permanent: bool,
    },
    /// What that other child does.
    CancelSibling,
    CancelSelf,
    /// Longer than anybody waits; in the late programs alone.
    LongSleep,
}

/// Whether it cannot end before the time is over for which it is waited.
pub fn is_late(program: &[Op]) -> bool {
    program.iter().any(|op| match op {
        Op::LongSleep => true,
        Op::Child { program, .. } => is_late(program),
        _ => false,
    })
}

fn simple() -> BoxedStrategy<Op> {
    prop_oneof![
        4 => Just(Op::Step),
        3 => Just(Op::Transaction),
        2 => (0..10_u8).prop_map(|seconds| Op::Sleep { seconds }),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Caught),
        1 => Just(Op::RolledBack),
    ]
    .boxed()
}

fn late(depth: u32) -> BoxedStrategy<Program> {
    let mut pivot = Just(Op::LongSleep).boxed();
    if depth > 0 {
        let child = (late(depth - 1), any::<bool>(), any::<bool>()).prop_map(
            |(program, handled, detached)| Op::Child {
                program,
                handled,
                detached,
            },
        );
        pivot = prop_oneof![pivot, child].boxed();
    }
    (vec(simple(), 0..3), pivot, vec(simple(), 0..3))
        .prop_map(|(before, pivot, after)| {
            let mut program = before;
            program.push(pivot);
            program.extend(after);
            program
        })
        .boxed()
}

fn op(depth: u32) -> BoxedStrategy<Op> {
    let leaf = prop_oneof![
        30 => simple(),
        4 => (1..=MAX_ATTEMPTS).prop_map(|failures| Op::Flaky { failures }),
        1 => any::<bool>().prop_map(|permanent| Op::Fail { permanent }),
        1 => Just(Op::CancelSelf),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let child = (program(depth - 1), any::<bool>(), any::<bool>()).prop_map(
        |(program, handled, detached)| Op::Child {
            program,
            handled,
            detached,
        },
    );
    let all = (vec(program(depth - 1), 0..4), any::<bool>())
        .prop_map(|(programs, handled)| Op::All { programs, handled });
    let join = vec(vec(op(depth - 1), 0..4), 1..4).prop_map(Op::Join);
    let timed_out = (late(depth - 1), any::<bool>())
        .prop_map(|(late, detached)| Op::TimedOut { late, detached });
    let rivals = (late(depth - 1), any::<bool>())
        .prop_map(|(late, by_sibling)| Op::Rivals { late, by_sibling });
    let abandoned = (late(depth - 1), any::<bool>())
        .prop_map(|(late, permanent)| Op::Abandoned { late, permanent });
    prop_oneof![
        24 => leaf,
        8 => child,
        4 => all,
        6 => join,
        2 => timed_out,
        2 => rivals,
        1 => abandoned,
    ]
    .boxed()
}

/// Programs whose children and branches go so deep.
pub fn program(depth: u32) -> BoxedStrategy<Program> {
    vec(op(depth), 0..6).boxed()
}
