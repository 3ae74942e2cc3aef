//! One Rust file with its comments, texts and code told apart, its functions and its test parts found.
//!
//! This is a lexer, not a parser: it knows comments (nested), texts (raw ones too), character literals and lifetimes,
//! as the Rust Reference's chapter "Tokens" has them, and counts brackets in what is left. Token trees are always
//! balanced in Rust, so the counting is sound. It never reads a file and never expands a macro.
use std::ops::Range;

/// What a byte of a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Code,
    Comment,
    Text,
}

/// A function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of its `fn`, from 1.
    pub line: usize,
    /// Its lines, from `fn` to the closing brace.
    pub lines: usize,
    /// Is it part of a test?
    pub test: bool,
}

/// A `mod name;` or `mod name { … }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// The line of its `mod`, from 1.
    pub line: usize,
    /// The names of the modules written in place around it, outermost first.
    pub around: Vec<String>,
    /// What its `#[path = "…"]` says.
    pub path: Option<String>,
    /// Does it carry a `#[cfg(test)]`?
    pub test: bool,
    /// Is its content in another file?
    pub elsewhere: bool,
}

/// A file of Rust.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its path from the root of the tree, with forward slashes.
    pub path: String,
    /// All of it.
    pub raw: String,
    /// As long as `raw`, with spaces in place of comments and texts.
    pub code: String,
    /// As long as `raw`, with spaces in place of all but comments.
    pub comments: String,
    /// Where each line begins.
    starts: Vec<usize>,
    /// The bytes that belong to tests.
    tests: Vec<Range<usize>>,
}

impl Source {
    /// Reads a file's text.
    #[must_use]
    pub fn new(path: &str, raw: &str) -> Self {
        let classes = classify(raw.as_bytes());
        let keep = |wanted: Class| -> String {
            let bytes = raw.bytes().zip(&classes).map(|(byte, class)| match byte {
                b'\n' => b'\n',
                _ if *class == wanted => byte,
                _ => b' ',
            });
            // A character belongs to one class as a whole, so what is kept is as valid as what was read.
            String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
        };
        let (code, comments) = (keep(Class::Code), keep(Class::Comment));
        let starts = std::iter::once(0).chain(raw.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let tests = if is_test_path(path) || code.contains("#![cfg(test)]") {
            std::iter::once(0..raw.len()).collect()
        } else {
            test_items(&code)
        };
        Self { path: path.to_owned(), raw: raw.to_owned(), code, comments, starts, tests }
    }

    /// Says that the whole file is a test, because the module that names it is.
    pub fn mark_as_test(&mut self) {
        self.tests = std::iter::once(0..self.raw.len()).collect();
    }

    /// The line of a byte, from 1.
    #[must_use]
    pub fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    /// Is this byte part of a test?
    #[must_use]
    pub fn is_test(&self, at: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&at))
    }

    /// Where this occurs in the code as a word of its own.
    #[must_use]
    pub fn find(&self, pattern: &str) -> Vec<usize> {
        words(&self.code, pattern)
    }

    /// The lines with code or text in them; comments, blank lines and tests apart.
    #[must_use]
    pub fn code_lines(&self) -> usize {
        let mut count = 0;
        for (index, start) in self.starts.iter().enumerate() {
            let end = self.starts.get(index + 1).copied().unwrap_or(self.raw.len());
            let bytes = self.raw.as_bytes()[*start..end].iter().zip(&self.comments.as_bytes()[*start..end]);
            let busy = bytes.into_iter().any(|(raw, comment)| !raw.is_ascii_whitespace() && raw != comment);
            count += usize::from(busy && !self.is_test(*start));
        }
        count
    }

    /// Each line: its number, its code, its comment, and all of it.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str, &str, &str)> {
        let halves = self.code.split('\n').zip(self.comments.split('\n'));
        let lines = halves.zip(self.raw.split('\n')).enumerate();
        lines.map(|(index, ((code, comment), raw))| (index + 1, code, comment, raw))
    }

    /// The functions that have a body, those inside others too.
    #[must_use]
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for at in self.find("fn") {
            let Some(name) = word_at(&self.code, at + 2) else { continue };
            let Some(open) = body(&self.code, at) else { continue };
            let (line, last) = (self.line(at), self.line(closing(&self.code, open)));
            let test = self.is_test(at);
            found.push(Function { name: name.to_owned(), line, lines: last + 1 - line, test });
        }
        found
    }

    /// The modules that this file declares, in its order.
    #[must_use]
    pub fn modules(&self) -> Vec<Module> {
        let mut around: Vec<(String, Range<usize>)> = Vec::new();
        let mut found = Vec::new();
        for at in self.find("mod") {
            let Some(name) = word_at(&self.code, at + 3) else { continue };
            let Some(next) = self.code[at..].find([';', '{']).map(|offset| at + offset) else { continue };
            let elsewhere = self.code.as_bytes()[next] == b';';
            around.retain(|(_, range)| range.contains(&at));
            let head = self.attributes(at);
            found.push(Module {
                name: name.to_owned(),
                line: self.line(at),
                around: around.iter().map(|(name, _)| name.clone()).collect(),
                path: named_path(head),
                test: self.is_test(at) || is_test_head(head),
                elsewhere,
            });
            if !elsewhere {
                around.push((name.to_owned(), next..closing(&self.code, next)));
            }
        }
        found
    }

    /// What stands between the item that begins here and the one before it.
    fn attributes(&self, at: usize) -> &str {
        let start = self.code[..at].rfind([';', '{', '}']).map_or(0, |before| before + 1);
        &self.raw[start..at]
    }
}

