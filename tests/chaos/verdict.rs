use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use super::journal::{Entry, Mark, Moment, micros, read};
use super::load::Asked;
use super::storm::Log;
use super::tasks::LIMIT;
use super::worker::LEASE;

/// From when a stop is noted until it has arrived, at most.
const ARRIVAL: Duration = Duration::from_millis(5);

/// A process that was stopped past its lease learns of it when it goes on: its handlers may run for so
/// long before they are dropped.
const WAKING: Duration = Duration::from_secs(1);

/// When what was about to begin has begun, where the process goes on.
const AT_ONCE: Duration = Duration::from_millis(1);

/// What was found behind the storm.
#[derive(Debug, Default)]
pub struct Verdict {
    pub executions: i64,
    pub given_up: i64,
    pub steps: usize,
    /// Bodies that ran again because their process died or lost its lease.
    pub repeated: usize,
    pub lost_leases: usize,
    pub most_at_once: usize,
    pub losses: Vec<String>,
    pub doubles: Vec<String>,
    pub other: Vec<String>,
}

impl Verdict {
    pub async fn of(url: &str, folder: &Path, asked: &[Asked], log: &Log) -> anyhow::Result<Self> {
        let mut session = PgConnection::connect(url).await?;
        // A server that was killed knows nothing of its tables' sizes.
        sqlx::query("analyze").execute(&mut session).await?;
        let mut verdict = Self {
            lost_leases: log.lost_leases.len(),
            other: log.faults.clone(),
            ..Self::default()
        };
        verdict.executions(&mut session, asked).await?;
        verdict.books(&mut session).await?;
        verdict.remains(&mut session).await?;
        let journal = read(&folder.join("journal"))?;
        verdict.bodies(&journal, log, asked);
        verdict.limit(&journal, log);
        Ok(verdict)
    }

    pub fn is_clean(&self) -> bool {
        self.losses.is_empty() && self.doubles.is_empty() && self.other.is_empty()
    }

