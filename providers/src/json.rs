//! Memory of one thread in which texts with escapes are read.
use core::fmt;

/// Memory up to this size is kept for the next text; that of larger ones is given back.
const RETAINED_BYTES_MAX: usize = 64 * 1024;

/// Reused memory of one thread.
#[derive(Default)]
pub struct Json {
    scratch: String,
}

impl fmt::Debug for Json {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Json")
    }
}

impl Json {
    /// With no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { scratch: String::new() }
    }

    /// The memory, for one use.
    pub(crate) fn scratch(&mut self) -> &mut String {
        if RETAINED_BYTES_MAX < self.scratch.capacity() {
            self.scratch = String::new();
        }
        &mut self.scratch
    }
}
