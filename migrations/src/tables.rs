use crate::checksum;

/// One file of `tables/`.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Its number. Migrations are applied in the order of their numbers.
    pub id: i32,
    /// What it brings, in one word.
    pub name: &'static str,
    /// If true, programs that do not know this migration must not work on the schema any more: they are told to
    /// end before it is applied. If false, they go on working.
    pub breaking: bool,
    /// The statements.
    pub sql: &'static str,
}

macro_rules! migrations {
    ($($id:literal $name:literal $kind:ident $file:literal)*) => {
        &[$(Migration {
            id: $id,
            name: $name,
            breaking: migrations!(@ $kind),
            sql: include_str!(concat!("../tables/", $file)),
        }),*]
    };
    (@ breaking) => { true };
    (@ compatible) => { false };
}

impl Migration {
    /// All migrations, in order.
    pub const ALL: &'static [Self] = migrations! {
        1 "queue" breaking "001_queue.sql"
        2 "limits" breaking "002_limits.sql"
        3 "events" breaking "003_events.sql"
        4 "rows" breaking "004_rows.sql"
    };

    /// The MD5 of its statements, in hexadecimal. It is stored beside the number, so that an edited migration is found.
    pub fn checksum(&self) -> String {
        checksum([self.sql])
    }
}

#[cfg(test)]
mod tests {
    use super::Migration;

    #[test]
    fn numbers_grow_by_one_and_each_file_is_listed() {
        let numbers: Vec<i32> = Migration::ALL
            .iter()
            .map(|migration| migration.id)
            .collect();
        assert_eq!(numbers, (1..=numbers.len() as i32).collect::<Vec<_>>());
        assert_eq!(crate::functions::tests::files("tables"), numbers.len());
    }

    #[test]
    fn a_checksum_is_what_postgres_computes() {
        let migration = Migration {
            id: 1,
            name: "x",
            breaking: true,
            sql: "select 1",
        };
        assert_eq!(migration.checksum(), "95adb6e77a0884d9e50232cb8c5c969d");
    }
}
