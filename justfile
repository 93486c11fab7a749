# The commands of a developer's day; `just` lists them.

default:
    @just --list

# Everything that CI checks.
ci:
    bash .ci/run

# All tests, on an embedded Postgres.
test *ARGS:
    cargo test --workspace {{ARGS}}

# The suite on the Postgres that PyPI has, instead of the installed one.
test-newest:
    CONDUCTOR_EMBEDDED_BINARIES=wheel cargo test -p conductor --test suite

lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings

# Figures: `just bench drain latency`.
bench *SCENARIOS:
    cargo run --release -p conductor-bench -- {{SCENARIOS}}

docs:
    cargo doc --no-deps --open
