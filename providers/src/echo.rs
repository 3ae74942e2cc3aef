//! The model that says what it was told: for trying things out, and for measuring the gateway without a model.
use crate::Said;
use clawgate_core::event::{End, Piece, Stop};

/// An echo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// Word by word, as a model streams, instead of in one piece.
    pub by_words: bool,
}

impl Echo {
    /// Says it, at once: the pieces, then the end.
    pub fn say(&self, text: &str, sink: &mut dyn FnMut(Said<'_>)) {
        if self.by_words {
            text.split_inclusive(char::is_whitespace).for_each(|word| sink(Said::Piece(Piece::Text(word))));
        } else if !text.is_empty() {
            sink(Said::Piece(Piece::Text(text)));
        }
        sink(Said::Ended(End::Finished(Stop::Complete)));
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
