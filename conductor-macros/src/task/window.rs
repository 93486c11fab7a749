//! The key `window`.

use conductor_schedule::{Tz, WindowError};
use proc_macro2::TokenStream;
use quote::quote;
use syn::{LitStr, Path};

use super::entry::{Entry, Keys};
use crate::errors::Errors;
use crate::literal;

const WINDOW: Keys = Keys {
    owner: "`window(…)`",
    forms: &[
        ("tz", "tz = \"Europe/Berlin\""),
        ("days", "days = \"Mon-Fri\""),
    ],
    repeatable: &[],
};

/// The hours in which the task may run.
pub(crate) struct Window {
    times: String,
    days: Option<String>,
    zone: Option<Tz>,
}

impl Window {
    /// Reads the window; `None` if an error in its list was reported.
    pub(crate) fn read(entry: &Entry, errors: &mut Errors) -> syn::Result<Option<Self>> {
        let (times, options) = entry.first()?;
        let times = literal::string(&times, "a window such as `\"22:00-06:00\"`")?;
        let before = errors.count();
        let (mut days, mut zone) = (None, None);
        for entry in WINDOW.read(options, errors) {
            let set = entry.single().and_then(|value| {
                match entry.key.to_string().as_str() {
                    "tz" => zone = Some(literal::zone(value)?),
                    "days" => {
                        days = Some(literal::string(value, "days such as `\"Mon-Fri\"`")?.clone())
                    }
                    _ => {}
                }
                Ok(())
            });
            errors.keep(set);
        }
        let options_are_sound = errors.count() == before;
        let text = days.as_ref().map(LitStr::value);
        let zone_or_utc = zone.unwrap_or(Tz::UTC);
        let window =
            conductor_schedule::Window::parse(&times.value(), text.as_deref(), zone_or_utc)
                .map_err(|problem| {
                    let place = match (&problem, &days) {
                        (WindowError::Days(_), Some(days)) => days.span(),
                        _ => times.span(),
                    };
                    syn::Error::new(place, problem)
                })?;
        Ok(options_are_sound.then(|| Self {
            times: window.as_str().to_owned(),
            days: text,
            zone,
        }))
    }

    /// Returns the `WindowDefinition`.
    pub(crate) fn definition(&self, krate: &Path) -> TokenStream {
        let times = &self.times;
        let days = self.days.iter();
        let zone = self.zone.iter().map(|zone| zone.name());
        quote! {
            #krate::__private::WindowDefinition::new(#times)
            #(.days(#days))*
            #(.timezone(#zone))*
        }
    }
}