/// Where this occurs in a text as a word of its own: `now` is not in `know`.
#[must_use]
pub fn words(text: &str, pattern: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let starts_word = pattern.bytes().next().is_some_and(is_word);
    let ends_word = pattern.bytes().last().is_some_and(is_word);
    let whole = |at: &usize| {
        let before = at.checked_sub(1).is_some_and(|before| is_word(bytes[before]));
        let after = bytes.get(at + pattern.len()).is_some_and(|byte| is_word(*byte));
        !(starts_word && before || ends_word && after)
    };
    text.match_indices(pattern).map(|(at, _)| at).filter(whole).collect()
}

/// The word that begins here, blanks skipped.
#[must_use]
pub fn word_at(text: &str, at: usize) -> Option<&str> {
    let rest = text.get(at..)?.trim_start();
    let end = rest.bytes().position(|byte| !is_word(byte)).unwrap_or(rest.len());
    (0 < end && !rest.as_bytes()[0].is_ascii_digit()).then(|| &rest[..end])
}

/// Where the bracket that opens here is closed; the end of the text if it never is.
#[must_use]
pub fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in code.as_bytes()[open..].iter().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return open + offset;
        }
    }
    code.len().saturating_sub(1)
}

/// Is this part of a name?
const fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric() || 0x80 <= byte
}

/// Cargo's own places for tests, and the names that this tree gives to files of tests.
fn is_test_path(path: &str) -> bool {
    let folders = ["tests/", "benches/", "examples/", "fuzz/"];
    let inside =
        folders.iter().any(|folder| path.starts_with(folder) || path.contains(&format!("/{folder}")));
    inside || path.ends_with("/tests.rs")
}

fn is_test_head(head: &str) -> bool {
    ["cfg(test)", "cfg(all(test", "cfg(any(test"].iter().any(|test| head.contains(test))
}

fn named_path(head: &str) -> Option<String> {
    let (_, after) = head.split_once("#[path")?;
    after.split('"').nth(1).map(str::to_owned)
}

/// The `{` of the function whose `fn` is here; none if it is only declared.
fn body(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, byte) in code.as_bytes()[at..].iter().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' if depth == 0 => return Some(at + offset),
            b';' | b'}' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The items under `#[cfg(test)]` and `#[test]`, from the attribute to the closing brace.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut items: Vec<Range<usize>> = Vec::new();
    for (at, _) in code.match_indices("#[") {
        let end = closing(code, at + 1);
        let attribute = &code[at..=end];
        if items.last().is_some_and(|last| last.contains(&at)) {
            continue;
        }
        if attribute == "#[test]" || is_test_head(attribute) {
            let after = end + 1;
            let stop = body_or_end(code, after);
            items.push(at..stop + 1);
        }
    }
    items
}

/// Where the item after an attribute ends: at the brace that closes it, or at its semicolon.
fn body_or_end(code: &str, from: usize) -> usize {
    let mut at = from;
    while at < code.len() {
        match code.as_bytes()[at] {
            b'(' | b'[' => at = closing(code, at),
            b'{' => return closing(code, at),
            b';' => return at,
            _ => {}
        }
        at += 1;
    }
    code.len().saturating_sub(1)
}

fn classify(bytes: &[u8]) -> Vec<Class> {
    let mut classes = vec![Class::Code; bytes.len()];
    let mut at = 0;
    while at < bytes.len() {
        let (class, end) = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => (Class::Comment, line_end(bytes, at)),
            b'/' if bytes.get(at + 1) == Some(&b'*') => (Class::Comment, block_end(bytes, at)),
            b'"' => (Class::Text, text_end(bytes, at + 1, b'"')),
            b'r' if begins_word(bytes, at) => match raw_text_end(bytes, at) {
                Some(end) => (Class::Text, end),
                None => (Class::Code, at + 1),
            },
            b'\'' => match character_end(bytes, at) {
                Some(end) => (Class::Text, end),
                None => (Class::Code, at + 1),
            },
            _ => (Class::Code, at + 1),
        };
        let end = end.min(bytes.len());
        classes[at..end].fill(class);
        at = end;
    }
    classes
}

