//! One problem of the configuration: where it is, what is wrong, and what to write instead.
use core::fmt;
use std::path::PathBuf;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is taken, but a careful person would change it.
    Warning,
}

/// Where in which text. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, or the flag of the command line that set the value (`--listen`).
    pub source: PathBuf,
    /// The line; 0 where there is none (a flag, a file that cannot be read).
    pub line: usize,
    /// The column of the first character.
    pub column: usize,
    /// How many characters are meant, on that line.
    pub width: usize,
    /// The line itself, with every text masked that is not known to be harmless.
    pub text: String,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// The key path, as `channels.telegram.token` or `keys[2].id`; empty for the file as a whole.
    pub path: String,
    /// What is wrong, in one line.
    pub message: String,
    /// What to write instead, or where to get it.
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}
