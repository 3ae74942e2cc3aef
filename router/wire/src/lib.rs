//! Bytes to frames and back: HTTP/1.1 (RFC 9112), WebSocket (RFC 6455), server-sent events (WHATWG), JSON strings.
//!
//! Knows no session and no platform, no socket and no clock. Every decoder is a total function over a peer's bytes: it
//! never panics on them, never buffers them (what it hands out is borrowed from the caller's buffer), and answers
//! "more bytes", an item, or a typed refusal. Writers append to the caller's `Vec` and allocate nowhere else.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod http1;
pub mod json;
pub mod sse;
pub mod websocket;
