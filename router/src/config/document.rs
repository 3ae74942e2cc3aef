//! The text of a configuration as a tree in which every value knows its place. JSON (RFC 8259) with comments and
//! trailing commas; anything looser is a problem that is reported, and read on if its meaning is plain.
use super::path::{Path, Step};
use core::ops::Range;
use jsonc_parser::ast::{ObjectProp, Value as Ast};
use jsonc_parser::common::Ranged;
use jsonc_parser::errors::{ParseError, ParseErrorKind};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

/// A configuration longer than this is not one.
pub(super) const BYTES_MAX: usize = 4 << 20;

// A file with more syntax errors than this is not a configuration with slips of the pen.
const SYNTAX_PROBLEMS_MAX: usize = 20;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Bytes of the text.
    pub(super) range: Range<usize>,
    /// What it is.
    pub(super) value: Value,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number.
    Number(serde_json::Number),
    /// A text, and whether a variable was put into it.
    Text(String, bool),
    /// A list.
    List(Vec<Node>),
    /// An object, as written.
    Object(Vec<Entry>),
}

/// One key of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// The key.
    pub(super) name: String,
    /// Its place.
    pub(super) name_range: Range<usize>,
    /// Its value.
    pub(super) node: Node,
    /// The same key stands before it in the object; this one has been reported and does not count.
    pub(super) is_again: bool,
}

/// A problem of the text itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slip {
    pub(super) range: Range<usize>,
    pub(super) path: Path,
    pub(super) message: String,
    pub(super) help: String,
}

/// What was found where a path leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'d> {
    /// The last node on the way.
    pub(super) node: &'d Node,
    /// Its key, if it has one.
    pub(super) key: Option<&'d Entry>,
    /// The way was walked to its end.
    pub(super) whole: bool,
}

/// Reads the text as far as it can be read. `None` if nothing can be said about its content.
pub(super) fn read(text: &str) -> (Option<Node>, Vec<Slip>) {
    let mut slips = Vec::new();
    let mut patched = text.to_owned();
    let node = loop {
        match parse_to_ast(&patched, &CollectOptions::default(), &options(false)) {
            Ok(parsed) => break parsed.value.map(|ast| node(ast, &Path::default(), &mut slips)),
            Err(error) => {
                slips.push(slip(&error, text));
                let patch = patch(&error, &patched).filter(|_| slips.len() < SYNTAX_PROBLEMS_MAX);
                let Some(at) = patch else { break read_loosely(&patched, &mut slips) };
                patched.replace_range(at..=at, ",");
            }
        }
    };
    if node.is_none() && slips.is_empty() {
        slips.push(Slip {
            range: 0..0,
            path: Path::default(),
            message: "the file is empty".to_owned(),
            help: "write at least `{}`; `clawgate config default` prints a file to start from".to_owned(),
        });
    }
    (node, slips)
}

// A forgotten comma is where the white space begins: put one there, and every other place stays where it is.
fn patch(error: &ParseError, text: &str) -> Option<usize> {
    if !matches!(error.kind(), ParseErrorKind::ExpectedComma) {
        return None;
    }
    let at = error.range().start;
    text.as_bytes().get(at).is_some_and(u8::is_ascii_whitespace).then_some(at)
}

fn read_loosely(text: &str, slips: &mut Vec<Slip>) -> Option<Node> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &options(true)).ok()?;
    parsed.value.map(|ast| node(ast, &Path::default(), slips))
}

fn options(loose: bool) -> ParseOptions {
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: loose,
        allow_missing_commas: loose,
        allow_single_quoted_strings: loose,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

fn slip(error: &ParseError, text: &str) -> Slip {
    let range = error.range();
    let start = char_floor(text, range.start);
    let end = char_floor(text, range.end).max(start);
    Slip {
        range: start..end,
        path: Path::default(),
        message: lowered(&error.kind().to_string()),
        help: syntax_help(error.kind()).to_owned(),
    }
}

fn syntax_help(kind: &ParseErrorKind) -> &'static str {
    if matches!(kind, ParseErrorKind::ExpectedComma) {
        "put a comma between this and what follows"
    } else if matches!(kind, ParseErrorKind::ExpectedStringObjectProperty) {
        "put the key in double quotes"
    } else if matches!(kind, ParseErrorKind::SingleQuotedStringsNotAllowed) {
        "use double quotes"
    } else if matches!(kind, ParseErrorKind::UnexpectedWord) {
        "put texts in double quotes; without quotes stand only true, false, null and numbers"
    } else if matches!(kind, ParseErrorKind::UnterminatedObject) {
        "this `{` has no `}`"
    } else if matches!(kind, ParseErrorKind::UnterminatedArray) {
        "this `[` has no `]`"
    } else if matches!(kind, ParseErrorKind::ExpectedColonAfterObjectKey) {
        "write `\"key\": value`"
    } else if matches!(kind, ParseErrorKind::MultipleRootJsonValues) {
        "the file is one object: move this inside the first `{ }`"
    } else {
        "the file is JSON; comments and trailing commas are allowed"
    }
}

