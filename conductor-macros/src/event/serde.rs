//! The `#[serde(…)]` attributes that determine the stored name of a field.

use proc_macro2::TokenStream;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, LitStr, Token, parenthesized, token};

use crate::errors::Errors;

/// The settings for all fields, from the attributes of the struct.
pub(crate) struct Container {
    pub(crate) rename: Rename,
}

/// The settings of a field, from its attributes.
pub(crate) struct Stored {
    pub(crate) name: Option<String>,
    /// Whether the JSON contains the field's own value under a name of its own.
    pub(crate) is_plain: bool,
}

/// serde's renaming rules for fields, whose names are in snake_case.
#[derive(Clone, Copy)]
pub(crate) enum Rename {
    None,
    Upper,
    Pascal,
    Camel,
    Kebab,
    ScreamingKebab,
}

impl Container {
    pub(crate) fn read(attrs: &[Attribute], errors: &mut Errors) -> Self {
        let mut rename = Rename::None;
        each(attrs, errors, |meta| {
            if meta.path.is_ident("rename_all") {
                let Some(rule) = name(meta)? else {
                    return Ok(());
                };
                // serde reports an unknown rule.
                rename = Rename::parse(&rule.value()).unwrap_or(Rename::None);
                return Ok(());
            }
            for refused in ["transparent", "into", "remote"] {
                if meta.path.is_ident(refused) {
                    return Err(meta.error(format!(
                        "filters look into the stored fields, which with `{refused}` \
                         are not those of this struct: remove it"
                    )));
                }
            }
            skip_value(meta)
        });
        Self { rename }
    }
}

impl Stored {
    pub(crate) fn read(attrs: &[Attribute], errors: &mut Errors) -> Self {
        let mut stored = Self {
            name: None,
            is_plain: true,
        };
        each(attrs, errors, |meta| {
            if meta.path.is_ident("rename") {
                stored.name = name(meta)?.map(|name| name.value());
                return Ok(());
            }
            let unlike = [
                "skip",
                "skip_serializing",
                "flatten",
                "with",
                "serialize_with",
            ];
            stored.is_plain &= !unlike.iter().any(|key| meta.path.is_ident(key));
            skip_value(meta)
        });
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("cfg_attr")) {
            if holds_rename(attr) {
                let message = "the name of an event's field must not depend on `cfg`: \
                               filters would look for another one than is stored";
                errors.at(attr, message);
            }
        }
        stored
    }
}

fn holds_rename(attr: &Attribute) -> bool {
    let tokens = attr.meta.require_list().map(|list| list.tokens.to_string());
    tokens.is_ok_and(|tokens| tokens.contains("serde") && tokens.contains("rename"))
}

/// Reads every key of the `serde` attributes. The derive reports attributes that cannot be parsed.
fn each(
    attrs: &[Attribute],
    errors: &mut Errors,
    mut read: impl FnMut(&ParseNestedMeta<'_>) -> syn::Result<()>,
) {
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("serde")) {
        let all = attr.parse_nested_meta(|meta| {
            let known = read(&meta);
            errors.keep(known);
            Ok(())
        });
        // Discards the rest after an error that was reported.
        drop(all);
    }
}

/// Reads `= "name"`, or `(serialize = "name", deserialize = "name")` if both are the same.
fn name(meta: &ParseNestedMeta<'_>) -> syn::Result<Option<LitStr>> {
    if !meta.input.peek(token::Paren) {
        // serde reports a value that is not a literal.
        return Ok(meta.value().and_then(|value| value.parse()).ok());
    }
    let mut names: Vec<LitStr> = Vec::new();
    meta.parse_nested_meta(|side| {
        names.push(side.value()?.parse()?);
        Ok(())
    })?;
    match names.as_slice() {
        [one, other] if one.value() == other.value() => Ok(Some(one.clone())),
        _ => Err(meta.error(
            "an event is read as it was written, so a field has one name: write `rename = \"…\"`",
        )),
    }
}

/// Skips the value of a key.
pub(crate) fn skip_value(meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    if meta.input.peek(Token![=]) {
        meta.value()?.parse::<syn::Expr>()?;
    } else if meta.input.peek(token::Paren) {
        let content;
        parenthesized!(content in meta.input);
        content.parse::<TokenStream>()?;
    }
    Ok(())
}

