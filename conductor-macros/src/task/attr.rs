//! The arguments of `#[task(…)]`.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Ident, Path};

use super::batch::Batch;
use super::cron::{self, Cron};
use super::entry::{Entry, Keys};
use super::event::{self, Subscription};
use super::limit::{self, Key, Limit};
use super::row::{self, RowTrigger};
use super::window::Window;
use crate::errors::Errors;
use crate::literal;

const TASK: Keys = Keys {
    owner: "`#[task]`",
    forms: &[
        ("name", "name = \"resize-image\""),
        ("queue", "queue = \"fast\""),
        ("retry", "retry(max_attempts = 5, backoff = \"15s..2h\")"),
        ("timeout", "timeout = \"5m\""),
        ("priority", "priority = 10"),
        ("keep", "keep(completed = \"7d\", failed = \"30d\")"),
        (
            "concurrency",
            "concurrency(limit = 5, key = payload.tenant_id)",
        ),
        ("rate_limit", "rate_limit = \"100/1m\""),
        ("ordered_by", "ordered_by = payload.account"),
        ("batch", "batch(max_size = 100, max_wait = \"500ms\")"),
        ("cron", "cron(\"0 9 * * Mon-Fri\", tz = \"Europe/Berlin\")"),
        ("event", "event(UserSignedUp, when = plan == \"pro\")"),
        ("on_insert", "on_insert(\"public.users\")"),
        (
            "on_update",
            "on_update(\"public.users\", columns = [email], when = new.plan == \"pro\")",
        ),
        ("on_delete", "on_delete(\"public.users\")"),
        ("window", "window(\"22:00-06:00\", tz = \"Europe/Berlin\")"),
        ("marker", "marker = Other"),
        ("linked", "linked = false"),
        ("crate", "crate = \"::my_crate::conductor\""),
    ],
    repeatable: &[
        "cron",
        "event",
        "on_insert",
        "on_update",
        "on_delete",
        "concurrency",
        "rate_limit",
    ],
};

const RETRY: Keys = Keys {
    owner: "`retry(…)`",
    forms: &[
        ("max_attempts", "max_attempts = 5"),
        ("backoff", "backoff = \"15s..2h\""),
        ("jitter", "jitter = 0.2"),
    ],
    repeatable: &[],
};

const KEEP: Keys = Keys {
    owner: "`keep(…)`",
    forms: &[
        ("completed", "completed = \"7d\""),
        ("failed", "failed = \"30d\""),
    ],
    repeatable: &[],
};

/// The keys of the attribute. A key with an error counts as not given.
#[derive(Default)]
pub(crate) struct Attr {
    pub(crate) name: Option<String>,
    pub(crate) marker: Option<Ident>,
    pub(crate) crons: Vec<Cron>,
    pub(crate) events: Vec<Subscription>,
    pub(crate) rows: Vec<RowTrigger>,
    pub(crate) limits: Vec<Limit>,
    pub(crate) ordered_by: Option<(Key, Span)>,
    pub(crate) batch: Option<Batch>,
    krate: Option<Path>,
    linked: Option<bool>,
    queue: Option<String>,
    priority: Option<i32>,
    timeout: Option<u64>,
    max_attempts: Option<u32>,
    backoff: Option<(u64, u64)>,
    jitter: Option<f64>,
    keep_completed: Option<u64>,
    keep_failed: Option<u64>,
    window: Option<Window>,
}

impl Attr {
    pub(crate) fn read(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut attr = Self::default();
        for entry in TASK.read(tokens, errors) {
            let set = attr.set(&entry, errors);
            errors.keep(set);
        }
        cron::refuse_same_names(&attr.crons, errors);
        event::refuse_same(&attr.events, errors);
        row::refuse_same(&attr.rows, errors);
        limit::refuse_same(&attr.limits, errors);
        if attr.batch.is_some() {
            limit::refuse_in_batch(&attr.limits, errors);
            if let Some((_, place)) = &attr.ordered_by {
                errors.add(syn::Error::new(
                    *place,
                    "executions that are ordered run one by one, and a batch is many: remove one of the two",
                ));
            }
        }
        attr
    }