fn lowered(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

/// The beginning of the character in which this byte lies.
pub(super) fn char_floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

// Depth is bounded by the parser (512).
fn node(ast: Ast<'_>, path: &Path, slips: &mut Vec<Slip>) -> Node {
    let range = ast.range().start..ast.range().end;
    let value = match ast {
        Ast::NullKeyword(_) => Value::Null,
        Ast::BooleanLit(literal) => Value::Bool(literal.value),
        Ast::StringLit(literal) => Value::Text(literal.value.into_owned(), false),
        Ast::NumberLit(literal) => number(literal.value, &range, path, slips),
        Ast::Array(list) => {
            let elements = list.elements.into_iter().enumerate();
            Value::List(elements.map(|(index, ast)| node(ast, &path.index(index), slips)).collect())
        }
        Ast::Object(object) => Value::Object(entries(object.properties, path, slips)),
    };
    Node { range, value }
}

fn number(text: &str, range: &Range<usize>, path: &Path, slips: &mut Vec<Slip>) -> Value {
    text.parse().map_or_else(
        |_| {
            slips.push(Slip {
                range: range.clone(),
                path: path.clone(),
                message: "this is not a number".to_owned(),
                help: "write it as 12, 0.5 or 1e6".to_owned(),
            });
            Value::Null
        },
        Value::Number,
    )
}

fn entries(properties: Vec<ObjectProp<'_>>, path: &Path, slips: &mut Vec<Slip>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::with_capacity(properties.len());
    let mut seen = std::collections::BTreeSet::new();
    for property in properties {
        let place = property.name.range();
        let name = property.name.into_string();
        let below = path.key(&name);
        let node = node(property.value, &below, slips);
        let is_again = !seen.insert(name.clone());
        if is_again {
            slips.push(Slip {
                range: place.start..place.end,
                path: below,
                message: format!("the key {} comes twice", super::report::quoted(&name)),
                help: "keep one of the two".to_owned(),
            });
        }
        entries.push(Entry { name, name_range: place.start..place.end, node, is_again });
    }
    entries
}

impl Node {
    /// Follows the path as far as it leads.
    pub(super) fn find(&self, path: &Path) -> Found<'_> {
        let mut found = Found { node: self, key: None, whole: true };
        for step in path.steps() {
            let next = match (step, &found.node.value) {
                (Step::Key(key), Value::Object(entries)) => entries
                    .iter()
                    .find(|entry| entry.name == *key && !entry.is_again)
                    .map(|entry| (&entry.node, Some(entry))),
                (Step::Index(index), Value::List(elements)) => elements.get(*index).map(|node| (node, None)),
                _ => None,
            };
            let Some((node, key)) = next else { return Found { whole: false, ..found } };
            found = Found { node, key, whole: true };
        }
        found
    }

    /// The keys of the object that the path leads to; none if it is no object.
    pub(super) fn keys(&self, path: &Path) -> impl Iterator<Item = &str> {
        let found = self.find(path);
        let entries = match &found.node.value {
            Value::Object(entries) if found.whole => entries.as_slice(),
            Value::Object(_) | Value::List(_) | Value::Text(..) => &[],
            Value::Null | Value::Bool(_) | Value::Number(_) => &[],
        };
        entries.iter().filter(|entry| !entry.is_again).map(|entry| entry.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn slips(text: &str) -> Vec<(String, &str)> {
        read(text).1.into_iter().map(|slip| (slip.message, &text[slip.range])).collect()
    }

    #[test]
    fn comments_and_trailing_commas_are_json_to_us() {
        let text = "// a\n{ /* b */ \"a\": [1, 2,], \"b\": {\"c\": \"ü\",},\n}";
        let (node, slips) = read(text);
        assert_eq!(slips, []);
        let node = node.unwrap();
        let found = node.find(&Path::of("b").key("c"));
        assert!(found.whole);
        assert_eq!(&text[found.node.range.clone()], "\"ü\"");
        assert_eq!(&text[found.key.unwrap().name_range.clone()], "\"c\"");
        assert!(!node.find(&Path::of("a").index(2)).whole);
        assert_eq!(node.keys(&Path::default()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_is_looser_is_reported_and_read_on() {
        assert_eq!(slips("{\"a\": 1\n \"b\": [1 2]\n \"c\": 3}").len(), 3);
        assert_eq!(slips("{a: 1}"), [("expected string for object property".to_owned(), "a")]);
        assert!(read("{a: 1}").0.is_some());
        assert_eq!(slips("{\"a\": 1, \"a\": 2}"), [("the key \"a\" comes twice".to_owned(), "\"a\"")]);
        assert_eq!(slips("{\"a\": 1e999}"), [("this is not a number".to_owned(), "1e999")]);
        assert_eq!(slips(" // nothing\n"), [("the file is empty".to_owned(), "")]);
    }

    #[test]
    fn what_cannot_be_read_has_one_problem_and_no_tree() {
        for text in ["{", "[", "{\"a\"", "{\"a\": ", "\"", "{\"a\": \"", "{\"ü", "{]", "nope", "{} {}", "/*"]
        {
            let (node, slips) = read(text);
            assert_eq!((node, slips.len()), (None, 1), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(read(&deep).1.len(), 1);
    }
}
