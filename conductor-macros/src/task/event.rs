//! The key `event`, which may be given several times.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::parse::{ParseStream, Parser};
use syn::spanned::Spanned;
use syn::{Expr, Path, Token, Type};

use super::entry::{Entry, Keys};
use super::filter;
use super::ownership::show;
use super::tokens::place_at;
use crate::errors::Errors;
use crate::literal;

const EVENT: Keys = Keys {
    owner: "`event(…)`",
    forms: &[("when", "when = plan == \"pro\"")],
    repeatable: &[],
};

const FORM: &str = "`event` is written like `event(UserSignedUp, when = plan == \"pro\")`";

/// An event that starts the task.
pub(crate) struct Subscription {
    event: Type,
    /// The condition, which has no errors.
    condition: Option<Expr>,
}

impl Subscription {
    /// Reads one `event`; `None` if an error in its list was reported.
    pub(crate) fn read(entry: &Entry, errors: &mut Errors) -> syn::Result<Option<Self>> {
        let (event, options) = match entry.single() {
            Ok(value) => (type_of(value)?, TokenStream::new()),
            Err(_) => {
                let list = entry.list(None)?;
                split.parse2(list)?
            }
        };
        let before = errors.count();
        let mut condition = None;
        for entry in EVENT.read(without_batch(options, errors), errors) {
            let read = entry.single().map(|value| {
                // Only collects errors. The path of the crate is not known yet, as `crate` may follow.
                filter::read(value, &event, &syn::parse_quote!(::conductor), errors);
                condition = Some(value.clone());
            });
            errors.keep(read);
        }
        Ok((errors.count() == before).then_some(Self { event, condition }))
    }

    /// Returns the `SubscriptionDefinition` for the task of type `subject`.
    pub(crate) fn definition(&self, krate: &Path, subject: &TokenStream) -> TokenStream {
        let event = &self.event;
        let definition = quote!(#krate::__private::SubscriptionDefinition);
        // The compiler reports a payload type without `From` for the event at the event.
        let made = place_at(quote!(#definition::of), event.span());
        let when = self.condition.iter().map(|condition| {
            let filter = filter::read(condition, event, krate, &mut Errors::default());
            quote!(.when(|| #krate::__private::Filter::<#event>::to_json(&#filter)))
        });
        quote!(#made::<#subject, #event>() #(#when)*)
    }
}

/// Returns the type of the event and the tokens after the comma.
fn split(input: ParseStream<'_>) -> syn::Result<(Type, TokenStream)> {
    let ahead = input.fork();
    let begins_with_key = ahead.parse::<syn::Ident>().is_ok() && ahead.peek(Token![=]);
    if begins_with_key || input.peek(syn::Lit) {
        return Err(input.error("the event's type comes first: `event(UserSignedUp, …)`"));
    }
    let event = input
        .parse()
        .map_err(|error| syn::Error::new(error.span(), FORM))?;
    if !input.is_empty() {
        input.parse::<Token![,]>()?;
    }
    Ok((event, input.parse()?))
}

/// Returns the type in `event = UserSignedUp`.
fn type_of(value: &Expr) -> syn::Result<Type> {
    match literal::peel(value) {
        path @ Expr::Path(_) => syn::parse2(path.to_token_stream()),
        other => Err(syn::Error::new_spanned(other, FORM)),
    }
}

/// Removes the option `batch`, which other libraries have, and reports it with an explanation.
fn without_batch(options: TokenStream, errors: &mut Errors) -> TokenStream {
    let parser = |input: ParseStream<'_>| {
        let mut kept = TokenStream::new();
        while !input.is_empty() {
            let key = input.fork().parse::<syn::Ident>().ok();
            let is_batch = key.as_ref().is_some_and(|key| key == "batch");
            if let (true, Some(key)) = (is_batch, &key) {
                errors.at(
                    key,
                    "events do not come in batches: each that matches starts an execution of its \
                     own; remove `batch`",
                );
            }
            while !input.is_empty() && !input.peek(Token![,]) {
                let token: proc_macro2::TokenTree = input.parse()?;
                kept.extend((!is_batch).then_some(token));
            }
            if !input.is_empty() {
                let comma: Token![,] = input.parse()?;
                kept.extend(
                    (!is_batch)
                        .then(|| comma.to_token_stream())
                        .into_iter()
                        .flatten(),
                );
            }
        }
        Ok(kept)
    };
    parser.parse2(options).unwrap_or_default()
}

/// Reports a second subscription to the same event, as a task runs once per event.
pub(crate) fn refuse_same(events: &[Subscription], errors: &mut Errors) {
    for (index, subscription) in events.iter().enumerate() {
        let event = show(&subscription.event);
        if events[..index]
            .iter()
            .any(|before| show(&before.event) == event)
        {
            let message = format!(
                "an event starts a task once, and this task has `{event}` already: \
                 join the conditions, as in `when = plan == \"pro\" || visits > 3`"
            );
            errors.at(&subscription.event, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::attr::definitions;
    use super::*;

    fn read(tokens: TokenStream) -> (Vec<String>, String) {
        definitions(tokens, |attr, krate| {
            let events = attr.events.iter();
            let events = events.map(|event| event.definition(krate, &quote!(Welcome)));
            events.collect()
        })
    }

    #[test]
    fn events_become_subscriptions() {
        let (events, errors) = read(quote!(
            event(UserSignedUp),
            event(a::Paid, when = cents > 3),
            event = Other
        ));
        assert_eq!(errors, "");
        let made = "::conductor::__private::SubscriptionDefinition::of::<Welcome,";
        assert_eq!(events[0], format!("{made}UserSignedUp>()"));
        assert_eq!(
            events[1],
            format!(
                "{made}a::Paid>().when(||::conductor::__private::Filter::<a::Paid>::to_json(\
                 &<a::Paid>::cents.gt(3)))"
            )
        );
        assert_eq!(events[2], format!("{made}Other>()"));
    }

    #[test]
    fn each_mistake_is_reported_once() {
        let (events, errors) = read(quote!(
            event,
            event(),
            event("a"),
            event(when = a == 1),
            event(A, whn = a == 1),
            event(B, batch = 10),
            event(C, when),
            event = 5
        ));
        assert!(events.is_empty());
        assert_eq!(errors.matches("compile_error").count(), 8, "{errors}");
        assert!(errors.contains("remove `batch`"));
        assert!(errors.contains("did you mean `when`?"));
    }

    #[test]
    fn an_event_is_named_once() {
        let (_, errors) = read(quote!(event(A), event(B), event(A, when = a == 1)));
        assert_eq!(errors.matches("has `A` already").count(), 1, "{errors}");
    }
}
