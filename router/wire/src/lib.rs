//! Bytes to frames and back. Knows no session and no platform; never panics on a peer's bytes, never buffers.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
