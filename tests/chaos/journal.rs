use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// What happened outside of the database: one line each, in one file that all processes append to.
/// A line that was written survives the process that wrote it.
#[derive(Debug)]
pub struct Journal(File);

/// When, by the clock of the machine, in microseconds.
pub type Moment = u64;

pub fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as Moment
}

pub fn micros(duration: Duration) -> Moment {
    duration.as_micros() as Moment
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A body begins,
    Begin,
    /// gives its value,
    End,
    /// fails on purpose,
    Fail,
    /// or is dropped in its middle.
    Drop,
    /// A worker has started.
    Worker,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub at: Moment,
    pub process: u32,
    pub mark: Mark,
    pub execution: Uuid,
    pub key: String,
}

impl Journal {
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self(File::options().create(true).append(true).open(path)?))
    }

    pub fn note(&self, mark: Mark, execution: Uuid, key: &str) {
        let line = format!(
            "{} {} {mark:?} {execution} {key}\n",
            now(),
            std::process::id()
        );
        // One write, so that no other line comes between.
        (&self.0).write_all(line.as_bytes()).unwrap();
    }

    /// Notes begin and end of a body, and that it was dropped in its middle.
    pub fn body(&self, execution: Uuid, key: &'static str) -> Body<'_> {
        self.note(Mark::Begin, execution, key);
        Body {
            journal: self,
            execution,
            key,
            end: Mark::Drop,
        }
    }
}

/// A body that is under way.
#[derive(Debug)]
pub struct Body<'j> {
    journal: &'j Journal,
    execution: Uuid,
    key: &'static str,
    end: Mark,
}

impl Body<'_> {
    pub fn ends(mut self) {
        self.end = Mark::End;
    }

    pub fn fails(mut self) {
        self.end = Mark::Fail;
    }
}

impl Drop for Body<'_> {
    fn drop(&mut self) {
        self.journal.note(self.end, self.execution, self.key);
    }
}

/// All entries, in the order in which they were written; without one that is being written.
pub fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole].lines().map(str::parse).collect()
}

impl FromStr for Entry {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let [at, process, mark, execution, key] = line.split(' ').collect::<Vec<_>>()[..] else {
            anyhow::bail!("no entry: {line:?}");
        };
        let mark = match mark {
            "Begin" => Mark::Begin,
            "End" => Mark::End,
            "Fail" => Mark::Fail,
            "Drop" => Mark::Drop,
            "Worker" => Mark::Worker,
            _ => anyhow::bail!("no mark: {mark:?}"),
        };
        Ok(Self {
            at: at.parse()?,
            process: process.parse()?,
            mark,
            execution: execution.parse()?,
            key: key.to_owned(),
        })
    }
}
