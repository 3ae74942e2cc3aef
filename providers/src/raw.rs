//! JSON as it was written: checked once, then borrowed from, field by field. RFC 8259.
//!
//! Owns what is JSON and where a value ends. Builds no tree and changes no byte, so that a schema, a number or an unknown
//! field leaves as it came; a text without escapes is a slice, and one with escapes can be copied into other JSON as it is.
use clawgate_wire::json::{plain_len, plain_prefix, write_str, write_str_body};
use std::borrow::Cow;

/// Arrays and objects inside one another. The formats themselves need ten; a tool's schema may need more.
const DEPTH_MAX: u32 = 64;

/// One JSON value, known to be well-formed; without white space around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a>(&'a str);

impl<'a> Raw<'a> {
    /// An object without fields.
    pub const EMPTY: Raw<'static> = Raw("{}");
    /// `null`.
    pub const NULL: Raw<'static> = Raw("null");

    /// A document that is one value. `None` if it is not JSON, or deeper than 64.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let text = core::str::from_utf8(bytes.trim_ascii()).ok()?;
        (check_value(text.as_bytes(), 0)? == text.len()).then_some(Self(text))
    }

    /// A document that is one object, its fields told as they are found. `None` if it is none, and then nothing of what was
    /// told counts.
    pub(crate) fn parse_fields(bytes: &'a [u8], mut field: impl FnMut(Text<'a>, Self)) -> Option<Self> {
        let text = core::str::from_utf8(bytes.trim_ascii()).ok()?;
        let bytes = text.as_bytes();
        let mut at = blank_end(bytes, 1);
        if bytes.first() != Some(&b'{') {
            return None;
        }
        if bytes.get(at) == Some(&b'}') {
            return (at + 1 == bytes.len()).then_some(Self(text));
        }
        loop {
            if bytes.get(at) != Some(&b'"') {
                return None;
            }
            let (name_end, escaped) = check_string(bytes, at + 1)?;
            let name = Text::of(text.get(at + 1..name_end - 1)?, escaped);
            let colon = blank_end(bytes, name_end);
            if bytes.get(colon) != Some(&b':') {
                return None;
            }
            let value = blank_end(bytes, colon + 1);
            let end = check_value(bytes, value)?;
            field(name, Self(text.get(value..end)?));
            at = blank_end(bytes, end);
            match bytes.get(at)? {
                b',' => at = blank_end(bytes, at + 1),
                b'}' => return (at + 1 == bytes.len()).then_some(Self(text)),
                _ => return None,
            }
        }
    }

    /// As it was written.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    fn first(self) -> u8 {
        self.0.as_bytes().first().copied().unwrap_or(b'n')
    }

    /// Is it an object?
    #[must_use]
    pub fn is_object(self) -> bool {
        self.first() == b'{'
    }

    /// Is it an array?
    #[must_use]
    pub fn is_array(self) -> bool {
        self.first() == b'['
    }

    /// Is it `null`?
    #[must_use]
    pub fn is_null(self) -> bool {
        self.first() == b'n'
    }

    /// Is it a number?
    #[must_use]
    pub fn is_number(self) -> bool {
        matches!(self.first(), b'-' | b'0'..=b'9')
    }

    /// `true` or `false`.
    #[must_use]
    pub fn bool(self) -> Option<bool> {
        match self.first() {
            b't' => Some(true),
            b'f' => Some(false),
            _ => None,
        }
    }

    /// A whole number that is not negative.
    #[must_use]
    pub fn u64(self) -> Option<u64> {
        if self.0.len() <= 19 && self.0.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(self.0.bytes().fold(0, |sum, byte| 10 * sum + u64::from(byte - b'0')));
        }
        self.is_number().then(|| self.0.parse().ok()).flatten()
    }

    /// A count: what is larger than can be counted is as large as can be.
    #[must_use]
    pub fn count(self) -> Option<u32> {
        self.u64().map(|count| u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// A number.
    #[must_use]
    pub fn f64(self) -> Option<f64> {
        self.is_number().then(|| self.0.parse().ok()).flatten()
    }

    /// A string.
    #[must_use]
    pub fn text(self) -> Option<Text<'a>> {
        let inside = self.0.strip_prefix('"')?;
        let plain = plain_len(inside.as_bytes());
        let inside = inside.strip_suffix('"')?;
        Some(Text::of(inside, plain != Some(inside.len())))
    }

    /// The fields of an object, in its order; none of another value.
    #[must_use]
    pub fn fields(self) -> Fields<'a> {
        Fields { text: self.0, at: if self.is_object() { 1 } else { self.0.len() } }
    }

    /// The fields of the first item of an array, if that is an object: found without looking for the item's end.
    pub(crate) fn first_fields(self) -> Option<Fields<'a>> {
        let at = blank_end(self.0.as_bytes(), 1);
        let is_object = self.is_array() && self.0.as_bytes().get(at) == Some(&b'{');
        is_object.then_some(Fields { text: self.0, at: at + 1 })
    }

    /// The items of an array; none of another value.
    #[must_use]
    pub fn items(self) -> Items<'a> {
        Items { text: self.0, at: if self.is_array() { 1 } else { self.0.len() } }
    }

    /// The field of an object with this name; the first one of several.
    #[must_use]
    pub fn get(self, name: &str) -> Option<Self> {
        self.fields().find(|(key, _)| key.is(name)).map(|(_, value)| value)
    }

    /// The same, unless it is `null`.
    #[must_use]
    pub fn field(self, name: &str) -> Option<Self> {
        self.get(name).filter(|value| !value.is_null())
    }
}

