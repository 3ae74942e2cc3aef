//! Reads the fields of one flat JSON object where they lie. RFC 8259.
//!
//! For the few small shapes that the gateway answers with: strings and nested values are handed out as slices, nothing is
//! copied, nothing below the top level is looked into. It is no validator: what it cannot read it says so, and the
//! caller asks serde_json.

use std::borrow::Cow;

use memchr::memchr2;

/// The value of a field, where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A string, its quotes included.
    Text {
        /// The string as it was sent.
        quoted: &'a [u8],
        /// Whether it has escapes to undo.
        escaped: bool,
    },
    /// An object or an array.
    Nested(&'a [u8]),
    /// A number, `true`, `false` or `null`.
    Plain(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The text of a string; `None` if it is none or has broken escapes.
    #[inline]
    #[must_use]
    pub fn text(&self) -> Option<Cow<'a, [u8]>> {
        match self {
            Value::Text { quoted, escaped: false } => {
                quoted.get(1..quoted.len().checked_sub(1)?).map(Cow::Borrowed)
            }
            Value::Text { quoted, escaped: true } => {
                serde_json::from_slice::<String>(quoted).ok().map(|text| Cow::Owned(text.into_bytes()))
            }
            Value::Nested(_) | Value::Plain(_) => None,
        }
    }

    /// A whole number; `None` if it is none.
    #[inline]
    #[must_use]
    pub fn number(&self) -> Option<i64> {
        match self {
            Value::Plain(digits) => core::str::from_utf8(digits).ok()?.parse().ok(),
            Value::Text { .. } | Value::Nested(_) => None,
        }
    }
}

/// Not an object, or not one that this reader understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// The fields of an object, in order. A name is handed out as it was sent, without its quotes.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
    /// What the next field starts with: `{`, then `,`.
    lead: u8,
    done: bool,
}

/// Reads an object.
#[inline]
#[must_use]
pub fn fields(json: &[u8]) -> Fields<'_> {
    Fields { rest: json, lead: b'{', done: false }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(&'a [u8], Value<'a>), Unreadable>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        match self.field() {
            Some(Some(field)) => Some(Ok(field)),
            Some(None) => {
                self.done = true;
                None
            }
            None => {
                self.done = true;
                Some(Err(Unreadable))
            }
        }
    }
}

impl<'a> Fields<'a> {
    /// `None` if it cannot be read, `Some(None)` at the end.
    #[inline]
    fn field(&mut self) -> Option<Option<(&'a [u8], Value<'a>)>> {
        let next = self.take_byte()?;
        if next == b'}' && self.lead == b',' {
            return self.rest.trim_ascii_start().is_empty().then_some(None);
        }
        if next != self.lead {
            return None;
        }
        if self.lead == b'{' && self.rest.trim_ascii_start().starts_with(b"}") {
            self.rest = &[];
            return Some(None);
        }
        self.lead = b',';
        let Value::Text { quoted, escaped: false } = self.value()? else { return None };
        let name = quoted.get(1..quoted.len() - 1)?;
        if self.take_byte()? != b':' {
            return None;
        }
        Some(Some((name, self.value()?)))
    }

    #[inline]
    fn take_byte(&mut self) -> Option<u8> {
        let (byte, rest) = match self.rest.split_first()? {
            (b' ' | b'\t' | b'\n' | b'\r', _) => self.rest.trim_ascii_start().split_first()?,
            found => found,
        };
        self.rest = rest;
        Some(*byte)
    }

