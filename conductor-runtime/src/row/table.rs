use std::fmt;

/// A table's name as written in code: `users`, `public.users`, `"Odd Schema"."Weird ""Table"""`.
///
/// A part without quotes is read in lower case, as in SQL, and, if there is no such table, as it is written:
/// `public.Users` finds a table that was created as `"Users"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableName {
    schema: Option<Part>,
    name: Part,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    text: String,
    quoted: bool,
}

impl Part {
    /// Returns what it can mean, the likelier first.
    fn candidates(&self) -> Vec<String> {
        let lower = self.text.to_lowercase();
        if self.quoted || lower == self.text {
            vec![self.text.clone()]
        } else {
            vec![lower, self.text.clone()]
        }
    }
}

impl TableName {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let (part, after) = part(rest)?;
            parts.push(part);
            match after.strip_prefix('.') {
                Some(after) => rest = after,
                None if after.is_empty() => break,
                None => {
                    return Err(format!(
                        "{after:?} follows a quoted name, where only a dot may"
                    ));
                }
            }
        }
        let name = parts.pop();
        match (name, parts.pop(), parts.is_empty()) {
            (Some(name), schema, true) => Ok(Self { schema, name }),
            _ => Err("a table is named `table` or `schema.table`; a name with a dot is quoted, as in `public.\"a.b\"`".to_owned()),
        }
    }

    /// Returns the schemas that it can mean; `None` if no schema is written, which means `public`.
    pub(crate) fn schemas(&self) -> Option<Vec<String>> {
        self.schema.as_ref().map(Part::candidates)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.name.candidates()
    }

    /// Returns whether it can mean the table that has exactly this name.
    pub(crate) fn may_be(&self, exact: &Self) -> bool {
        let public = || vec!["public".to_owned()];
        let schema = exact.schema.as_ref().map_or("public", |part| &part.text);
        self.names().contains(&exact.name.text)
            && self
                .schemas()
                .unwrap_or_else(public)
                .iter()
                .any(|name| name == schema)
    }
}

/// Splits the first part from the rest of a name.
fn part(text: &str) -> Result<(Part, &str), String> {
    if text.contains('\0') {
        return Err("it contains the character U+0000".to_owned());
    }
    let (part, after) = match text.strip_prefix('"') {
        None => {
            let end = text.find('.').unwrap_or(text.len());
            let (plain, after) = text.split_at(end);
            if plain.contains('"') {
                return Err(format!(
                    "the part {plain:?} has a quote inside; quote all of it"
                ));
            }
            let part = Part {
                text: plain.to_owned(),
                quoted: false,
            };
            (part, after)
        }
        Some(quoted) => {
            let mut name = String::new();
            let mut rest = quoted;
            loop {
                let Some(end) = rest.find('"') else {
                    return Err("a quote is not closed".to_owned());
                };
                name.push_str(&rest[..end]);
                rest = &rest[end + 1..];
                match rest.strip_prefix('"') {
                    Some(more) => {
                        name.push('"');
                        rest = more;
                    }
                    None => break,
                }
            }
            let part = Part {
                text: name,
                quoted: true,
            };
            (part, rest)
        }
    };
    if part.text.is_empty() {
        return Err("a part of it is empty".to_owned());
    }
    Ok((part, after))
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", schema.text)?;
        }
        f.write_str(&self.name.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_read_as_sql_reads_them_and_as_they_are_written() {
        let name = TableName::parse("users").unwrap();
        assert_eq!(
            (name.schemas(), name.names()),
            (None, vec!["users".to_owned()])
        );
        let name = TableName::parse("Public.Users").unwrap();
        assert_eq!(name.schemas().unwrap(), ["public", "Public"]);
        assert_eq!(name.names(), ["users", "Users"]);
        let name = TableName::parse(r#"public."Weird ""T"".x""#).unwrap();
        assert_eq!(name.names(), [r#"Weird "T".x"#]);
        assert_eq!(TableName::parse("a b").unwrap().names(), ["a b"]);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "", ".", "a.", ".a", "a.b.c", "\"a", "\"a\"b", "a\"b", "\"\"", "a\0",
        ] {
            assert!(TableName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_meets_the_table_that_it_means() {
        let meets = |name: &str, exact: &str| {
            TableName::parse(name)
                .unwrap()
                .may_be(&TableName::parse(exact).unwrap())
        };
        assert!(meets("users", "public.users"));
        assert!(meets("PUBLIC.Users", "public.\"Users\""));
        assert!(!meets("users", "other.users"));
        assert!(!meets("\"Users\"", "public.users"));
    }
}