    fn set(&mut self, entry: &Entry, errors: &mut Errors) -> syn::Result<()> {
        match entry.key.to_string().as_str() {
            "name" => self.name = Some(literal::name(entry.single()?)?),
            "queue" => self.queue = Some(literal::name(entry.single()?)?),
            "timeout" => self.timeout = Some(literal::millis(entry.single()?)?),
            "priority" => {
                self.priority = Some(literal::integer(entry.single()?, i32::MIN..=i32::MAX)?);
            }
            "marker" => self.marker = Some(literal::type_name(entry.single()?)?),
            "linked" => self.linked = Some(literal::boolean(entry.single()?)?),
            "crate" => self.krate = Some(literal::path(entry.single()?)?),
            "cron" => self.crons.extend(Cron::read(entry, errors)?),
            "event" => self.events.extend(Subscription::read(entry, errors)?),
            "on_insert" | "on_update" | "on_delete" => {
                self.rows.extend(RowTrigger::read(entry, errors)?);
            }
            "concurrency" => self.limits.extend(Limit::concurrency(entry, errors)?),
            "rate_limit" => self.limits.extend(Limit::rate(entry, errors)?),
            "ordered_by" => {
                self.ordered_by = Some((Key::read(entry.single()?)?, entry.key.span()));
            }
            "batch" => self.batch = Some(Batch::read(entry, errors)),
            "window" => self.window = Window::read(entry, errors)?,
            "retry" => {
                for entry in RETRY.read(entry.list(Some("max_attempts"))?, errors) {
                    let set = self.set_retry(&entry);
                    errors.keep(set);
                }
            }
            "keep" => {
                for entry in KEEP.read(entry.list(None)?, errors) {
                    let set = self.set_keep(&entry);
                    errors.keep(set);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn set_retry(&mut self, entry: &Entry) -> syn::Result<()> {
        let value = entry.single()?;
        match entry.key.to_string().as_str() {
            "max_attempts" => self.max_attempts = Some(literal::integer(value, 1..=1000)?),
            "backoff" => self.backoff = Some(literal::backoff(value)?),
            "jitter" => self.jitter = Some(literal::share(value)?),
            _ => {}
        }
        Ok(())
    }

    fn set_keep(&mut self, entry: &Entry) -> syn::Result<()> {
        let value = entry.single()?;
        match entry.key.to_string().as_str() {
            "completed" => self.keep_completed = Some(literal::millis_or_zero(value)?),
            "failed" => self.keep_failed = Some(literal::millis_or_zero(value)?),
            _ => {}
        }
        Ok(())
    }

    /// Returns the path to the crate `conductor` in generated code.
    pub(crate) fn krate(&self) -> Path {
        self.krate
            .clone()
            .unwrap_or_else(|| syn::parse_quote!(::conductor))
    }

    /// Returns whether every program that links the task has it.
    pub(crate) fn is_linked(&self) -> bool {
        self.linked.unwrap_or(true)
    }

    /// Returns the calls on a `TaskDefinition` for the given keys.
    pub(crate) fn definition_calls(&self) -> TokenStream {
        let queue = self.queue.iter();
        let priority = self.priority.iter();
        let max_attempts = self.max_attempts.iter();
        let (first, longest): (Vec<_>, Vec<_>) = self.backoff.iter().copied().unzip();
        let jitter = self.jitter.iter();
        let timeout = self.timeout.iter();
        let completed = self.keep_completed.iter();
        let failed = self.keep_failed.iter();
        let krate = self.krate();
        let window = self.window.iter().map(|window| window.definition(&krate));
        quote! {
            #(.queue(#queue))*
            #(.priority(#priority))*
            #(.max_attempts(#max_attempts))*
            #(.backoff_ms(#first, #longest))*
            #(.jitter(#jitter))*
            #(.timeout_ms(#timeout))*
            #(.keep_completed_ms(#completed))*
            #(.keep_failed_ms(#failed))*
            #(.window(#window))*
        }
    }
}

/// Returns the code generated for parts of an attribute, without spaces, and the errors in it.
#[cfg(test)]
pub(super) fn definitions(
    tokens: TokenStream,
    of: impl Fn(&Attr, &Path) -> Vec<TokenStream>,
) -> (Vec<String>, String) {
    let mut errors = Errors::default();
    let attr = Attr::read(tokens, &mut errors);
    let made = of(&attr, &attr.krate()).into_iter();
    let made = made.map(|tokens| tokens.to_string().replace(' ', ""));
    (made.collect(), errors.into_compile_errors().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tokens: TokenStream) -> (String, String) {
        let mut errors = Errors::default();
        let attr = Attr::read(tokens, &mut errors);
        let calls = attr.definition_calls().to_string().replace(' ', "");
        (calls, errors.into_compile_errors().to_string())
    }

    #[test]
    fn only_given_keys_become_calls() {
        assert_eq!(read(quote!()), (String::new(), String::new()));
        let (calls, errors) = read(quote!(
            queue = "fast",
            priority = -3,
            retry(max_attempts = 5, backoff = "15s..2h", jitter = 0),
            timeout = "5m",
            keep(completed = "0s", failed = "30d"),
        ));
        assert_eq!(errors, "");
        assert_eq!(
            calls,
            ".queue(\"fast\").priority(-3i32).max_attempts(5u32).backoff_ms(15000u64,7200000u64)\
             .jitter(0f64).timeout_ms(300000u64).keep_completed_ms(0u64)\
             .keep_failed_ms(2592000000u64)"
        );
    }

    #[test]
    fn every_mistake_is_reported() {
        let (calls, errors) = read(quote!(
            linked = "no",
            queue = "",
            priority = "high",
            retry(max_attempts = 0, jitter = 2),
            timeout = "0s",
            keep = "7d",
            retry()
        ));
        assert_eq!(calls, "");
        assert_eq!(errors.matches("compile_error").count(), 8, "{errors}");
    }

    #[test]
    fn a_list_written_as_a_number_is_shown_right() {
        let (_, errors) = read(quote!(retry = 7));
        assert!(errors.contains("write `retry(max_attempts = 7)`"));
        let (_, errors) = read(quote!(retry()));
        assert!(errors.contains("is written like `retry(max_attempts"));
    }
}
