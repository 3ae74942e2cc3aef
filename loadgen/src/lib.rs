//! Open-loop load for a chat gateway, simulators of what it talks to, and an exact account of every message.
//!
//! A client's eye and nothing else: of the gateway's own code only the wire formats are used, as a black box. `run` is
//! where a run happens; `schedule` says when, `protocol` what is sent, `ledger` what became of it, `measure` how long it
//! took, `verdict` whether that means anything, `report` how it is told. Only `driver` names the runtime, and only it and
//! `sys` call the system unsafely.

pub mod abuse;
mod answer;
pub mod arrivals;
pub mod capacity;
pub mod cli;
pub mod compare;
pub mod crash;
pub mod doctor;
pub mod driver;
pub mod formats;
pub mod gauges;
pub mod hazards;
pub mod host;
pub mod ledger;
pub mod measure;
pub mod mock;
pub mod pipe;
pub mod plan;
pub mod preflight;
pub mod protocol;
pub mod record;
pub mod report;
pub mod rng;
pub mod run;
pub mod scan;
pub mod scenario;
pub mod schedule;
pub mod search;
pub mod self_test;
pub mod slo;
pub mod stamp;
pub mod stats;
pub mod steady;
pub mod sys;
pub mod verdict;
pub mod view;
pub mod zipf;
