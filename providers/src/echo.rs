//! The model that says what it was told: for trying things out, and for measuring the gateway without a model.
use crate::{End, Said, Stop};
use clawgate_core::event::Piece;

/// An echo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// Word by word, as a model streams, instead of in one piece.
    pub by_words: bool,
}

impl Echo {
    /// Says it, at once: the pieces, then the end.
    pub fn say(&self, text: &str, sink: &mut dyn FnMut(Said<'_>)) {
        self.steps(text).for_each(sink);
    }

    /// The same one by one: what a long text becomes need not be said at once.
    pub fn steps<'a>(&self, text: &'a str) -> impl Iterator<Item = Said<'a>> + use<'a> {
        let by_words = self.by_words;
        let pieces = text.split_inclusive(move |c: char| by_words && c.is_whitespace());
        let end = Said::Ended(End::Finished(Stop::Complete));
        pieces.map(|piece| Said::Piece(Piece::Text(piece))).chain(core::iter::once(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(by_words: bool, text: &str) -> Vec<String> {
        let mut pieces = Vec::new();
        let mut ended = 0;
        Echo { by_words }.say(text, &mut |said| {
            if let Said::Piece(Piece::Text(text)) = said {
                pieces.push(text.to_owned());
            } else {
                assert_eq!(said, Said::Ended(End::Finished(Stop::Complete)));
                ended += 1;
            }
        });
        assert_eq!(ended, 1);
        pieces
    }

    #[test]
    fn it_says_what_it_was_told() {
        assert_eq!(said(false, "a b\nc"), ["a b\nc"]);
        assert_eq!(said(true, "a b\nc  d"), ["a ", "b\n", "c ", " ", "d"]);
        assert!(said(false, "").is_empty() && said(true, "").is_empty());
        let text = " 你好\u{2003}😀\t\tx ";
        assert_eq!(said(true, text).concat(), text);
    }
}
