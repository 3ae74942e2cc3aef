//! Lines of the configuration as they may be shown: what is not known to be harmless is masked.
//!
//! It works from a list of what may be seen, not of what must not: a token under a misspelt key, in a comment, or in a
//! file that cannot be read at all stays hidden.
use super::document::{Node, Value, char_floor};
use core::ops::Range;
use std::collections::BTreeSet;

/// The longest part of a line that is shown, in characters.
const WIDTH_MAX: usize = 120;

/// What of a text may be shown.
#[derive(Debug)]
pub(super) enum Mask {
    /// The keys and values, in order, and whether each may be seen.
    Read(Vec<(Range<usize>, bool)>),
    /// The text could not be read: these words may be seen, and nothing else.
    Unread(BTreeSet<String>),
}

/// A line, ready to be shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) width: usize,
    pub(super) text: String,
    pub(super) caret: usize,
}

impl Mask {
    /// Of a text that was read to this tree. `harmless` has the starts of the keys and values that may be seen.
    pub(super) fn of(root: &Node, harmless: &BTreeSet<usize>) -> Self {
        let mut tokens = Vec::new();
        collect(root, harmless, &mut tokens);
        Self::Read(tokens)
    }

    /// Of a text that could not be read; `keys` are all that a configuration can have.
    pub(super) fn of_unread(keys: BTreeSet<String>) -> Self {
        Self::Unread(keys)
    }

    /// The line in which `range` begins.
    pub(super) fn show(&self, text: &str, range: &Range<usize>) -> Shown {
        let at = char_floor(text, range.start);
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        let line = text[..start].matches('\n').count() + 1;
        let column = text[start..at].chars().count();
        let width = text[at..char_floor(text, range.end).clamp(at, end)].trim_end().chars().count().max(1);
        let masked = match self {
            Self::Read(tokens) => by_tokens(text, start..end, tokens),
            Self::Unread(keys) => by_words(&text[start..end], keys),
        };
        let (text, caret) = cut(&masked, column);
        let width = width.min(WIDTH_MAX.saturating_sub(caret)).max(1);
        Shown { line, column: column + 1, width, text, caret }
    }
}

fn collect(node: &Node, harmless: &BTreeSet<usize>, tokens: &mut Vec<(Range<usize>, bool)>) {
    match &node.value {
        Value::List(elements) => elements.iter().for_each(|element| collect(element, harmless, tokens)),
        Value::Object(entries) => {
            for entry in entries {
                tokens.push((entry.name_range.clone(), harmless.contains(&entry.name_range.start)));
                collect(&entry.node, harmless, tokens);
            }
        }
        Value::Null | Value::Bool(_) => tokens.push((node.range.clone(), true)),
        Value::Number(_) | Value::Text(..) => {
            tokens.push((node.range.clone(), harmless.contains(&node.range.start)));
        }
    }
}

fn by_tokens(text: &str, line: Range<usize>, tokens: &[(Range<usize>, bool)]) -> Vec<char> {
    let mut out = Vec::new();
    let mut next = tokens.partition_point(|(range, _)| range.end <= line.start);
    for (offset, char) in text[line.clone()].char_indices() {
        let at = line.start + offset;
        while tokens.get(next).is_some_and(|(range, _)| range.end <= at) {
            next += 1;
        }
        let token = tokens.get(next).filter(|(range, _)| range.start <= at);
        out.push(match token {
            Some((range, false)) if !is_variable(&text[range.clone()]) => masked(char),
            Some(_) => harmless(char),
            // Between keys and values stand marks, white space, and comments, which may hold anything.
            None if "{}[]:,".contains(char) => char,
            None => ' ',
        });
    }
    while out.last() == Some(&' ') {
        out.pop();
    }
    out
}

