use std::collections::BTreeMap;

use super::interpreter::{CANCELLED, FAILED, TIMED_OUT, folded};
use super::program::{MAX_ATTEMPTS, Op, is_late};

/// How an execution ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum End {
    Completed { value: i64, failures: u32 },
    Failed { failures: u32 },
    Cancelled,
}

/// How often an effect happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Times {
    /// In a transaction.
    Once,
    /// In a step: again only where a process died.
    OnceUnlessCrashed,
    /// In a step that fails, so that a replay runs it again.
    Some,
}

/// What is expected under a name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected<T> {
    pub what: T,
    /// Else it may be missing, and an execution may be cancelled.
    pub certain: bool,
}

/// What comes of a program, by the names of executions and effects; what has no entry never is.
#[derive(Debug, Default)]
pub struct Oracle {
    /// No end where any will do.
    pub executions: BTreeMap<String, Expected<Option<End>>>,
    pub effects: BTreeMap<String, Expected<Times>>,
    /// Below these paths no cancel from above comes.
    pub detached: Vec<String>,
    /// The branches of joins in which several failed in one attempt.
    torn: Vec<String>,
}

/// Why a block does not run to its end.
enum Halt {
    Failed {
        permanent: bool,
    },
    /// The execution has cancelled itself.
    Cancelled,
    /// It is cancelled by another while it waits for what is late.
    Cut,
}

/// What a block knows of its execution.
#[derive(Clone, Copy)]
struct Run {
    failures: u32,
    /// It is cancelled as soon as it waits for long.
    cut: bool,
}

impl Oracle {
    /// Says what comes of the root of a tree, which somebody else may cancel.
    pub fn add(&mut self, path: &str, program: &[Op], cancelled: bool) {
        self.execution(path, program, false);
        if cancelled {
            // At any moment, so that everything may be missing.
            self.doubt(path);
        }
    }

    fn execution(&mut self, path: &str, program: &[Op], cut: bool) -> End {
        // A parent's later attempts find what it was in the first.
        if let Some(Expected {
            what: Some(end), ..
        }) = self.executions.get(path)
        {
            return *end;
        }
        let mut failures = 0;
        let end = loop {
            match self.block(path, program, 0, Run { failures, cut }) {
                Ok(value) => break End::Completed { value, failures },
                Err(Halt::Cancelled | Halt::Cut) => break End::Cancelled,
                Err(Halt::Failed { permanent }) => {
                    failures += 1;
                    if permanent || failures >= MAX_ATTEMPTS {
                        break End::Failed { failures };
                    }
                }
            }
        };
        let expected = Expected {
            what: Some(end),
            certain: true,
        };
        self.executions.insert(path.to_owned(), expected);
        let torn = std::mem::take(&mut self.torn);
        let (torn, others) = torn.into_iter().partition(|name| name.starts_with(path));
        self.torn = others;
        if matches!(end, End::Failed { .. }) {
            // The join passes on one of the errors. The others may have been recorded, as the handler went on after
            // them; then what is behind them is not reached before an attempt ends with nothing else.
            torn.iter().for_each(|name: &String| self.doubt(name));
        }
        end
    }

    fn effect(&mut self, name: String, what: Times) {
        let expected = Expected {
            what,
            certain: true,
        };
        self.effects.insert(name, expected);
    }

    fn block(&mut self, path: &str, program: &[Op], seen: i64, run: Run) -> Result<i64, Halt> {
        let mut seen = seen;
        for (n, op) in program.iter().enumerate() {
            let halted = self.op(format!("{path}.{n}"), op, &mut seen, run);
            if let Err(Halt::Cancelled) = halted {
                self.after_cancel(path, program, n + 1);
            }
            halted?;
        }
        Ok(seen)
    }

