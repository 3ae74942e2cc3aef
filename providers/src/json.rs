//! Reads the JSON of a response through simd-json's tape, in memory that is reused.
//!
//! Owns the parser's memory of one thread. Never builds a tree, never copies a string. The size of a document is bounded by
//! the caller's buffer, its depth here.
use core::fmt;
use simd_json::{Buffers, tape};

/// Arrays and objects inside one another. No wire format here has more than ten.
const DEPTH_MAX: usize = 64;
/// Documents up to this size leave their memory to the next one; that of larger ones is given back.
const RETAINED_BYTES_MAX: usize = 64 * 1024;

/// Reused parser memory of one thread.
pub struct Json {
    buffers: Buffers,
    nodes: tape::Tape<'static>,
}

impl fmt::Debug for Json {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Json")
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::new()
    }
}

impl Json {
    /// A parser with no memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self { buffers: Buffers::with_max_depth(0, DEPTH_MAX), nodes: tape::Tape(Vec::new()) }
    }

    /// Parses one document and reads it; `None` if it is no JSON. `bytes` is scratch afterwards.
    pub(crate) fn read<R>(
        &mut self,
        bytes: &mut [u8],
        read: impl FnOnce(tape::Value<'_, '_>) -> R,
    ) -> Option<R> {
        let large = RETAINED_BYTES_MAX < bytes.len();
        let mut nodes = core::mem::replace(&mut self.nodes, tape::Tape(Vec::new())).reset();
        let parsed = simd_json::fill_tape(bytes, &mut self.buffers, &mut nodes);
        let answer = parsed.ok().map(|()| read(nodes.as_value()));
        if large {
            *self = Self::new();
        } else {
            self.nodes = nodes.reset();
        }
        answer
    }
}