// `"${NAME}"` and nothing else says where a secret comes from, not what it is.
fn is_variable(raw: &str) -> bool {
    raw.strip_prefix("\"${")
        .and_then(|rest| rest.strip_suffix("}\""))
        .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

fn masked(char: char) -> char {
    if char == '"' { '"' } else { '*' }
}

// What could move the cursor or turn the reading direction is not shown.
fn harmless(char: char) -> char {
    match char {
        '\t' => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        char if char.is_control() => char::REPLACEMENT_CHARACTER,
        char => char,
    }
}

// Seen are marks, and the keys and words that say nothing of this configuration in particular.
fn by_words(line: &str, keys: &BTreeSet<String>) -> Vec<char> {
    let mut out = Vec::new();
    let mut rest = line;
    while let Some(char) = rest.chars().next() {
        let is_mark = "{}[]:,".contains(char) || char.is_whitespace();
        let length = if is_mark { char.len_utf8() } else { word(rest) };
        let (word, after) = rest.split_at(length);
        let bare = word.trim_end().trim_matches(['"', '\'']);
        let is_seen =
            is_mark || ["true", "false", "null"].contains(&bare) || keys.contains(bare) || is_variable(word);
        out.extend(word.chars().map(if is_seen { harmless } else { masked }));
        rest = after;
    }
    while out.last() == Some(&' ') {
        out.pop();
    }
    out
}

fn word(text: &str) -> usize {
    if !text.starts_with('"') {
        return text.find(|char: char| "{}[]:,\"".contains(char)).unwrap_or(text.len());
    }
    let mut escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            '"' if !escaped => return at + 1,
            _ => escaped = char == '\\' && !escaped,
        }
    }
    text.len()
}

fn cut(line: &[char], column: usize) -> (String, usize) {
    if line.len() <= WIDTH_MAX {
        return (line.iter().collect(), column);
    }
    let start = column.saturating_sub(WIDTH_MAX / 2).min(line.len() - WIDTH_MAX);
    let text = line[start..start + WIDTH_MAX].iter().collect();
    (text, column - start)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::document;
    use super::*;

    fn show(text: &str, harmless: &[&str]) -> String {
        let harmless = harmless.iter().map(|value| text.find(value).unwrap()).collect();
        let root = document::read(text).0.unwrap();
        Mask::of(&root, &harmless).show(text, &(0..1)).text
    }

    #[test]
    fn what_is_not_known_to_be_harmless_is_masked() {
        let text = r#"{"a": "seen", "b": "hidden", "c": 12, "d": [true, null], "e": "${NAME}"} // hidden"#;
        let shown = r#"{"a": "seen", "*": "******", "*": **, "d": [true, null], "*": "${NAME}"}"#;
        assert_eq!(show(text, &["\"a\"", "\"seen\"", "\"d\""]), shown);
        assert_eq!(show(r#"{"a": "x${NAME}"}"#, &["\"a\""]), r#"{"a": "********"}"#);
    }

    #[test]
    fn in_a_text_that_cannot_be_read_only_known_keys_are_seen() {
        let mask = Mask::of_unread(["token", "a", "b"].map(str::to_owned).into());
        for (text, shown) in [
            (r#"{"token": "hidden, "b": 1"#, r#"{"token": "********"b"***"#),
            (r#"{"token": hidden"#, r#"{"token": ******"#),
            (r#"{token: 'hidden': 1"#, r#"{token: ********: *"#),
            (r#"{"token": "hidden": 1"#, r#"{"token": "******": *"#),
            (r#"{"a": "hid\"den" // hidden"#, r#"{"a": "****"***" *********"#),
            (r#"{"a": true, "b": "${NAME}" "#, r#"{"a": true, "b": "${NAME}""#),
            (r#"{"a": ü"ü, "b"#, r#"{"a": *"***"b"#),
            (r#"  "hidden", "key": ["hidden"#, r#"  "******", "***": ["******"#),
        ] {
            assert_eq!(mask.show(text, &(0..1)).text, shown, "{text}");
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{{\"a\": [{}7]}}", "1,".repeat(500));
        let at = text.find('7').unwrap();
        let harmless = (0..text.len()).collect();
        let root = document::read(&text).0.unwrap();
        let shown = Mask::of(&root, &harmless).show(&text, &(at..at + 1));
        assert_eq!(shown.text.chars().count(), WIDTH_MAX);
        assert_eq!(shown.text.chars().nth(shown.caret), Some('7'));
        assert_eq!((shown.line, shown.column, shown.width), (1, at + 1, 1));
    }
}
