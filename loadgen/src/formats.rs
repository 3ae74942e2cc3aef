//! The forms in which stored results are shown: a page for people, Markdown for a pull request, CSV for a spreadsheet,
//! JUnit for a CI system. Each is made from a folder's `result.json` and `latency.hlog` alone, so that what was measured
//! elsewhere, or a year ago, is shown in the same way.

mod charts;
mod fold;
mod html;
mod index;
mod junit;
mod read;
mod svg;
mod tables;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use html::{PAGE_BYTES_MAX, page};
pub use index::{index, read_all};
pub use junit::junit;
pub use read::{Run, Unreadable, is_result_schema};
pub use tables::{markdown, seconds_csv, times_csv};

/// Where each form goes; what has no place is not made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// The page.
    pub html: Option<PathBuf>,
    /// The Markdown table.
    pub markdown: Option<PathBuf>,
    /// A line a run and metric, with its percentiles.
    pub times: Option<PathBuf>,
    /// A line a run and second.
    pub seconds: Option<PathBuf>,
    /// For CI.
    pub junit: Option<PathBuf>,
}

impl Forms {
    /// All of them, in a folder, under the names that every run gives them.
    #[must_use]
    pub fn all_in(folder: &Path) -> Self {
        Self {
            html: Some(folder.join("report.html")),
            markdown: Some(folder.join("summary.md")),
            times: Some(folder.join("times.csv")),
            seconds: Some(folder.join("seconds.csv")),
            junit: Some(folder.join("junit.xml")),
        }
    }

    /// Whether none was asked for.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.html.is_none()
            && self.markdown.is_none()
            && self.times.is_none()
            && self.seconds.is_none()
            && self.junit.is_none()
    }

    /// Makes what is wanted of these runs.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, runs: &[Run]) -> io::Result<()> {
        put(self.html.as_deref(), || page(runs))?;
        put(self.markdown.as_deref(), || markdown(runs))?;
        put(self.times.as_deref(), || times_csv(runs))?;
        put(self.seconds.as_deref(), || seconds_csv(runs))?;
        put(self.junit.as_deref(), || junit(runs))
    }
}

fn put(path: Option<&Path>, text: impl FnOnce() -> String) -> io::Result<()> {
    let Some(path) = path else { return Ok(()) };
    fs::write(path, text())
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Nanoseconds in the unit in which they are easiest to read: `850 µs`, `4.2 ms`, `12 s`.
#[must_use]
pub fn time_text(nanos: f64) -> String {
    let (number, unit) = match nanos {
        nanos if nanos < 1e3 => (nanos, "ns"),
        nanos if nanos < 1e6 => (nanos / 1e3, "µs"),
        nanos if nanos < 1e9 => (nanos / 1e6, "ms"),
        nanos => (nanos / 1e9, "s"),
    };
    format!("{} {unit}", short(number))
}

/// A number with three digits that matter, and thousands apart.
#[must_use]
pub fn short(number: f64) -> String {
    let places = match number.abs() {
        size if 100.0 <= size => 0,
        size if 10.0 <= size => 1,
        size if 1.0 <= size => 2,
        0.0 => 0,
        _ => 3,
    };
    let text = format!("{number:.places$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at != 0 && digit.is_ascii_digit() && (whole.len() - at).is_multiple_of(3) && 4 < whole.len() {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// A text inside HTML or XML, also inside a quoted attribute. What XML cannot say at all is left out.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' => escaped.push(letter),
            letter if letter.is_control() => {}
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_short_and_have_their_unit() {
        let table = [
            (850.0, "850 ns"),
            (4_200.0, "4.2 µs"),
            (12_345_678.0, "12.3 ms"),
            (61e9, "61 s"),
            (0.0, "0 ns"),
        ];
        for (nanos, text) in table {
            assert_eq!(time_text(nanos), text);
        }
        let table = [(0.0, "0"), (0.12345, "0.123"), (7.0, "7"), (1234.0, "1234"), (12_345.0, "12,345")];
        for (number, text) in table {
            assert_eq!(short(number), text);
        }
        assert_eq!(short(1_234_567.0), "1,234,567");
    }

    #[test]
    fn what_a_page_would_take_for_markup_is_escaped() {
        assert_eq!(escape("<a b=\"c\">&\u{0}x\n"), "&lt;a b=&quot;c&quot;&gt;&amp;x\n");
    }
}