impl Rename {
    fn parse(rule: &str) -> Option<Self> {
        Some(match rule {
            "lowercase" | "snake_case" => Self::None,
            "UPPERCASE" | "SCREAMING_SNAKE_CASE" => Self::Upper,
            "PascalCase" => Self::Pascal,
            "camelCase" => Self::Camel,
            "kebab-case" => Self::Kebab,
            "SCREAMING-KEBAB-CASE" => Self::ScreamingKebab,
            _ => return None,
        })
    }

    /// Returns the name that serde gives a field.
    pub(crate) fn apply(self, field: &str) -> String {
        match self {
            Self::None => field.to_owned(),
            Self::Upper => field.to_ascii_uppercase(),
            Self::Pascal => pascal(field),
            Self::Camel => {
                let pascal = pascal(field);
                let mut chars = pascal.chars();
                let first = chars.next().map(|first| first.to_ascii_lowercase());
                first.into_iter().chain(chars).collect()
            }
            Self::Kebab => field.replace('_', "-"),
            Self::ScreamingKebab => field.to_ascii_uppercase().replace('_', "-"),
        }
    }
}

fn pascal(field: &str) -> String {
    let mut pascal = String::with_capacity(field.len());
    let mut begins_word = true;
    for char in field.chars() {
        if char == '_' {
            begins_word = true;
        } else if begins_word {
            pascal.push(char.to_ascii_uppercase());
            begins_word = false;
        } else {
            pascal.push(char);
        }
    }
    pascal
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    #[test]
    fn names_are_as_serde_makes_them() {
        for (rule, name) in [
            ("lowercase", "user_id2"),
            ("UPPERCASE", "USER_ID2"),
            ("PascalCase", "UserId2"),
            ("camelCase", "userId2"),
            ("snake_case", "user_id2"),
            ("SCREAMING_SNAKE_CASE", "USER_ID2"),
            ("kebab-case", "user-id2"),
            ("SCREAMING-KEBAB-CASE", "USER-ID2"),
        ] {
            let rule = Rename::parse(rule);
            assert_eq!(
                rule.map(|rule| rule.apply("user_id2")).as_deref(),
                Some(name)
            );
        }
        assert!(Rename::parse("Title Case").is_none());
    }

    fn stored(field: syn::Field) -> (Option<String>, bool, String) {
        let mut errors = Errors::default();
        let stored = Stored::read(&field.attrs, &mut errors);
        let errors = errors.into_compile_errors().to_string();
        (stored.name, stored.is_plain, errors)
    }

    #[test]
    fn a_field_is_renamed_once() {
        let (name, is_plain, errors) = stored(parse_quote!(
            #[serde(default = "f", alias = "b", rename = "a")] #[serde(bound(serialize = "T"))] x: i64
        ));
        assert_eq!(
            (name.as_deref(), is_plain, errors.as_str()),
            (Some("a"), true, "")
        );
        let both = stored(parse_quote!(
            #[serde(rename(serialize = "a", deserialize = "a"))] x: i64
        ));
        assert_eq!((both.0.as_deref(), both.2.as_str()), (Some("a"), ""));
        let (.., errors) = stored(parse_quote!(#[serde(rename(serialize = "a"))] x: i64));
        assert!(errors.contains("a field has one name"), "{errors}");
        let (.., errors) = stored(parse_quote!(
            #[cfg_attr(unix, serde(rename = "a"))] x: i64
        ));
        assert!(errors.contains("depend on `cfg`"), "{errors}");
    }

    #[test]
    fn what_is_stored_otherwise_has_no_handle() {
        for field in [
            parse_quote!(#[serde(skip)] x: i64),
            parse_quote!(#[serde(flatten)] x: i64),
            parse_quote!(#[serde(with = "module")] x: i64),
        ] {
            assert!(!stored(field).1);
        }
        assert!(stored(parse_quote!(#[serde(skip_serializing_if = "f")] x: i64)).1);
    }

    #[test]
    fn containers_that_are_stored_as_another_type_are_refused() {
        let item: syn::ItemStruct = parse_quote!(
            #[serde(rename_all = "camelCase", into = "Other")]
            struct A;
        );
        let mut errors = Errors::default();
        let container = Container::read(&item.attrs, &mut errors);
        assert!(matches!(container.rename, Rename::Camel));
        assert!(
            errors
                .into_compile_errors()
                .to_string()
                .contains("with `into`")
        );
    }
}
