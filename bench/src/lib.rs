//! What the gateway costs, and what to hold that against: named hot paths over the pure packages, counted exactly and
//! timed, the floors, and the runs of the whole gateway that become figures.
//!
//! Owns the inputs, so that two runs work on the same bytes. Never judges by an absolute time: exact are the counts
//! (`bin/count.rs`), of times only what two servers did in turns. `README.md` beside this says how to run and to read.

pub mod allocations;
pub mod counts;
pub mod figures;
pub mod floor;
pub mod inputs;
pub mod paths;