    fn op(&mut self, name: String, op: &Op, seen: &mut i64, run: Run) -> Result<(), Halt> {
        match op {
            Op::Step => {
                self.effect(name, Times::OnceUnlessCrashed);
                *seen = folded(*seen, 1);
            }
            Op::Transaction => {
                self.effect(name, Times::Once);
                *seen = folded(*seen, 1);
            }
            Op::Caught => self.effect(name, Times::Some),
            Op::Sleep { .. } | Op::Checkpoint | Op::RolledBack | Op::CancelSibling => {}
            Op::Flaky { failures } => {
                self.effect(name, Times::Some);
                if run.failures < *failures {
                    return Err(Halt::Failed { permanent: false });
                }
                *seen = folded(*seen, 1);
            }
            Op::Fail { permanent } => {
                return Err(Halt::Failed {
                    permanent: *permanent,
                });
            }
            Op::Child {
                program,
                handled,
                detached,
            } => {
                if *detached {
                    self.detached.push(name.clone());
                }
                let end = self.execution(&name, program, run.cut && !detached);
                if run.cut && is_late(program) {
                    return Err(Halt::Cut);
                }
                self.outcome(&[end], *handled, seen)?;
            }
            Op::All { programs, handled } => {
                let parts = programs.iter().enumerate();
                let ends: Vec<End> = parts
                    .map(|(n, program)| self.execution(&format!("{name}#{n}"), program, false))
                    .collect();
                self.outcome(&ends, *handled, seen)?;
            }
            Op::Join(branches) => {
                let before = *seen;
                let parts = branches.iter().enumerate();
                let ends: Vec<_> = parts
                    .map(|(n, branch)| self.block(&format!("{name}:{n}"), branch, before, run))
                    .collect();
                if ends.iter().any(|end| matches!(end, Err(Halt::Cancelled))) {
                    // The other branches are cut short at no known place.
                    self.doubt(&format!("{name}:"));
                    for (n, branch) in branches.iter().enumerate() {
                        self.anything(&format!("{name}:{n}"), branch);
                    }
                    return Err(Halt::Cancelled);
                }
                if ends.iter().filter(|end| end.is_err()).count() > 1 {
                    self.torn.push(format!("{name}:"));
                }
                for end in ends {
                    *seen = folded(*seen, end?);
                }
            }
            Op::TimedOut { late, detached } => {
                if *detached {
                    self.detached.push(name.clone());
                }
                self.execution(&name, late, !detached);
                *seen = folded(*seen, TIMED_OUT);
            }
            Op::Rivals { late, by_sibling } => {
                self.execution(&format!("{name}v"), late, true);
                if *by_sibling {
                    self.execution(&format!("{name}k"), &[Op::CancelSibling], false);
                }
                *seen = folded(*seen, CANCELLED);
            }
            Op::Abandoned { late, permanent } => {
                self.execution(&name, late, false);
                return Err(Halt::Failed {
                    permanent: *permanent,
                });
            }
            Op::CancelSelf => return Err(Halt::Cancelled),
            Op::LongSleep if run.cut => return Err(Halt::Cut),
            Op::LongSleep => {}
        }
        Ok(())
    }

    fn outcome(&self, ends: &[End], handled: bool, seen: &mut i64) -> Result<(), Halt> {
        let error = ends.iter().find_map(|end| match end {
            End::Completed { .. } => None,
            End::Failed { .. } => Some(FAILED),
            End::Cancelled => Some(CANCELLED),
        });
        match error {
            Some(code) if handled => *seen = folded(*seen, code),
            // The end of a child is recorded, so another attempt would meet the same.
            Some(_) => return Err(Halt::Failed { permanent: true }),
            None => {
                for end in ends {
                    if let End::Completed { value, .. } = end {
                        *seen = folded(*seen, *value);
                    }
                }
            }
        }
        Ok(())
    }

    /// What is left of a block whose execution has cancelled itself: the handler may not have heard
    /// of it, but nothing commits with the execution, and no child is made.
    fn after_cancel(&mut self, path: &str, program: &[Op], from: usize) {
        for (n, op) in program.iter().enumerate().skip(from) {
            let name = format!("{path}.{n}");
            match op {
                Op::Step | Op::Caught | Op::Flaky { .. } => self.perhaps(name, Times::Some),
                Op::Join(branches) => {
                    for (n, branch) in branches.iter().enumerate() {
                        self.after_cancel(&format!("{name}:{n}"), branch, 0);
                    }
                }
                _ => {}
            }
        }
    }

    /// Everything under this prefix may be missing.
    fn doubt(&mut self, prefix: &str) {
        let (executions, effects) = (self.executions.iter_mut(), self.effects.iter_mut());
        for (_, expected) in executions.filter(|(path, _)| path.starts_with(prefix)) {
            expected.certain = false;
        }
        for (_, expected) in effects.filter(|(name, _)| name.starts_with(prefix)) {
            expected.certain = false;
        }
    }

    fn perhaps(&mut self, name: String, what: Times) {
        self.effects.entry(name).or_insert(Expected {
            what,
            certain: false,
        });
    }

    /// Anything in this block may happen.
    fn anything(&mut self, path: &str, program: &[Op]) {
        for (n, op) in program.iter().enumerate() {
            let name = format!("{path}.{n}");
            match op {
                Op::Step | Op::Caught | Op::Flaky { .. } => self.perhaps(name, Times::Some),
                Op::Transaction => self.perhaps(name, Times::Once),
                Op::Child { program, .. } => self.any_execution(name, program),
                Op::TimedOut { late, .. } | Op::Abandoned { late, .. } => {
                    self.any_execution(name, late);
                }
                Op::Rivals { late, .. } => {
                    self.any_execution(format!("{name}k"), &[]);
                    self.any_execution(format!("{name}v"), late);
                }
                Op::All { programs, .. } => {
                    for (n, program) in programs.iter().enumerate() {
                        self.any_execution(format!("{name}#{n}"), program);
                    }
                }
                Op::Join(branches) => {
                    for (n, branch) in branches.iter().enumerate() {
                        self.anything(&format!("{name}:{n}"), branch);
                    }
                }
                _ => {}
            }
        }
    }

    fn any_execution(&mut self, path: String, program: &[Op]) {
        self.anything(&path, program);
        let any = Expected {
            what: None,
            certain: false,
        };
        self.executions.insert(path, any);
    }
}
