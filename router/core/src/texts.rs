//! Buffers for what outlives a turn of the loop: taken by turns, handed back, used again. In the steady state nothing
//! is allocated for a message.
use alloc::string::String;
use alloc::vec::Vec;

/// Buffers kept for the next turns.
const KEPT_MAX: usize = 1_024;
/// Bytes that a kept buffer may have; larger ones are given back to the system.
const KEPT_BYTES_MAX: usize = 16 * 1_024;
/// Bytes that all kept buffers may have together.
const POOL_BYTES_MAX: usize = 2 * 1_024 * 1_024;

/// A pool of buffers.
#[derive(Debug)]
pub(crate) struct Texts {
    kept: Vec<String>,
    bytes: usize,
}

impl Texts {
    pub(crate) const fn new() -> Self {
        Self { kept: Vec::new(), bytes: 0 }
    }

    /// An empty buffer.
    pub(crate) fn take(&mut self) -> String {
        let text = self.kept.pop().unwrap_or_default();
        self.bytes -= text.capacity();
        text
    }

    /// Hands a buffer back.
    #[inline]
    pub(crate) fn give(&mut self, text: String) {
        if 0 < text.capacity() {
            self.keep(text);
        }
    }

    fn keep(&mut self, mut text: String) {
        let room = self.kept.len() < KEPT_MAX && self.bytes + text.capacity() <= POOL_BYTES_MAX;
        if room && text.capacity() <= KEPT_BYTES_MAX {
            text.clear();
            self.bytes += text.capacity();
            self.kept.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_empty_and_not_too_large() {
        let mut texts = Texts::new();
        let mut text = texts.take();
        text.push_str("what was said");
        let capacity = text.capacity();
        texts.give(text);
        let again = texts.take();
        assert_eq!((again.as_str(), again.capacity()), ("", capacity));
        texts.give(String::with_capacity(KEPT_BYTES_MAX + 1));
        assert_eq!(texts.take().capacity(), 0);
        for _ in 0..KEPT_MAX {
            texts.give(String::with_capacity(KEPT_BYTES_MAX));
        }
        assert_eq!(texts.bytes, POOL_BYTES_MAX);
    }
}
