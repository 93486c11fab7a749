//! The keys `concurrency` and `rate_limit`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Expr, Ident, Member, Path};

use super::entry::{Entry, Keys};
use super::expand::place_at;
use crate::errors::Errors;
use crate::literal;

const CONCURRENCY: Keys = Keys {
    owner: "`concurrency(…)`",
    forms: &[("limit", "limit = 5"), ("key", KEY)],
    repeatable: &[],
};

const RATE: Keys = Keys {
    owner: "`rate_limit(…)`",
    forms: &[("burst", "burst = 20"), ("key", KEY)],
    repeatable: &[],
};

const KEY: &str = "key = payload.tenant_id";

/// How many executions may run at once, or start in an interval.
pub(crate) struct Limit {
    amount: Amount,
    key: Option<Key>,
    place: Span,
}

#[derive(Clone, Copy)]
enum Amount {
    Concurrency(u32),
    /// The amount, the interval in milliseconds, and the burst.
    Rate(u32, u64, u32),
}

/// `payload.a.b`
struct Key {
    fields: Vec<Ident>,
}

impl Limit {
    /// Reads `concurrency = 5` or `concurrency(limit = 5, key = …)`.
    pub(crate) fn concurrency(entry: &Entry, errors: &mut Errors) -> syn::Result<Option<Self>> {
        if let Ok(value) = entry.single() {
            let amount = Amount::Concurrency(literal::integer(value, 1..=MOST)?);
            return Ok(Some(Self::new(entry, amount, None)));
        }
        let (mut amount, mut key) = (None, None);
        let before = errors.count();
        for entry in CONCURRENCY.read(entry.list(None)?, errors) {
            let set = entry.single().and_then(|value| {
                match entry.key.to_string().as_str() {
                    "limit" => amount = Some(literal::integer(value, 1..=MOST)?),
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
        Ok(Some(Self::new(entry, Amount::Concurrency(amount), key)))
    }

    /// Reads `rate_limit = "100/1m"` or `rate_limit("100/1m", burst = 20, key = …)`.
    pub(crate) fn rate(entry: &Entry, errors: &mut Errors) -> syn::Result<Option<Self>> {
        let (rate, options) = entry.first()?;
        let (amount, per) = literal::rate(&rate)?;
        let (mut burst, mut key) = (1, None);
        let before = errors.count();
        for entry in RATE.read(options, errors) {
            let set = entry.single().and_then(|value| {
                match entry.key.to_string().as_str() {
                    "burst" => burst = read_burst(value, amount, per)?,
                    _ => key = Some(Key::read(value)?),
                }
                Ok(())
            });
            errors.keep(set);
        }
        let limit = Self::new(entry, Amount::Rate(amount, per, burst), key);
        Ok((errors.count() == before).then_some(limit))
    }

    fn new(entry: &Entry, amount: Amount, key: Option<Key>) -> Self {
        Self {
            amount,
            key,
            place: entry.key.span(),
        }
    }

    /// What makes two limits the same one.
    fn identity(&self) -> (bool, String) {
        let path = self.key.as_ref().map(Key::path).unwrap_or_default();
        (matches!(self.amount, Amount::Rate(..)), path.join("."))
    }

    /// The `LimitDefinition`.
    pub(crate) fn definition(&self, krate: &Path) -> TokenStream {
        let path = self.key.iter().map(|key| {
            let path = key.path();
            quote!(.key(&[#(#path),*]))
        });
        let new = match self.amount {
            Amount::Concurrency(amount) => quote!(concurrency(#amount)),
            Amount::Rate(amount, per, 1) => quote!(rate(#amount, #per)),
            Amount::Rate(amount, per, burst) => quote!(rate(#amount, #per).burst(#burst)),
        };
        quote!(#krate::__private::LimitDefinition::#new #(#path)*)
    }

    /// Code that compiles where the payload has the key.
    pub(crate) fn check(&self, payload: &TokenStream) -> Option<TokenStream> {
        let key = self.key.as_ref()?;
        let first = key.fields.first()?.span();
        let fields = key.fields.iter();
        let variable = Ident::new("payload", first.resolved_at(Span::mixed_site()));
        let access = quote_spanned!(first=> #variable #(.#fields)*);
        let payload = place_at(payload.clone(), first);
        Some(quote! {
            const _: fn(&#payload) = |#variable| {
                let _ = &#access;
            };
        })
    }
}

/// A burst above the amount is one of a rate over more time.
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

/// The database counts in `integer`.
const MOST: u32 = i32::MAX.unsigned_abs();

impl Key {
    fn read(value: &Expr) -> syn::Result<Self> {
        let mut fields = Vec::new();
        let mut at = literal::peel(value);
        while let Expr::Field(field) = at {
            let Member::Named(name) = &field.member else {
                return Err(Self::wrong(value));
            };
            fields.push(name.clone());
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

    fn path(&self) -> Vec<String> {
        use syn::ext::IdentExt;
        let names = self.fields.iter();
        names.map(|name| name.unraw().to_string()).collect()
    }
}

/// A limit lets executions go one by one, and a batch takes what it has gathered.
pub(crate) fn refuse_in_batch(limits: &[Limit], errors: &mut Errors) {
    for limit in limits {
        errors.add(syn::Error::new(
            limit.place,
            "a limit counts executions, and a batch is many: remove it, and bound the batches that run \
             at once by the concurrency of the queue's worker",
        ));
    }
}

/// Two limits of one kind and key would contradict one another.
pub(crate) fn refuse_same(limits: &[Limit], errors: &mut Errors) {
    for (index, limit) in limits.iter().enumerate() {
        let same = |other: &Limit| other.identity() == limit.identity();
        if limits[..index].iter().any(same) {
            errors.add(syn::Error::new(
                limit.place,
                "there is a limit of this kind and key already",
            ));
        }
    }
}
