//! The key `cron`, which may be given several times.

use chrono::Utc;
use conductor_schedule::{Missed, Overlap, Tz};
use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::spanned::Spanned;
use syn::{Expr, Path};

use super::entry::{Entry, Keys};
use super::tokens::{local, place_at};
use crate::errors::Errors;
use crate::literal;

const CRON: Keys = Keys {
    owner: "`cron(…)`",
    forms: &[
        ("name", "name = \"morning\""),
        ("tz", "tz = \"Europe/Berlin\""),
        ("missed", "missed = \"skip\""),
        ("overlap", "overlap = \"skip\""),
        ("payload", "payload = Report { pages: 3 }"),
    ],
    repeatable: &[],
};

/// The name of a schedule without a `name`.
const UNNAMED: &str = "default";

/// One schedule.
pub(crate) struct Cron {
    rule: conductor_schedule::Cron,
    /// The span of the rule.
    place: Span,
    name: Option<(String, Span)>,
    zone: Option<Tz>,
    missed: Option<Missed>,
    overlap: Option<Overlap>,
    payload: Option<Expr>,
}

impl Cron {
    /// Reads one `cron`; `None` if an error in its list was reported.
    pub(crate) fn read(entry: &Entry, errors: &mut Errors) -> syn::Result<Option<Self>> {
        let (rule, options) = entry.first()?;
        let before = errors.count();
        let read = literal::parsed(&rule, "a cron rule such as `\"0 9 * * Mon-Fri\"`");
        let place = rule.span();
        let rule: Option<conductor_schedule::Cron> = errors.keep(read);
        let (mut name, mut zone, mut missed, mut overlap, mut payload) =
            (None, None, None, None, None);
        for entry in CRON.read(options, errors) {
            let set = entry.single().and_then(|value| {
                match entry.key.to_string().as_str() {
                    "name" => name = Some((literal::name(value)?, value.span())),
                    "tz" => zone = Some(literal::zone(value)?),
                    "missed" => {
                        missed = Some(literal::parsed(
                            value,
                            "`\"skip\"`, `\"once\"` or `\"all\"`",
                        )?)
                    }
                    "overlap" => {
                        overlap = Some(literal::parsed(value, "`\"allow\"` or `\"skip\"`")?)
                    }
                    "payload" => payload = Some(value.clone()),
                    _ => {}
                }
                Ok(())
            });
            errors.keep(set);
        }
        let Some(rule) = rule.filter(|_| errors.count() == before) else {
            return Ok(None);
        };
        rule.refuse_past(Utc::now(), zone.unwrap_or(Tz::UTC))
            .map_err(|problem| syn::Error::new(place, problem))?;
        Ok(Some(Self {
            rule,
            place,
            name,
            zone,
            missed,
            overlap,
            payload,
        }))
    }

    fn name(&self) -> &str {
        self.name.as_ref().map_or(UNNAMED, |(name, _)| name)
    }

    /// Returns the `CronDefinition` for the task of type `subject`.
    pub(crate) fn definition(&self, krate: &Path, subject: &TokenStream) -> TokenStream {
        let definition = quote!(#krate::__private::CronDefinition);
        let (name, rule) = (self.name(), self.rule.as_str());
        let made = match &self.payload {
            // The compiler reports a payload type without `From<CronTick>` at the rule.
            None => {
                let of = place_at(quote!(#definition::of::<#subject>), self.place);
                quote!(#of(#name, #rule))
            }
            Some(payload) => {
                let made = local("payload");
                quote! {
                    #definition::with_payload(#name, #rule, |_| {
                        let #made: <#subject as #krate::Task>::Payload = #payload;
                        #definition::encode::<#subject>(&#made)
                    })
                }
            }
        };
        let zone = self.zone.iter().map(|zone| zone.name());
        let missed = self.missed.iter().map(|missed| match missed {
            Missed::Skip => quote!(Skip),
            Missed::Once => quote!(Once),
            Missed::All => quote!(All),
        });
        let overlap = self.overlap.iter().map(|overlap| match overlap {
            Overlap::Allow => quote!(Allow),
            Overlap::Skip => quote!(Skip),
        });
        quote! {
            #made
            #(.timezone(#zone))*
            #(.missed(#krate::Missed::#missed))*
            #(.overlap(#krate::Overlap::#overlap))*
        }
    }
}

/// Reports schedules with the same name.
pub(crate) fn refuse_same_names(crons: &[Cron], errors: &mut Errors) {
    for (index, cron) in crons.iter().enumerate() {
        let name = cron.name();
        if crons[..index].iter().any(|before| before.name() == name) {
            let place = cron.name.as_ref().map_or(cron.place, |(_, place)| *place);
            let message = format!(
                "two schedules of this task have the name `{name}`: give each one of its own, \
                 as in `cron(\"…\", name = \"morning\")`"
            );
            errors.add(syn::Error::new(place, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::attr::definitions;
    use super::*;

    fn read(tokens: TokenStream) -> (Vec<String>, String) {
        definitions(tokens, |attr, krate| {
            let crons = attr.crons.iter();
            let crons = crons.map(|cron| cron.definition(krate, &quote!(Report)));
            crons.collect()
        })
    }

    #[test]
    fn options_become_calls() {
        let (crons, errors) = read(quote!(
            cron = "@daily",
            cron(
                "0 9 * * Mon",
                name = "morning",
                tz = "Europe/Berlin",
                missed = "skip",
                overlap = "skip"
            ),
        ));
        assert_eq!(errors, "");
        let made = "::conductor::__private::CronDefinition::of::<Report>";
        assert_eq!(crons[0], format!("{made}(\"default\",\"@daily\")"));
        assert_eq!(
            crons[1],
            format!(
                "{made}(\"morning\",\"09**Mon\").timezone(\"Europe/Berlin\")\
                 .missed(::conductor::Missed::Skip).overlap(::conductor::Overlap::Skip)"
            )
        );
    }

    #[test]
    fn each_mistake_is_reported_once() {
        let (crons, errors) = read(quote!(
            cron("61 * * * *", tz = "Berlin", missed = "skp", colour = 1),
            cron,
            cron(name = "a"),
            cron = 5,
            cron("0 0 0 1 1 * 2020"),
        ));
        assert!(crons.is_empty());
        assert_eq!(errors.matches("compile_error").count(), 8, "{errors}");
    }

    #[test]
    fn a_forgotten_comma_is_named() {
        let (_, errors) = read(quote!(cron("@daily" name = "a")));
        assert!(
            errors.contains("expected a comma before the next key"),
            "{errors}"
        );
    }

    #[test]
    fn names_are_unique() {
        let (_, errors) = read(quote!(
            cron = "@daily",
            cron = "@hourly",
            cron("@weekly", name = "a")
        ));
        assert_eq!(
            errors.matches("have the name `default`").count(),
            1,
            "{errors}"
        );
    }
}
