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
