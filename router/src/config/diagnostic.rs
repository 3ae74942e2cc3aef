//! One problem of the configuration: where it is, what is wrong, and what to write instead. Shown as rustc shows its
//! own. A line of the file is shown only as far as it is known to be harmless: see [`mask`](super::mask).
use core::fmt::{self, Write as _};
use std::path::PathBuf;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// The configuration is refused.
    Error,
    /// It is taken, but a careful person would change it.
    Warning,
}

impl Severity {
    /// Its name, as it is printed.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Where in which text. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file, or the flag of the command line that set the value (`--listen`).
    pub(crate) source: PathBuf,
    /// The line; 0 where there is none (a flag, a file that cannot be read).
    pub(crate) line: usize,
    /// The column of the first character; 0 where there is no line.
    pub(crate) column: usize,
    /// How many characters are meant, on that line.
    pub(crate) width: usize,
    /// The line, or the part of a long one around the column, with every text masked that may be a secret.
    pub(crate) text: String,
    /// Where in `text` the column is: characters before it.
    pub(crate) caret: usize,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Diagnostic {
    /// How bad it is.
    pub(crate) severity: Severity,
    /// Where.
    pub(crate) place: Place,
    /// The key path, as `channels.telegram.token` or `keys[2].id`; empty for the file as a whole.
    pub(crate) path: String,
    /// What is wrong, in one line.
    pub(crate) message: String,
    /// What to write instead, or where to get it.
    pub(crate) help: String,
}

impl Place {
    /// A source without lines.
    #[must_use]
    pub(crate) fn whole(source: PathBuf) -> Self {
        Self { source, line: 0, column: 0, width: 0, text: String::new(), caret: 0 }
    }
}

/// As rustc shows its own: the line, a caret, what to do.
impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        let margin = " ".repeat(if place.line == 0 { 1 } else { place.line.to_string().len() });
        writeln!(out, "{}: {}", self.severity.name(), self.message)?;
        write!(out, "{margin}--> {}", place.source.display())?;
        if 0 < place.line {
            write!(out, ":{}:{}", place.line, place.column)?;
        }
        if !place.text.is_empty() {
            writeln!(out, "\n{margin} |\n{} | {}", place.line, place.text)?;
            write!(out, "{margin} | {}{}", " ".repeat(place.caret), "^".repeat(place.width.max(1)))?;
        }
        out.write_char('\n')?;
        if !self.path.is_empty() {
            writeln!(out, "{margin} = at: {}", self.path)?;
        }
        writeln!(out, "{margin} = help: {}", self.help)
    }
}
