//! Names and payloads that would be SQL, JSON, patterns or paths elsewhere are nothing but texts here.
//! More of tasks' names: tests/names.rs; of queues': tests/queues.rs; of tables that a program's code
//! names: tests/row_changes/security.rs.

mod calls;
mod functions;
mod story;

/// Each short enough for the name of a table.
const NAMES: &[&str] = &[
    "x\"; drop table conductor.tasks; --",
    "x'; drop table conductor.tasks; --",
    "x'); drop schema conductor cascade; --",
    "x\\'; drop table conductor.steps; --",
    "a'b",
    "a\"b\"\"c",
    "{}",
    "{a,\"b\",NULL}",
    "[1]",
    "$1",
    "$$ $q$ :name",
    "%I %L %s %1$s %%",
    "100%",
    "back\\slash\\n\\",
    "Größe 名前 🦀",
    "MiXed Case",
    "mixed case",
    "a::text",
    "null",
    "42",
    "a,b(c)",
    "public.tasks",
    "; --",
    "/*",
    "two  spaces",
    "\u{202e}right to left\u{feff}",
];
