//! The shard: events in, effects out. Knows no byte of any protocol, no clock, no socket.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
