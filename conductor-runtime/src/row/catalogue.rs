use conductor_core::nearest;
use conductor_postgres::Database;
use conductor_postgres::store::tables;
use serde_json::Value;
use sqlx::postgres::types::Oid;

use super::TableName;

/// A table in the database's catalogue.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) oid: Oid,
    /// The table with its schema, quoted if necessary.
    pub(crate) name: String,
    columns: Vec<String>,
}

/// A cache of table lookups.
#[derive(Debug)]
pub(crate) struct Catalogue<'p> {
    database: &'p Database,
    found: Vec<(String, Result<Table, String>)>,
}

impl<'p> Catalogue<'p> {
    pub(crate) fn new(database: &'p Database) -> Self {
        Self {
            database,
            found: Vec::new(),
        }
    }

    /// Returns the table of this name, or why its rows cannot be listened to.
    pub(crate) async fn table(&mut self, name: &str) -> Result<Result<Table, String>, sqlx::Error> {
        if let Some((_, found)) = self.found.iter().find(|(looked_up, _)| looked_up == name) {
            return Ok(found.clone());
        }
        let found = self.look_up(name).await?;
        self.found.push((name.to_owned(), found.clone()));
        Ok(found)
    }

    async fn look_up(&self, text: &str) -> Result<Result<Table, String>, sqlx::Error> {
        let name = match TableName::parse(text) {
            Ok(name) => name,
            Err(reason) => return Ok(Err(format!("{text:?} is no table's name: {reason}"))),
        };
        // Each part of the name is tried as SQL reads it, then as it is written.
        let found = tables::find(self.database, name.schemas(), name.names()).await?;
        let Some(found) = found else {
            return Ok(Err(format!(
                "there is no table {name}{}",
                self.hint(&name).await?
            )));
        };
        let refused = match found.kind.as_str() {
            _ if found.is_system => Some("belongs to the system"),
            _ if found.is_temporary => Some("is temporary"),
            "v" => Some("is a view"),
            "m" => Some("is a materialized view"),
            "f" => Some("is a foreign table"),
            _ => None,
        };
        Ok(match refused {
            Some(why) => Err(format!(
                "{} {why}, and its rows cannot be listened to; name an ordinary or partitioned table",
                found.name
            )),
            None => Ok(Table {
                oid: found.oid,
                name: found.name,
                columns: found.columns,
            }),
        })
    }

    /// Returns a suggestion of the table that was probably meant.
    async fn hint(&self, name: &TableName) -> Result<String, sqlx::Error> {
        let tables = tables::names(self.database).await?;
        let written = name.names();
        let written = written.first().map_or("", String::as_str);
        let near = nearest(written, tables.iter().map(|(table, _)| table.as_str()));
        let near = tables
            .iter()
            .find(|(table, _)| Some(table.as_str()) == near);
        Ok(near.map_or_else(String::new, |(_, full)| format!("; did you mean {full}?")))
    }
}

impl Table {
    /// Returns why a column cannot be read, or `None` if it exists.
    pub(crate) fn column_fault(&self, column: &str, wanted_by: &str) -> Option<String> {
        if self.columns.iter().any(|known| known == column) {
            return None;
        }
        let hint = match nearest(column, self.columns.iter().map(String::as_str)) {
            Some(near) => format!("; did you mean {near:?}?"),
            None => format!("; it has {}", self.columns.join(", ")),
        };
        Some(format!(
            "the table {} has no column {column:?}, which {wanted_by}{hint}",
            self.name
        ))
    }
}

/// Returns the columns that a struct reads: the properties of its JSON Schema.
pub(crate) fn columns_of(schema: &Value) -> Result<Vec<String>, String> {
    let is_object = schema.get("type").is_some_and(|kind| kind == "object");
    match schema.get("properties").and_then(Value::as_object) {
        Some(properties) => Ok(properties.keys().cloned().collect()),
        None if is_object && schema.get("oneOf").is_none() && schema.get("anyOf").is_none() => {
            Ok(Vec::new())
        }
        None => Err("is no struct with named fields, each of which is a column".to_owned()),
    }
}
