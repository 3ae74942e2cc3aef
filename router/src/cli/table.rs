//! Columns for people to read.

/// Rows whose columns are as wide as they need.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With this line above all, unless it is empty.
    pub(super) fn new(head: &[&str]) -> Self {
        let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
        Self { rows: if head.is_empty() { Vec::new() } else { vec![head] } }
    }

    /// Adds a row.
    pub(super) fn add(&mut self, row: impl IntoIterator<Item = String>) {
        self.rows.push(row.into_iter().map(|cell| harmless(&cell, false)).collect());
    }

    /// All of it.
    pub(super) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// What a stranger wrote must not steer the terminal; a text of several lines keeps them.
pub(super) fn harmless(text: &str, lines: bool) -> String {
    let shown = |char: char| if char.is_control() && !(lines && char == '\n') { '\u{fffd}' } else { char };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_harmless() {
        let mut table = Table::new(&["ID", "FROM"]);
        table.add(["1".to_owned(), "ann".to_owned()]);
        table.add(["1234".to_owned(), "\u{1b}[2Jbob\n".to_owned()]);
        assert_eq!(table.text(), "ID    FROM\n1     ann\n1234  \u{fffd}[2Jbob\u{fffd}\n");
        assert_eq!(Table::new(&[]).text(), "");
        assert_eq!(harmless("a\nb\tc", true), "a\nb\u{fffd}c");
    }
}
