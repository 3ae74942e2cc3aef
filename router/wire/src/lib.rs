//! Bytes to frames and back: HTTP/1.1 (RFC 9112), WebSocket (RFC 6455), server-sent events (WHATWG), JSON strings.
//!
//! Knows no session and no platform, no socket and no clock. Every decoder is a total function over a peer's bytes: it
//! never panics on them, never buffers them (what it hands out is borrowed from the caller's buffer), and answers
//! "more bytes", an item, or a typed refusal. Writers append to the caller's `Vec` and allocate nowhere else.
//!
//! All decoders are driven alike: everything that a read brought is handled before the next one, and what is left over
//! stays in front of what the next one brings.
//! ```
//! use clawgate_wire::websocket::{Decoder, Item, Role, Step};
//!
//! let mut decoder = Decoder::new(Role::Client, 65_536);
//! let mut buf = *b"\x81\x05hello\x89\x00\x81";
//! let mut at = 0;
//! let mut said = Vec::new();
//! let missing = loop {
//!     match decoder.decode(&mut buf[at..])? {
//!         Step::Frame { consumed, item } => {
//!             if let Item::Text(text) = item {
//!                 said.extend_from_slice(text);
//!             }
//!             at += consumed;
//!         }
//!         Step::NeedMore(missing) => break missing,
//!     }
//! };
//! assert_eq!((said.as_slice(), at, missing), (&b"hello"[..], 9, 1));
//! # Ok::<(), clawgate_wire::websocket::Violation>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod http1;
pub mod json;
pub mod sse;
pub mod websocket;
