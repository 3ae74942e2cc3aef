//! The shard: events in, effects out. Knows no byte of any protocol, no clock, no socket, no thread.
//!
//! [`shard::Shard::handle`] and [`shard::Shard::tick`] are the only ways in. Time is an argument, randomness a seed.
//! Start at [`event`] and [`effect`]: they are the contract with the shell.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::std_instead_of_core, clippy::alloc_instead_of_core)]
extern crate alloc;

mod admit;
pub mod bounds;
pub mod breaker;
pub mod bucket;
mod call;
mod check;
pub mod codes;
pub mod counters;
mod dedup;
mod deliver;
mod dispatch;
pub mod effect;
pub mod event;
mod history;
pub mod home;
pub mod id;
mod index;
pub mod limits;
mod list;
mod operate;
mod places;
pub mod plan;
mod policy;
pub mod queue;
mod random;
pub mod route;
mod session;
mod settle;
pub mod shard;
mod slots;
pub mod split;
pub mod stage;
#[cfg(test)]
mod tests;
mod texts;
pub mod time;
pub mod timers;
mod turn;
pub mod view;
