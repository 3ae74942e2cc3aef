//! Text that comes in pieces: tells bad UTF-8 at the first byte that cannot be mended. RFC 3629. Keeps the at most three
//! bytes of a character that a piece ended in.

/// Bytes that no continuation makes valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadUtf8;

/// Checks the pieces of one text, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Utf8 {
    /// The start of a character whose end has not come.
    partial: [u8; 3],
    partial_bytes: u8,
}

impl Utf8 {
    /// Nothing seen yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { partial: [0; 3], partial_bytes: 0 }
    }

    /// Checks the next piece, and tells whether the text could end here.
    ///
    /// # Errors
    /// [`BadUtf8`] if no bytes that may follow make the text valid.
    pub fn feed(&mut self, piece: &[u8]) -> Result<bool, BadUtf8> {
        let rest = self.complete_partial(piece)?;
        match simdutf8::compat::from_utf8(rest) {
            Ok(_) => {}
            Err(error) if error.error_len().is_some() => return Err(BadUtf8),
            Err(error) => self.keep(rest.get(error.valid_up_to()..).unwrap_or(&[])),
        }
        Ok(self.partial_bytes == 0)
    }

    /// Takes as many bytes as the character that the last piece ended in still needs; the rest of the piece is left.
    fn complete_partial<'p>(&mut self, piece: &'p [u8]) -> Result<&'p [u8], BadUtf8> {
        let mut rest = piece;
        while self.partial_bytes > 0 {
            let Some((byte, after)) = rest.split_first() else { break };
            rest = after;
            let [a, b, c] = self.partial;
            let mut character = [a, b, c, 0];
            let bytes = usize::from(self.partial_bytes);
            if let Some(place) = character.get_mut(bytes) {
                *place = *byte;
            }
            let character = character.get(..=bytes).unwrap_or(&[]);
            match core::str::from_utf8(character) {
                Ok(_) => self.partial_bytes = 0,
                Err(error) if error.error_len().is_some() => return Err(BadUtf8),
                Err(_) => self.keep(character),
            }
        }
        Ok(rest)
    }

    fn keep(&mut self, start: &[u8]) {
        debug_assert!(start.len() <= 3, "the start of a character has at most three bytes");
        for (place, byte) in self.partial.iter_mut().zip(start) {
            *place = *byte;
        }
        self.partial_bytes = start.len().min(3) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails at the very byte that std's check of the text so far calls an error, and not before.
    fn check(text: &[u8], cuts: [usize; 2]) {
        let mut utf8 = Utf8::new();
        let pieces = [0..cuts[0], cuts[0]..cuts[1], cuts[1]..text.len()];
        for piece in pieces {
            let so_far = core::str::from_utf8(&text[..piece.end]);
            let expected = match so_far {
                Ok(_) => Ok(true),
                Err(error) if error.error_len().is_none() => Ok(false),
                Err(_) => Err(BadUtf8),
            };
            let found = utf8.feed(&text[piece]);
            assert_eq!(found, expected, "{text:x?} cut at {cuts:?}");
            if found.is_err() {
                return;
            }
        }
    }

    #[test]
    fn pieces_are_checked_as_the_whole_is() {
        let texts: [&[u8]; 14] = [
            "aé€😀z".as_bytes(),
            "κόσμε".as_bytes(),
            b"",
            b"plain ascii that is longer than a vector of sixty-four bytes, so that the fast path is taken.",
            b"\xF4\x8F\xBF\xBF",
            b"\xF4\x90\x80\x80",
            b"\xED\x9F\xBF\xEE\x80\x80",
            b"\xED\xA0\x80",
            b"\xC0\xAF",
            b"\xE0\x80\xAF",
            b"\xF0\x80\x80\xAF",
            b"a\xE2\x82",
            b"\x80",
            b"\xF5\x80\x80\x80",
        ];
        for text in texts {
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    check(text, [first, second]);
                }
            }
        }
    }
}