/// The inside of a string, or a text of ours.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// As it is read.
    Plain(Cow<'a, str>),
    /// As it stands between the quotation marks of JSON, with escapes in it.
    Escaped(&'a str),
}

impl Default for Text<'_> {
    fn default() -> Self {
        Self::Plain(Cow::Borrowed(""))
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self::Plain(Cow::Borrowed(text))
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self::Plain(Cow::Owned(text))
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.plain() == other.plain()
    }
}

impl Eq for Text<'_> {}

impl<'a> Text<'a> {
    /// The inside of a string that is known to have escapes, or none.
    #[inline]
    const fn of(inside: &'a str, escaped: bool) -> Self {
        if escaped { Self::Escaped(inside) } else { Self::Plain(Cow::Borrowed(inside)) }
    }

    /// As it is read. Half of a surrogate pair is U+FFFD.
    #[must_use]
    pub fn plain(&self) -> Cow<'_, str> {
        match self {
            Self::Plain(text) => Cow::Borrowed(text),
            Self::Escaped(inside) => {
                let mut text = String::new();
                unescape(inside, &mut text);
                Cow::Owned(text)
            }
        }
    }

    /// The same, in memory that is reused.
    #[must_use]
    pub fn plain_in<'s>(&'s self, scratch: &'s mut String) -> &'s str {
        match self {
            Self::Plain(text) => text,
            Self::Escaped(inside) => {
                scratch.clear();
                unescape(inside, scratch);
                scratch
            }
        }
    }

    /// Appends it, as it is read.
    pub fn push_to(&self, out: &mut String) {
        match self {
            Self::Plain(text) => out.push_str(text),
            Self::Escaped(inside) => unescape(inside, out),
        }
    }

    /// Does it read so?
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        match self {
            Self::Plain(plain) => plain == text,
            Self::Escaped(_) => self.plain() == text,
        }
    }

    /// The text, if it was written without escapes: what names and types of formats are compared by.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Escaped(_) => "",
        }
    }

    /// Is there nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Plain(text) if text.is_empty())
    }

    /// Writes it as a string of JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Plain(text) => write_str(out, text),
            Self::Escaped(inside) => {
                out.push(b'"');
                out.extend_from_slice(inside.as_bytes());
                out.push(b'"');
            }
        }
    }

    /// Writes the inside of such a string.
    pub fn write_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Plain(text) => write_str_body(out, text),
            Self::Escaped(inside) => out.extend_from_slice(inside.as_bytes()),
        }
    }
}

