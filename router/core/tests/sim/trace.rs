//! What happened, twice: folded into one hash (two runs of a seed must agree on it), and the last lines as text.
//!
//! Every event handed in and every effect that came back is a line. With `SIM_TRACE` lines are printed as they come.
#![allow(clippy::print_stderr, reason = "SIM_TRACE asks for exactly this")]
use std::fmt::{self, Write as _};

/// Lines kept for the message of a failure.
const KEPT: usize = 160;

/// The hash of all lines and the text of the last.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: Vec<String>,
    count: usize,
    echo: bool,
}

impl Trace {
    pub(crate) fn new(echo: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: vec![String::new(); KEPT], count: 0, echo }
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, args: fmt::Arguments<'_>) {
        let line = &mut self.lines[self.count % KEPT];
        line.clear();
        // Writing into a String cannot fail.
        let _ = line.write_fmt(args);
        for eight in line.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..eight.len()].copy_from_slice(eight);
            self.hash =
                (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        if self.echo {
            eprintln!("{line}");
        }
        self.count += 1;
    }

    /// All lines so far in one number.
    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines, oldest first.
    pub(crate) fn tail(&self) -> String {
        let kept = self.count.min(KEPT);
        let mut out = String::new();
        for n in self.count - kept..self.count {
            let _ = writeln!(out, "  {}", self.lines[n % KEPT]);
        }
        out
    }
}
