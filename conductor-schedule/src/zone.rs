//! Time zones by name.

use chrono_tz::{TZ_VARIANTS, Tz};
use conductor_core::{Likeness, nearest_of};

/// The error for an unknown time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnknownZone(String);

/// Returns the zone with a name such as `Europe/Berlin` or `UTC`. The name is case-sensitive.
pub fn zone(name: &str) -> Result<Tz, UnknownZone> {
    name.parse().map_err(|_| {
        UnknownZone(match nearest(name) {
            Some(zone) => format!("`{name}` is no time zone: did you mean `{zone}`?"),
            None => format!("`{name}` is no time zone: write a name such as `Europe/Berlin`"),
        })
    })
}

/// Returns the zone with the same name in another case, the zone of a city, or the zone with the most similar name.
fn nearest(name: &str) -> Option<Tz> {
    let given = name.trim().to_lowercase().replace(' ', "_");
    let known = |is: &dyn Fn(&str) -> bool| {
        let mut zones = TZ_VARIANTS.iter();
        zones.find(|zone| is(&zone.name().to_lowercase())).copied()
    };
    if given.is_empty() {
        return None;
    }
    known(&|zone| zone == given)
        .or_else(|| known(&|zone| zone.rsplit('/').next() == Some(given.as_str())))
        .or_else(|| {
            let zones = TZ_VARIANTS.iter().map(|zone| (zone.name(), *zone));
            nearest_of(Likeness::VeryClose, &given, zones)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact_and_mistakes_get_the_nearest() {
        assert_eq!(zone("Europe/Berlin"), Ok(Tz::Europe__Berlin));
        assert_eq!(zone("UTC"), Ok(Tz::UTC));
        for (name, hint) in [
            ("europe/berlin", "did you mean `Europe/Berlin`?"),
            ("Europe/Berlim", "did you mean `Europe/Berlin`?"),
            ("Berlin", "did you mean `Europe/Berlin`?"),
            ("America/New York", "did you mean `America/New_York`?"),
            ("new york", "did you mean `America/New_York`?"),
            ("utc", "did you mean `UTC`?"),
            ("", "write a name such as"),
            ("xyzzy", "write a name such as"),
        ] {
            let problem = zone(name).err().map(|error| error.to_string());
            assert!(
                problem.is_some_and(|problem| problem.contains(hint)),
                "{name}"
            );
        }
    }
}
