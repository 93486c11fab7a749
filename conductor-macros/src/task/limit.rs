//! The keys `concurrency`, `rate_limit` and `ordered_by`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Expr, Ident, Member, Path};

use super::entry::{Entry, Keys};
use super::tokens::place_at;
use crate::errors::Errors;
use crate::literal;

const CONCURRENCY: Keys = Keys {
    owner: "`concurrency(…)`",
    forms: &[("limit", "limit = 5"), ("name", NAME), ("key", KEY)],
    repeatable: &[],
};

const RATE: Keys = Keys {
    owner: "`rate_limit(…)`",
    forms: &[("burst", "burst = 20"), ("name", NAME), ("key", KEY)],
    repeatable: &[],
};

const NAME: &str = "name = \"stripe\"";
const KEY: &str = "key = payload.tenant_id";

/// How many executions may run at once, or start in an interval.
pub(crate) struct Limit {
    amount: Amount,
    /// The name by which tasks share the limit.
    name: Option<String>,
    key: Option<Key>,
    place: Span,
}

#[derive(Clone, Copy)]
enum Amount {
    Concurrency(u32),
    /// The amount, the interval in milliseconds, and the burst.
    Rate(u32, u64, u32),
}

/// A path such as `payload.a.b`, or `payload.a?.b` if `a` is an `Option`.
pub(crate) struct Key {
    fields: Vec<KeyField>,
}

struct KeyField {
    name: Ident,
    is_option: bool,
}

impl Limit {
    /// Reads `concurrency = 5` or `concurrency(limit = 5, key = …)`.
    pub(crate) fn concurrency(entry: &Entry, errors: &mut Errors) -> syn::Result<Option<Self>> {
        if let Ok(value) = entry.single() {
            let amount = Amount::Concurrency(literal::integer(value, 1..=MOST)?);
            return Ok(Some(Self::new(entry, amount, None, None)));
        }
        let (mut amount, mut name, mut key) = (None, None, None);
        let before = errors.count();
        for entry in CONCURRENCY.read(entry.list(None)?, errors) {
            let set = entry.single().and_then(|value| {
                match entry.key.to_string().as_str() {
                    "limit" => amount = Some(literal::integer(value, 1..=MOST)?),
                    "name" => name = Some(literal::name(value)?),
                    _ => key = Some(Key::read(value)?),
                }
                Ok(())
            });
            errors.keep(set);
        }
        if errors.count() > before {
            return Ok(None);
        }
        let amount = amount.ok_or_else(|| {
            syn::Error::new(
                entry.key.span(),
                "`concurrency(…)` needs the limit: `concurrency(limit = 5, key = payload.tenant_id)`",
            )
        })?;
        let amount = Amount::Concurrency(amount);
        Ok(Some(Self::new(entry, amount, name, key)))
    }

    /// Reads `rate_limit = "100/1m"` or `rate_limit("100/1m", burst = 20, key = …)`.
    pub(crate) fn rate(entry: &Entry, errors: &mut Errors) -> syn::Result<Option<Self>> {
        let (rate, options) = entry.first()?;
        let (amount, per) = literal::rate(&rate)?;
        let (mut burst, mut name, mut key) = (1, None, None);
        let before = errors.count();
        for entry in RATE.read(options, errors) {
            let set = entry.single().and_then(|value| {
                match entry.key.to_string().as_str() {
                    "burst" => burst = read_burst(value, amount, per)?,
                    "name" => name = Some(literal::name(value)?),
                    _ => key = Some(Key::read(value)?),
                }
                Ok(())
            });
            errors.keep(set);
        }
        let limit = Self::new(entry, Amount::Rate(amount, per, burst), name, key);
        Ok((errors.count() == before).then_some(limit))
    }

    fn new(entry: &Entry, amount: Amount, name: Option<String>, key: Option<Key>) -> Self {
        Self {
            amount,
            name,
            key,
            place: entry.key.span(),
        }
    }

    /// Returns what identifies a limit within a task.
    fn identity(&self) -> (bool, Option<&str>, String) {
        let path = match (&self.name, &self.key) {
            (None, Some(key)) => key.path().join("."),
            _ => String::new(),
        };
        let is_rate = matches!(self.amount, Amount::Rate(..));
        (is_rate, self.name.as_deref(), path)
    }

