//! Bad input to the whole process: whatever peers send, each gets its documented code, is counted, and disturbs nobody.
//! The process lives, its memory is bounded, and its log names no secret.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "hostile/agents.rs"]
mod agents;
#[path = "hostile/bodies.rs"]
mod bodies;
#[path = "hostile/crowds.rs"]
mod crowds;
#[path = "hostile/frames.rs"]
mod frames;
#[path = "hostile/heads.rs"]
mod heads;
#[path = "hostile/noise.rs"]
mod noise;
#[path = "peers/mod.rs"]
mod peers;
