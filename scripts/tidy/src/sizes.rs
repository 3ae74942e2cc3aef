//! Sizes: a function fits a screen, an adapter fits 200 lines, a line fits its columns.
//!
//! A limit here never outranks clarity: it can be raised for one place in `allow.toml`, with the reason.
use crate::finding::Finding;
use crate::source::Source;
use crate::tree::Tree;

/// Lines of a function, from `fn` to its brace.
pub const FUNCTION_LINES_MAX: usize = 70;
/// Lines of code of an adapter; comments, blank lines and tests apart.
pub const ADAPTER_LINES_MAX: usize = 200;
/// Columns of code; rustfmt's `max_width` says the same.
pub const CODE_COLUMNS_MAX: usize = 110;
/// Columns of a line that ends in a comment.
pub const COMMENT_COLUMNS_MAX: usize = 125;

/// Functions longer than a screen. Those of tests may be longer: a table of cases is data.
#[must_use]
pub fn functions(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in &tree.sources {
        let long = |lines: usize| FUNCTION_LINES_MAX < lines;
        for function in
            source.functions().into_iter().filter(|function| !function.test && long(function.lines))
        {
            let text =
                format!("{} lines, more than {FUNCTION_LINES_MAX}: give its parts names", function.lines);
            let finding = Finding::new("function-lines", &source.path, function.line, &function.name, text);
            found.push(finding.of_size(function.lines));
        }
    }
    found
}

/// Adapters with more code than an adapter has.
#[must_use]
pub fn adapters(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in tree.sources.iter().filter(|source| source.path.starts_with("adapters/src/")) {
        let lines = source.code_lines();
        if ADAPTER_LINES_MAX < lines {
            let text = format!(
                "{lines} lines of code, more than {ADAPTER_LINES_MAX}: what all platforms share belongs into the core, \
                 a platform's cryptography or cards into a second file"
            );
            found.push(Finding::new("adapter-lines", &source.path, 0, "file", text).of_size(lines));
        }
    }
    found
}

/// Lines that are wider than a screen. What a text makes wide is left alone: breaking it would hide it from a search.
#[must_use]
pub fn columns(tree: &Tree) -> Vec<Finding> {
    tree.sources.iter().flat_map(columns_of).collect()
}

fn columns_of(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (line, code, comment, raw) in source.lines() {
        let width = raw.chars().count();
        let code_ends = code.trim_end_matches([' ', ',', ';', ')', ']', '}', '?']).len();
        let code_width = raw.get(..code_ends).map_or(code_ends, |raw| raw.chars().count());
        let breakable = !comment.trim().is_empty() && !raw.contains("://");
        let (columns, max) = match breakable && code_width <= CODE_COLUMNS_MAX {
            true => (width, COMMENT_COLUMNS_MAX),
            false => (code_width, CODE_COLUMNS_MAX),
        };
        if max < columns {
            let text = format!("{columns} columns, more than {max}: break it");
            found.push(Finding::new("columns", &source.path, line, "line", text));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_function_is_found() {
        let long = format!("fn a() {{\n{}}}\n", "    b();\n".repeat(FUNCTION_LINES_MAX - 1));
        let fits = format!("fn a() {{\n{}}}\n", "    b();\n".repeat(FUNCTION_LINES_MAX - 2));
        let count = |text: &str| functions(&Tree::planted(&[("router/src/a.rs", text)])).len();
        assert_eq!(count(&long), 1);
        assert_eq!(count(&fits), 0);
        assert_eq!(count(&format!("#[cfg(test)]\nmod tests {{\n{long}}}\n")), 0);
        assert_eq!(count(&format!("struct S;\nimpl S {{\n{long}}}\n")), 1);
    }

    #[test]
    fn a_long_adapter_is_found() {
        let code = "fn a() {}\n".repeat(ADAPTER_LINES_MAX);
        let rest = format!(
            "//! x\n\n{}#[cfg(test)]\nmod tests {{\n{}}}\n",
            "// y\n".repeat(99),
            "fn t() {}\n".repeat(99)
        );
        let count = |path: &str, text: &str| adapters(&Tree::planted(&[(path, text)])).len();
        assert_eq!(count("adapters/src/telegram.rs", &format!("{code}{rest}")), 0);
        assert_eq!(count("adapters/src/telegram.rs", &format!("{code}fn b() {{}}\n{rest}")), 1);
        assert_eq!(count("router/src/telegram.rs", &format!("{code}fn b() {{}}\n")), 0);
    }

    #[test]
    fn a_wide_line_is_found() {
        let count = |text: &str| columns(&Tree::planted(&[("router/src/a.rs", text)])).len();
        let (code, words) = ("x ".repeat(55), "w".repeat(120));
        assert_eq!(count(&code), 0, "109 columns");
        assert_eq!(count(&format!("{code}xx")), 1, "112 columns");
        assert_eq!(count(&format!("f(\"{words}\");")), 0, "a text makes it wide");
        assert_eq!(count(&format!("// {words}")), 0, "123 columns of comment");
        assert_eq!(count(&format!("// {words}www")), 1, "126 columns of comment");
        assert_eq!(count(&format!("// https://example.org/{words}")), 0);
        assert_eq!(count(&"ä".repeat(110)), 0, "characters are counted, not bytes");
    }
}