    /// Returns the `LimitDefinition`.
    pub(crate) fn definition(&self, krate: &Path) -> TokenStream {
        let path = self.key.iter().map(|key| {
            let path = key.path();
            quote!(.key(&[#(#path),*]))
        });
        let shared = self.name.iter().map(|name| quote!(.shared(#name)));
        let new = match self.amount {
            Amount::Concurrency(amount) => quote!(concurrency(#amount)),
            Amount::Rate(amount, per, 1) => quote!(rate(#amount, #per)),
            Amount::Rate(amount, per, burst) => quote!(rate(#amount, #per).burst(#burst)),
        };
        quote!(#krate::__private::LimitDefinition::#new #(#path)* #(#shared)*)
    }

    /// Returns code that compiles only if the payload has the key.
    pub(crate) fn check(&self, payload: &TokenStream) -> Option<TokenStream> {
        self.key.as_ref()?.check(payload)
    }
}

/// Reads a burst. One above the amount is an error that suggests a rate over a longer interval.
fn read_burst(value: &Expr, amount: u32, per: u64) -> syn::Result<u32> {
    let burst = literal::integer(value, 1..=MOST)?;
    if burst <= amount {
        return Ok(burst);
    }
    let times = u64::from(burst.div_ceil(amount));
    let per = std::time::Duration::from_millis(per.saturating_mul(times));
    Err(syn::Error::new(
        value.span(),
        format!(
            "a burst is at most the rate's number, which is {amount}: the same rate over more time is `{}/{}`",
            u64::from(amount) * times,
            humantime::format_duration(per).to_string().replace(' ', "")
        ),
    ))
}

/// The maximum amount: the database stores it as `integer`.
const MOST: u32 = i32::MAX.unsigned_abs();

impl Key {
    pub(crate) fn read(value: &Expr) -> syn::Result<Self> {
        let mut fields = Vec::new();
        let mut at = literal::peel(value);
        loop {
            let is_option = match at {
                Expr::Try(inner) => {
                    at = literal::peel(&inner.expr);
                    true
                }
                _ => false,
            };
            let Expr::Field(field) = at else { break };
            let Member::Named(name) = &field.member else {
                return Err(Self::wrong(value));
            };
            fields.push(KeyField {
                name: name.clone(),
                is_option,
            });
            at = literal::peel(&field.base);
        }
        fields.reverse();
        match at {
            Expr::Path(path) if path.path.is_ident("payload") && !fields.is_empty() => {
                Ok(Self { fields })
            }
            _ => Err(Self::wrong(value)),
        }
    }

    fn wrong(value: &Expr) -> syn::Error {
        let hint = match value {
            Expr::Path(path) => path.path.get_ident().filter(|name| *name != "payload"),
            _ => None,
        };
        let example = hint.map_or_else(|| "tenant_id".to_owned(), ToString::to_string);
        syn::Error::new(
            value.span(),
            format!("a key is a field of the payload: write `payload.{example}`"),
        )
    }

    /// Returns code that compiles only if the payload has this field.
    pub(crate) fn check(&self, payload: &TokenStream) -> Option<TokenStream> {
        let first = self.fields.first()?.name.span();
        let variable = Ident::new("payload", first.resolved_at(Span::mixed_site()));
        let mut access = quote_spanned!(first=> #variable);
        for KeyField { name, is_option } in &self.fields {
            access = quote_spanned!(name.span()=> #access.#name);
            if *is_option {
                access = quote_spanned!(name.span()=> ::core::option::Option::as_ref(&#access)?);
            }
        }
        let payload = place_at(payload.clone(), first);
        let (output, end) = if self.fields.iter().any(|field| field.is_option) {
            let option = quote!(::core::option::Option);
            (quote!(-> #option<()>), quote!(#option::Some(())))
        } else {
            (TokenStream::new(), TokenStream::new())
        };
        Some(quote! {
            const _: fn(&#payload) #output = |#variable| {
                let _ = &#access;
                #end
            };
        })
    }

    /// Returns the names of the fields.
    pub(crate) fn path(&self) -> Vec<String> {
        use syn::ext::IdentExt;
        let names = self.fields.iter();
        names.map(|field| field.name.unraw().to_string()).collect()
    }
}

/// Reports limits of a batch task: a limit admits single executions, whereas a batch starts all its items.
pub(crate) fn refuse_in_batch(limits: &[Limit], errors: &mut Errors) {
    for limit in limits {
        errors.add(syn::Error::new(
            limit.place,
            "a limit counts executions, and a batch is many: remove it, and bound the batches that run \
             at once by the concurrency of the queue's worker",
        ));
    }
}

/// Reports two limits of the same kind and key.
pub(crate) fn refuse_same(limits: &[Limit], errors: &mut Errors) {
    for (index, limit) in limits.iter().enumerate() {
        let same = |other: &Limit| other.identity() == limit.identity();
        if limits[..index].iter().any(same) {
            errors.add(syn::Error::new(
                limit.place,
                match limit.name {
                    None => "there is a limit of this kind and key already",
                    Some(_) => "there is a limit of this kind and name already",
                },
            ));
        }
    }
}
