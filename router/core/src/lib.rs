//! The shard: events in, effects out. Knows no byte of any protocol, no clock, no socket, no thread.
//!
//! [`shard::Shard::handle`] and [`shard::Shard::tick`] are the only ways in. Time is an argument, randomness a seed.
//! Start at [`event`] and [`effect`]: they are the contract with the shell.
//!
//! # A message's way
//! [`event::Event::Inbound`] → `admit` (shape, repetition, `policy`, session, [`route`], room; each a
//! [`stage::Stage`]; [`overload`] says whether many wait already, [`while_running`] what it does to a turn of its session
//! that runs; where memory cannot tell whether it is a repetition, it waits for the store's word in `lookup`) → `dispatch`
//! (places at the agent and the model, or the [`queue`]) → `call` (pieces, clocks, retries, the [`breaker`]; `round` where
//! its model is asked once more with what its tools said) → `deliver` (parts for a platform, see [`split`]) → `settle`.
//!
//! A turn is *waiting* behind another of its session, *ready* for its places, *running*, *backing off*, or being
//! *delivered*; it leads back only from backing off to ready. It has one timer, and is settled once, in `settle`.
//!
//! # Where things are
//! | | |
//! |---|---|
//! | what a shard keeps | `session`, `history`, `turn`, `places` (agents, models, channels by name), `dedup`, `filter` |
//! | what it is made of | `slots`, `list`, `index`, `texts`, `random`, [`timers`] |
//! | what all shards share | [`bounds`] (limits over the process), `quota`, [`bucket`] (rates), [`plan`] (read only) |
//! | what the shell reads | [`view`], [`counters`], [`home`] (which shard a conversation lives on) |
//! | what must hold | `check`, after each event in debug builds |
//!
//! # What is not here
//! No recursion: handlers mark what changed, and the end of the event serves it. No lock: shards share only the atomic
//! words of [`bounds`], [`bucket`] and [`outlets`]. No allocation for a message once a shard is warm, unless it begins a
//! session or is kept in a history. No collection grows without a limit from [`limits`].
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::std_instead_of_core, clippy::alloc_instead_of_core)]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod admit;
pub mod bounds;
pub mod breaker;
pub mod bucket;
mod call;
mod check;
mod closed;
pub mod codes;
pub mod counters;
pub mod criteria;
pub mod dedup;
mod deliver;
mod dispatch;
pub mod effect;
pub mod event;
mod filter;
mod history;
pub mod home;
pub mod id;
mod index;
pub mod journal;
mod kept;
pub mod limits;
pub mod links;
mod list;
mod load;
pub mod log;
mod lookup;
mod operate;
pub mod outlets;
pub mod overload;
pub mod past;
mod places;
pub mod plan;
mod policy;
pub mod preview;
pub mod queue;
mod quota;
mod random;
pub mod record;
mod restore;
mod round;
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
pub mod while_running;
mod write;