    #[inline]
    fn value(&mut self) -> Option<Value<'a>> {
        if self.rest.first().is_some_and(u8::is_ascii_whitespace) {
            self.rest = self.rest.trim_ascii_start();
        }
        let (bytes, escaped) = match self.rest.first()? {
            b'"' => string(self.rest)?,
            b'{' | b'[' => (nested(self.rest)?, false),
            _ => {
                (self.rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n'))?, false)
            }
        };
        let (value, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(match value.first()? {
            b'"' => Value::Text { quoted: value, escaped },
            b'{' | b'[' => Value::Nested(value),
            _ => Value::Plain(value),
        })
    }
}

/// How long the string at the start of `json` is, quotes included, and whether it has escapes.
#[inline]
fn string(json: &[u8]) -> Option<(usize, bool)> {
    let mut at = 1;
    let mut escaped = false;
    loop {
        at += memchr2(b'"', b'\\', json.get(at..)?)?;
        if json.get(at) == Some(&b'"') {
            return Some((at + 1, escaped));
        }
        escaped = true;
        at += 2;
    }
}

/// How long the object or array at the start of `json` is.
#[inline]
fn nested(json: &[u8]) -> Option<usize> {
    let mut depth = 0_u32;
    let mut at = 0;
    loop {
        match json.get(at)? {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b'"' => {
                at += string(json.get(at..)?)?.0;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rng::Rng;

    fn names(json: &str) -> Option<Vec<String>> {
        fields(json.as_bytes())
            .map(|field| field.ok().map(|(name, _)| String::from_utf8_lossy(name).into_owned()))
            .collect()
    }

    #[test]
    fn fields_are_found_where_they_lie() {
        let json = br#"{"type":"chunk","content":"a b","seq":12,"usage":{"a":[1,"}"]},"last":null}"#;
        let read: Vec<_> = fields(json).map(Result::unwrap).collect();
        assert_eq!(read.len(), 5);
        assert_eq!(read[0].1.text().unwrap().as_ref(), b"chunk");
        assert_eq!(read[1].1.text().unwrap().as_ref(), b"a b");
        assert_eq!(read[2].1.number(), Some(12));
        assert_eq!(read[3].1, Value::Nested(br#"{"a":[1,"}"]}"#));
        assert_eq!(read[4].1, Value::Plain(b"null"));
    }

    #[test]
    fn escapes_are_undone_when_the_text_is_asked_for() {
        let json = "{ \"content\" : \"\\\"é\\u00e9\\n\\\\\" , \"id\": \"x\" }";
        let read: Vec<_> = fields(json.as_bytes()).map(Result::unwrap).collect();
        assert_eq!(read[0].1.text().unwrap().as_ref(), "\"éé\n\\".as_bytes());
        assert_eq!(read[1].1.text().unwrap().as_ref(), b"x");
    }

    #[test]
    fn an_empty_object_has_no_fields_and_what_is_no_object_is_said_to_be_none() {
        assert_eq!(names("{}"), Some(vec![]));
        assert_eq!(names(" { } "), Some(vec![]));
        for bad in
            ["", "[]", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":\"", "{\"a\":1}}", "{\"a\" 1}", "{a:1}"]
        {
            assert_eq!(names(bad), None, "{bad}");
        }
    }

    /// Whatever serde_json writes is read the same; whatever is cut off anywhere is not read as whole.
    #[test]
    fn it_agrees_with_serde_json() {
        let mut rng = Rng::new(11);
        for _ in 0..2_000 {
            let mut object = serde_json::Map::new();
            for field in 0..rng.below(6) {
                let text: String =
                    (0..rng.below(12)).map(|_| char::from_u32(rng.below(0x300) as u32).unwrap()).collect();
                let value = match rng.below(4) {
                    0 => serde_json::json!(text),
                    1 => serde_json::json!(rng.draw() as i32),
                    2 => serde_json::json!({"nested": [text, {"deep": true}]}),
                    _ => serde_json::Value::Null,
                };
                object.insert(format!("f{field}"), value);
            }
            let json = serde_json::to_string(&object).unwrap();
            let mut seen = 0;
            for field in fields(json.as_bytes()) {
                let (name, value) = field.unwrap();
                let expected = &object[core::str::from_utf8(name).unwrap()];
                match value {
                    Value::Text { .. } => {
                        assert_eq!(value.text().unwrap().as_ref(), expected.as_str().unwrap().as_bytes());
                    }
                    Value::Nested(raw) | Value::Plain(raw) => {
                        assert_eq!(serde_json::from_slice::<serde_json::Value>(raw).unwrap(), *expected);
                    }
                }
                seen += 1;
            }
            assert_eq!(seen, object.len());
            let cut = rng.below(json.len() as u64) as usize;
            let cut = json.floor_char_boundary(cut);
            assert_eq!(names(&json[..cut]), None, "{}", &json[..cut]);
        }
    }
}