/// Does a raw text's `r` stand here, alone or behind the `b` or `c` of its kind?
fn begins_word(bytes: &[u8], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map(|index| bytes[index]);
    match before(1) {
        Some(b'b' | b'c') => !before(2).is_some_and(is_word),
        Some(byte) => !is_word(byte),
        None => true,
    }
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |offset| at + offset)
}

fn block_end(bytes: &[u8], from: usize) -> usize {
    let (mut depth, mut at) = (0_usize, from);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn text_end(bytes: &[u8], from: usize, quote: u8) -> usize {
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of `r"…"` or `r#"…"#`; none for `r#name` and plain names.
fn raw_text_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = at + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let end = bytes[open + 1..].windows(close.len()).position(|window| window == close);
    Some(end.map_or(bytes.len(), |offset| open + 1 + offset + close.len()))
}

/// The end of `'x'`; none for a lifetime.
fn character_end(bytes: &[u8], at: usize) -> Option<usize> {
    let first = *bytes.get(at + 1)?;
    if first == b'\\' {
        return Some(text_end(bytes, at + 1, b'\''));
    }
    let width = match first {
        0..=0x7F => 1,
        0x80..=0xDF => 2,
        0xE0..=0xEF => 3,
        _ => 4,
    };
    (bytes.get(at + 1 + width) == Some(&b'\'')).then_some(at + 2 + width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(raw: &str) -> String {
        Source::new("router/src/sample.rs", raw).code.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_texts_and_characters_are_not_code() {
        let table = [
            ("a // b", "a"),
            ("a /* b /* c */ d */ e", "a e"),
            ("f(\"a // b\", c)", "f( , c)"),
            (r#"f("\"", c)"#, "f( , c)"),
            (r##"f(r#"a " b"#, br"\", c)"##, "f( , b , c)"),
            ("r#type + for_r", "r#type + for_r"),
            ("'{' 'é' '\\'' '\\u{7D}' b'{'", "b"),
            ("fn f<'a>(x: &'a str) -> &'static str { x }", "fn f<'a>(x: &'a str) -> &'static str { x }"),
            ("'outer: loop { break 'outer; }", "'outer: loop { break 'outer; }"),
            ("\"never closed {", ""),
            ("/* never closed {", ""),
        ];
        for (raw, code) in table {
            assert_eq!(code_of(raw), code, "{raw}");
        }
    }

    #[test]
    fn functions_are_measured_and_tests_are_told_apart() {
        let raw = "fn a(x: [u8; 2]) where X: Y {\n    // }\n    b(\"}\");\n}\ntrait T { fn declared(&self); }\n\
                   #[cfg(test)]\nmod tests {\n    #[test]\n    fn t() {\n    }\n}\nfn z() {}\ntype F = fn(u8);\n";
        let source = Source::new("router/src/sample.rs", raw);
        let names = |test: bool| -> Vec<(String, usize, usize)> {
            let functions = source.functions().into_iter().filter(|function| function.test == test);
            functions.map(|function| (function.name, function.line, function.lines)).collect()
        };
        assert_eq!(names(false), [("a".to_owned(), 1, 4), ("z".to_owned(), 12, 1)]);
        assert_eq!(names(true), [("t".to_owned(), 9, 2)]);
        assert_eq!(source.code_lines(), 6, "lines 1, 3, 4, 5, 12 and 13");
    }

    #[test]
    fn modules_are_found_where_they_are() {
        let raw = "mod a;\n#[cfg(test)]\nmod t;\nmod b {\n    pub mod c;\n}\n#[path = \"else/where.rs\"]\nmod d;\n// mod e;\n";
        let modules = Source::new("router/src/main.rs", raw).modules();
        let seen: Vec<_> =
            modules.iter().map(|m| (m.name.as_str(), m.around.join("/"), m.test, m.elsewhere)).collect();
        let expected =
            [("a", "", false, true), ("t", "", true, true), ("b", "", false, false), ("c", "b", false, true)];
        let expected =
            expected.map(|(name, around, test, elsewhere)| (name, around.to_owned(), test, elsewhere));
        assert_eq!(seen[..4], expected);
        assert_eq!(modules[4].path.as_deref(), Some("else/where.rs"));
        assert_eq!(modules.len(), 5);
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(words("now know now_ ::now(", "now"), [0, 16]);
        assert_eq!(words("x.unwrap() unwrap()", ".unwrap()"), [1]);
    }
}