    async fn executions(
        &mut self,
        session: &mut PgConnection,
        asked: &[Asked],
    ) -> anyhow::Result<()> {
        type Row = (
            Uuid,
            String,
            Option<i64>,
            String,
            Option<i64>,
            Option<String>,
        );
        let rows: Vec<Row> = sqlx::query_as(
            "select f.id, t.name, (f.payload->>'n')::bigint, f.state::text,
                    (f.output#>>'{}')::bigint, f.error
               from conductor.finished_executions f join conductor.tasks t on t.id = f.task_id",
        )
        .fetch_all(session)
        .await?;
        self.executions = rows.len() as i64;
        let mut by_number: HashMap<(&str, i64), Vec<Uuid>> = HashMap::new();
        let mut found = HashMap::new();
        for (id, task, n, state, output, error) in &rows {
            let error = error.as_deref().unwrap_or_default();
            match state.as_str() {
                "completed" => {}
                // A bystander of five crashes cannot be told from their cause.
                "failed" if error.contains("given up after") => self.given_up += 1,
                _ => self.losses.push(format!("{task} {id} is {state}: {error}")),
            }
            if let Some(n) = n {
                by_number.entry((task.as_str(), *n)).or_default().push(*id);
            }
            found.insert(*id, (state, *output));
        }
        for call in asked {
            let made = by_number.get(&(call.task, call.n)).map_or(0, Vec::len);
            if made > 1 {
                self.doubles
                    .push(format!("{call:?} was invoked {made} times"));
            }
            let Some(id) = call.id else { continue };
            match found.get(&id) {
                None => self.losses.push(format!("{call:?} is not there")),
                Some((state, output)) => {
                    if *state == "completed" && *output != Some(call.gives) {
                        self.losses.push(format!("{call:?} gave {output:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    async fn books(&mut self, session: &mut PgConnection) -> anyhow::Result<()> {
        for (what, query) in [
            (
                "a booking is there twice",
                "select execution::text || ' ' || key from bookings group by execution, key having count(*) > 1",
            ),
            (
                "an event of a transfer is not there once",
                "select f.id::text from conductor.finished_executions f
                   join conductor.tasks t on t.id = f.task_id and t.name = 'chaos.transfer'
                   left join conductor.events e
                     on e.name = 'chaos.ping' and e.payload->>'n' = f.payload->>'n'
                  where f.state = 'completed'
                  group by f.id having count(e.id) <> 1",
            ),
            (
                "an event has not started one execution",
                "select e.id || ': ' || count(f.id) from conductor.events e
                   left join (conductor.finished_executions f
                              join conductor.tasks t on t.id = f.task_id and t.name = 'chaos.pinged')
                     on f.trigger->>'event_id' = e.id::text
                  group by e.id having count(f.id) <> 1",
            ),
        ] {
            let found: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut *session).await?;
            self.doubles.extend(found.iter().map(|row| format!("{what}: {row}")));
        }
        let missing: Vec<String> = sqlx::query_scalar(
            "select f.id::text from conductor.finished_executions f
               join conductor.tasks t on t.id = f.task_id and t.name = 'chaos.transfer'
               left join bookings b on b.execution = f.id
              where f.state = 'completed'
              group by f.id having count(b.key) <> 2",
        )
        .fetch_all(&mut *session)
        .await?;
        self.losses.extend(
            missing
                .iter()
                .map(|id| format!("a booking of {id} is not there")),
        );
        let unbalanced: Vec<String> = sqlx::query_scalar(
            "with moved as (
                 select case key when 'there' then n else n * 7 + 3 end as from_n,
                        case key when 'there' then n * 7 + 3 else n * 3 + 1 end as to_n,
                        n % 13 + 1 as cents
                   from bookings
             ), changed as (
                 select mod(from_n, 20) as id, -cents as cents from moved
                  union all select mod(to_n, 20), cents from moved
             )
             select a.id || ' has ' || a.cents from accounts a
               left join changed c on c.id = a.id
              group by a.id, a.cents having a.cents <> 1000 + coalesce(sum(c.cents), 0)",
        )
        .fetch_all(session)
        .await?;
        let unbalanced = unbalanced
            .iter()
            .map(|of| format!("the books are wrong: account {of}"));
        self.other.extend(unbalanced);
        Ok(())
    }

    /// What must not be left.
    async fn remains(&mut self, session: &mut PgConnection) -> anyhow::Result<()> {
        for (what, query) in [
            (
                "live executions",
                "select count(*) from conductor.live_executions",
            ),
            (
                "orchestrators",
                "select count(*) from conductor.orchestrators",
            ),
            (
                "held slots",
                "select count(*) from conductor.lanes where holders <> '{}'",
            ),
            ("changed final states", "select count(*) from violations"),
            (
                "undispatched events",
                "select count(*) from conductor.event_inbox",
            ),
            (
                "locks",
                "select count(*) from pg_locks where pid <> pg_backend_pid() and granted
                    and (locktype = 'advisory'
                         or relation in (select c.oid from pg_class c
                                          where c.relnamespace = 'conductor'::regnamespace))",
            ),
        ] {
            let left: i64 = sqlx::query_scalar(AssertSqlSafe(query))
                .fetch_one(&mut *session)
                .await?;
            if left > 0 {
                self.other.push(format!("{left} {what} are left"));
            }
        }
        Ok(())
    }

    /// Each body ran to its end, and again only where its process had died or lost its lease.
    fn bodies(&mut self, journal: &[Entry], log: &Log, asked: &[Asked]) {
        let mut ended: HashSet<(Uuid, &str)> = HashSet::new();
        let mut runs: BTreeMap<(Uuid, &str), Vec<(usize, &Entry)>> = BTreeMap::new();
        for (at, entry) in journal.iter().enumerate() {
            let of = (entry.execution, entry.key.as_str());
            match entry.mark {
                Mark::Begin => runs.entry(of).or_default().push((at, entry)),
                Mark::End => {
                    ended.insert(of);
                }
                Mark::Fail | Mark::Drop | Mark::Worker => {}
            }
        }
        self.steps = runs.len();
        for ((execution, key), runs) in &runs {
            for pair in runs.windows(2) {
                let ((at, first), (_, next)) = (pair[0], pair[1]);
                let end = end_of(journal, at);
                if end.is_some_and(|end| end.mark == Mark::Fail) {
                    continue;
                }
                let gone = |of: &[(u32, Moment)]| {
                    of.iter().any(|(process, at)| {
                        *process == first.process
                            && (first.at..=learnt(first, next, log)).contains(at)
                    })
                };
                match gone(&log.kills) || gone(&log.lost_leases) || was_about_to(next, log) {
                    true => self.repeated += 1,
                    false => self.doubles.push(format!(
                        "{key} of {execution} began in process {} at {}, ended {end:?}, and began again in {} at {}",
                        first.process, first.at, next.process, next.at
                    )),
                }
            }
        }
        for call in asked.iter().filter(|call| call.task == "chaos.transfer") {
            let Some(id) = call.id else { continue };
            for key in ["quote", "receipt"] {
                if !ended.contains(&(id, key)) && self.given_up == 0 {
                    self.losses.push(format!("{key} of {id} has not run"));
                }
            }
        }
    }

    /// Handlers of the limited task that ran at once. A stopped process runs nothing.
    fn limit(&mut self, journal: &[Entry], log: &Log) {
        let mut changes: Vec<(Moment, i32)> = Vec::new();
        for (at, begin) in journal.iter().enumerate() {
            if begin.mark != Mark::Begin || begin.key != "limited" {
                continue;
            }
            let killed = log
                .kills
                .iter()
                .find(|(process, _)| *process == begin.process);
            let killed = killed.map_or(Moment::MAX, |(_, at)| *at);
            let end = end_of(journal, at).map_or(killed, |end| end.at);
            let mut from = begin.at;
            for (process, stopped, went_on) in &log.pauses {
                // The signal was noted before it arrived: a handler may have begun between the two.
                let arrived = stopped.saturating_add(micros(ARRIVAL));
                if *process != begin.process || arrived < from || *stopped > end {
                    continue;
                }
                if from < *stopped {
                    changes.extend([(from, 1), (*stopped, -1)]);
                }
                from = *went_on;
                let past_lease = went_on.saturating_sub(*stopped) >= micros(LEASE.mul_f64(0.8));
                if past_lease && end <= went_on.saturating_add(micros(WAKING)) {
                    from = end;
                }
            }
            if from < end {
                changes.extend([(from, 1), (end, -1)]);
            }
        }
        // Ends before begins of the same moment.
        changes.sort_unstable();
        let mut inside = 0;
        for (at, change) in changes {
            inside += change;
            self.most_at_once = self
                .most_at_once
                .max(usize::try_from(inside).unwrap_or_default());
            if inside > LIMIT as i32 {
                self.other.push(format!(
                    "{inside} handlers at once under a limit of {LIMIT}, at {at}"
                ));
            }
        }
    }
}

/// When the process of a body must have learnt that another one has taken the execution: soon, as a busy
/// machine may let it wait as if it were stopped, and where it was stopped, also again before it could
/// learn, soon after that.
fn learnt(first: &Entry, next: &Entry, log: &Log) -> Moment {
    let mut learnt = next.at.saturating_add(micros(WAKING));
    // In the order in which they began.
    for (process, from, until) in &log.pauses {
        if *process == first.process && *from <= learnt && *until >= first.at {
            learnt = learnt.max(until.saturating_add(micros(WAKING)));
        }
    }
    learnt
}

/// Whether the body's process was stopped past its lease until just then: a thread may have stood between its
/// look at the lease and the body.
fn was_about_to(body: &Entry, log: &Log) -> bool {
    log.pauses.iter().any(|(process, stopped, went_on)| {
        *process == body.process
            && went_on.saturating_sub(*stopped) >= micros(LEASE.mul_f64(0.8))
            && (*went_on..=went_on.saturating_add(micros(AT_ONCE))).contains(&body.at)
    })
}

/// The end of the body that began there.
fn end_of(journal: &[Entry], begin: usize) -> Option<&Entry> {
    let first = &journal[begin];
    journal[begin + 1..]
        .iter()
        .find(|entry| {
            entry.execution == first.execution
                && entry.key == first.key
                && entry.process == first.process
                && entry.mark != Mark::Worker
        })
        .filter(|entry| entry.mark != Mark::Begin)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in [
            ("executions", self.executions.to_string()),
            ("given up after five crashes", self.given_up.to_string()),
            ("step bodies", self.steps.to_string()),
            ("leases given up", self.lost_leases.to_string()),
            ("bodies repeated by a crash", self.repeated.to_string()),
            ("most at once (limit 3)", self.most_at_once.to_string()),
            ("losses", self.losses.len().to_string()),
            ("doubles", self.doubles.len().to_string()),
            ("other faults", self.other.len().to_string()),
        ] {
            writeln!(f, "{what:<34} {count:>8}")?;
        }
        for fault in self
            .losses
            .iter()
            .chain(&self.doubles)
            .chain(&self.other)
            .take(30)
        {
            writeln!(f, "  {fault}")?;
        }
        Ok(())
    }
}
