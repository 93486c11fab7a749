//! What compiles, and what the mistakes say. `TRYBUILD=overwrite` writes the `.stderr` files anew.

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}
