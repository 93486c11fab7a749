//! What the mistakes say. `TRYBUILD=overwrite` writes the `.stderr` files anew.

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/fail/*.rs");
}
