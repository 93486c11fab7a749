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
    CONDUCTOR_EMBEDDED_BINARIES=wheel cargo test --workspace --test suite

# What is too large for each change: the tests with all their rows, many random programs, a storm of 20 minutes.
nightly:
    CONDUCTOR_NIGHTLY=1 MODEL_CASES=60 cargo test --workspace
    CONDUCTOR_EMBEDDED_BINARIES=wheel cargo test --workspace --test suite
    just chaos 20

# A storm of kills, stops, restarts and cuts for so many minutes; CHAOS_SEED repeats one.
chaos MINUTES="20":
    CHAOS_SECONDS=$(({{MINUTES}} * 60)) cargo test --workspace --test operations chaos:: -- --nocapture

lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings

# Figures: `just bench drain latency`.
bench *SCENARIOS:
    cargo run --release -p conductor-bench -- {{SCENARIOS}}

docs:
    cargo doc --no-deps --open