/// Goes through the fields of an object.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (Text<'a>, Raw<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        let name = blank_end(bytes, self.at);
        if bytes.get(name) != Some(&b'"') {
            self.at = bytes.len();
            return None;
        }
        let (name_end, escaped) = string_end(bytes, name + 1);
        let key = Text::of(self.text.get(name + 1..name_end.checked_sub(1)?)?, escaped);
        let value = blank_end(bytes, blank_end(bytes, name_end) + 1);
        let end = value_end(bytes, value);
        self.at = blank_end(bytes, end) + 1;
        Some((key, Raw(self.text.get(value..end)?)))
    }
}

/// Goes through the items of an array.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Items<'a> {
    type Item = Raw<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        let start = blank_end(bytes, self.at);
        if matches!(bytes.get(start), None | Some(b']')) {
            self.at = bytes.len();
            return None;
        }
        let end = value_end(bytes, start);
        self.at = blank_end(bytes, end) + 1;
        Some(Raw(self.text.get(start..end)?))
    }
}

#[inline]
fn blank_end(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// Behind the closing quotation mark of a string whose opening one was read, and whether it has escapes. The string is known
/// to be well-formed.
#[inline]
fn string_end(bytes: &[u8], mut at: usize) -> (usize, bool) {
    let mut escaped = false;
    loop {
        let rest = bytes.get(at..).unwrap_or(&[]);
        if let Some(len) = plain_len(rest) {
            return (at + len + 1, escaped);
        }
        at += plain_prefix(rest);
        if bytes.get(at) != Some(&b'\\') {
            return (bytes.len(), escaped);
        }
        escaped = true;
        at += 2;
    }
}

/// Behind a value of well-formed JSON.
#[inline]
fn value_end(bytes: &[u8], start: usize) -> usize {
    match bytes.get(start) {
        Some(b'"') => string_end(bytes, start + 1).0,
        Some(b'{' | b'[') => {
            let (mut at, mut depth) = (start + 1, 1_u32);
            while 0 < depth {
                match bytes.get(at) {
                    Some(b'"') => {
                        at = string_end(bytes, at + 1).0;
                        continue;
                    }
                    Some(b'{' | b'[') => depth += 1,
                    Some(b'}' | b']') => depth -= 1,
                    Some(_) => {}
                    None => return bytes.len(),
                }
                at += 1;
            }
            at
        }
        _ => {
            let mut at = start;
            while !matches!(bytes.get(at), None | Some(b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t')) {
                at += 1;
            }
            at
        }
    }
}

/// Behind the value that begins here, if it is one.
#[inline]
fn check_value(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => check_string(bytes, at + 1).map(|(end, _)| end),
        b'n' => check_word(bytes, at, b"null"),
        _ => check_nested(bytes, at),
    }
}

fn check_nested(bytes: &[u8], mut at: usize) -> Option<usize> {
    // What is open, innermost last: a bit each, set for objects.
    let (mut open, mut depth) = (0_u64, 0_u32);
    loop {
        at = blank_end(bytes, at);
        let first = *bytes.get(at)?;
        at = match first {
            b'{' | b'[' => {
                let is_object = first == b'{';
                at = blank_end(bytes, at + 1);
                if bytes.get(at) == Some(if is_object { &b'}' } else { &b']' }) {
                    at + 1
                } else if depth == DEPTH_MAX {
                    return None;
                } else {
                    depth += 1;
                    open = open << 1 | u64::from(is_object);
                    at = if is_object { check_key(bytes, at)? } else { at };
                    continue;
                }
            }
            b'"' => check_string(bytes, at + 1)?.0,
            b't' => check_word(bytes, at, b"true")?,
            b'f' => check_word(bytes, at, b"false")?,
            b'n' => check_word(bytes, at, b"null")?,
            _ => check_number(bytes, at)?,
        };
        loop {
            if depth == 0 {
                return Some(at);
            }
            at = blank_end(bytes, at);
            match (bytes.get(at)?, open & 1) {
                (b',', 1) => {
                    at = check_key(bytes, blank_end(bytes, at + 1))?;
                    break;
                }
                (b',', _) => {
                    at += 1;
                    break;
                }
                (b'}', 1) | (b']', 0) => {
                    at += 1;
                    depth -= 1;
                    open >>= 1;
                }
                _ => return None,
            }
        }
    }
}

/// Behind the colon of a field.
fn check_key(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let colon = blank_end(bytes, check_string(bytes, at + 1)?.0);
    (bytes.get(colon) == Some(&b':')).then_some(colon + 1)
}

fn check_word(bytes: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    bytes.get(at..)?.starts_with(word).then_some(at + word.len())
}

#[inline]
fn check_string(bytes: &[u8], mut at: usize) -> Option<(usize, bool)> {
    let mut escaped = false;
    loop {
        let rest = bytes.get(at..)?;
        if let Some(len) = plain_len(rest) {
            return Some((at + len + 1, escaped));
        }
        at += plain_prefix(rest);
        escaped = true;
        match (bytes.get(at)?, bytes.get(at + 1)) {
            (b'\\', Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => at += 2,
            (b'\\', Some(b'u')) => {
                bytes.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                at += 6;
            }
            _ => return None,
        }
    }
}

/// RFC 8259 6: `[ minus ] int [ frac ] [ exp ]`.
fn check_number(bytes: &[u8], at: usize) -> Option<usize> {
    let digits = |mut at: usize| {
        let start = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        (start < at).then_some(at)
    };
    let at = at + usize::from(bytes.get(at) == Some(&b'-'));
    let mut end = if bytes.get(at) == Some(&b'0') { at + 1 } else { digits(at)? };
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1)?;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        end = digits(end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-'))))?;
    }
    Some(end)
}

/// Appends the inside of a well-formed string, as it is read.
fn unescape(inside: &str, out: &mut String) {
    let mut rest = inside;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = escape.chars();
        let letter = match chars.next() {
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let (letter, bytes) = unescape_unicode(escape);
                out.push(letter);
                rest = escape.get(bytes..).unwrap_or_default();
                continue;
            }
            Some(letter) => letter,
            None => return,
        };
        out.push(letter);
        rest = chars.as_str();
    }
    out.push_str(rest);
}

