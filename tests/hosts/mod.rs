//! Workers on several hosts, and cuts between one of them and the database.
//!
//! The hosts are network namespaces, for which this needs root and the program `ip` (iproute2), which
//! .ci/run installs where it can; without them these tests say so and pass.

mod cuts;
mod network;
mod scene;
mod shares;
mod tasks;
