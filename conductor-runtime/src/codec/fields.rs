//! Finds the fields that a type reads, with its own serde code, including aliases and renamed
//! fields.

use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, Error, Visitor};
use serde::forward_to_deserialize_any;

/// Returns the names of its fields; `None` if it has no named fields or accepts any name.
pub(super) fn fields_of<T: DeserializeOwned>() -> Option<&'static [&'static str]> {
    match T::deserialize(Probe) {
        Err(Asked(fields)) => fields,
        Ok(_) => None,
    }
}

/// A deserializer without a value; it returns the names that are requested as an error.
struct Probe;

#[derive(Debug)]
struct Asked(Option<&'static [&'static str]>);

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no value")
    }
}

impl std::error::Error for Asked {}

impl Error for Asked {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Self(None)
    }
}

impl<'de> Deserializer<'de> for Probe {
    type Error = Asked;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Asked> {
        Err(Asked(None))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Asked> {
        Err(Asked(Some(fields)))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    #![allow(dead_code)]
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Named {
        #[serde(alias = "b", rename = "c")]
        a: i64,
        d: Option<String>,
    }

    #[derive(Deserialize)]
    struct Open {
        a: i64,
        #[serde(flatten)]
        rest: std::collections::BTreeMap<String, i64>,
    }

    #[test]
    fn aliases_count_and_open_types_have_no_list() {
        let mut names = fields_of::<Named>().map(<[_]>::to_vec);
        if let Some(names) = &mut names {
            names.sort_unstable();
        }
        assert_eq!(names, Some(vec!["b", "c", "d"]));
        assert_eq!(fields_of::<Open>(), None);
        assert_eq!(fields_of::<serde_json::Value>(), None);
        assert_eq!(fields_of::<()>(), None);
        assert_eq!(fields_of::<Vec<Named>>(), None);
    }
}