/// The character of `uXXXX`, with the `\uXXXX` behind it where they are a pair, and how many bytes that was.
fn unescape_unicode(escape: &str) -> (char, usize) {
    let unit = |at: usize| escape.get(at..at + 4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let first = unit(1).unwrap_or(0xFFFD);
    let second = unit(7).filter(|_| escape.get(5..7) == Some("\\u"));
    match (first, second) {
        (0xD800..=0xDBFF, Some(second @ 0xDC00..=0xDFFF)) => {
            let point = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
            (char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER), 11)
        }
        _ => (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 5),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Written out again, value by value.
    fn walked(value: Raw<'_>) -> String {
        if value.is_object() {
            let fields = value.fields().map(|(key, value)| format!("{:?}:{}", key.plain(), walked(value)));
            return format!("{{{}}}", fields.collect::<Vec<_>>().join(","));
        }
        if value.is_array() {
            return format!("[{}]", value.items().map(walked).collect::<Vec<_>>().join(","));
        }
        value.text().map_or_else(|| value.as_str().to_owned(), |text| format!("{:?}", text.plain()))
    }

    #[test]
    fn values_are_found_as_they_were_written() {
        let text =
            r#" { "a" : [ 1 , -2.50e+3 , [ ] , { } , "x" ] ,"b":{"c":null,"d":[true,false]}, "é\"":"\\" } "#;
        let value = Raw::parse(text.as_bytes()).unwrap();
        assert_eq!(
            walked(value),
            r#"{"a":[1,-2.50e+3,[],{},"x"],"b":{"c":null,"d":[true,false]},"é\"":"\\"}"#
        );
        assert_eq!(value.get("b").unwrap().as_str(), r#"{"c":null,"d":[true,false]}"#);
        assert_eq!(value.get("é\"").unwrap().text().unwrap().plain(), "\\");
        assert!(value.get("x").is_none() && value.get("b").unwrap().field("c").is_none());
    }

    /// What serde_json takes is taken, and nothing else, but half a surrogate pair, which some servers write.
    #[test]
    fn json_is_what_the_standard_says() {
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for text in [
            "",
            " ",
            "{",
            "}",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\":1 \"b\":2}",
            "[1 2]",
            "nul",
            "nulll",
            "tru",
            "True",
            "01",
            "-",
            "-0",
            "0",
            "1.",
            ".5",
            "1.5",
            "1e",
            "1e+",
            "1e5",
            "1E-5",
            "+1",
            "0x1",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12G4\"",
            "\"\n\"",
            "\"\t\"",
            "\"\\n\"",
            "[]",
            "{}",
            "[[]]",
            "{\"a\":{}}",
            "{\"a\":[}]}",
            "[{]}",
            "1 1",
            "{}{}",
            "\"a\"b",
            "NaN",
            "'a'",
            "[1]\n",
            "\u{feff}{}",
            "{\"a\":1,\"a\":2}",
            "\"é😀\"",
        ] {
            let expected = serde_json::from_str::<serde_json::Value>(text).is_ok();
            assert_eq!(Raw::parse(text.as_bytes()).is_some(), expected, "{text:?}");
        }
        assert!(Raw::parse(b"\"\xFF\"").is_none() && Raw::parse(b"{\"\xC3\":1}").is_none());
        assert!(Raw::parse(deep(64).as_bytes()).is_some() && Raw::parse(deep(66).as_bytes()).is_none());
        assert!(Raw::parse("[".repeat(1_000_000).as_bytes()).is_none());
        let half = Raw::parse(br#""\ud83d""#).unwrap().text().unwrap();
        assert_eq!(half.plain(), "\u{fffd}");
    }

    #[test]
    fn texts() {
        for (written, read) in [
            (r#""""#, ""),
            (r#""plain é😀""#, "plain é😀"),
            (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r#""\u00e9\u20AC\uD83D\uDE00x""#, "é€😀x"),
            (r#""\uDE00\uD83Dx\uD83D\u0041""#, "\u{fffd}\u{fffd}x\u{fffd}A"),
            (r#""a\\u0041""#, "a\\u0041"),
        ] {
            let text = Raw::parse(written.as_bytes()).unwrap().text().unwrap();
            assert_eq!(text.plain(), read, "{written}");
            let mut scratch = String::from("left over");
            assert_eq!(text.plain_in(&mut scratch), read);
            assert!(text.is(read) && text == Text::from(read) && text.is_empty() == read.is_empty());
            // It is copied into other JSON as it is.
            let (mut out, mut ours) = (Vec::new(), Vec::new());
            text.write(&mut out);
            assert_eq!(core::str::from_utf8(&out).unwrap(), written);
            Text::from(read).write(&mut ours);
            assert_eq!(Raw::parse(&ours).unwrap().text().unwrap(), text);
        }
        assert!(Raw::parse(b"1").unwrap().text().is_none());
    }

    #[test]
    fn numbers() {
        let number = |text: &'static str| Raw::parse(text.as_bytes()).unwrap();
        assert_eq!(number("18446744073709551615").u64(), Some(u64::MAX));
        assert_eq!(number("18446744073709551616").u64(), None);
        assert_eq!((number("-1").u64(), number("1.0").u64(), number("\"1\"").u64()), (None, None, None));
        assert_eq!((number("4294967296").count(), number("7").count()), (Some(u32::MAX), Some(7)));
        assert_eq!((number("-2.5e1").f64(), number("null").f64()), (Some(-25.0), None));
    }
}
