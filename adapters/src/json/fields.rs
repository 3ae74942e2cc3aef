//! The fields of an object that its reader knows, found in one pass over its keys, and read without a tape where the
//! object is as plain as most are.
//!
//! Owns what counts as plain: one object of texts without escapes, truths and nulls. Whatever else there is, wrong JSON
//! too, is left to the tape, which is the judge of what JSON is. Tests hold one against the other.
use super::Value;
use crate::Bad;
use clawgate_core::codes::Code;
use clawgate_wire::json::plain_len;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held<'b> {
    /// It is absent or `null`.
    Nothing,
    /// A text.
    Text(&'b str),
    /// `true` or `false`.
    Truth(bool),
    /// A number, an array or an object.
    Other,
}

impl<'b> Held<'b> {
    /// What a value is, as far as fields tell it.
    #[must_use]
    pub fn of(value: Option<Value<'_, 'b>>) -> Self {
        let Some(value) = value.filter(|value| !value.is_null()) else { return Self::Nothing };
        match (value.str(), value.bool()) {
            (Some(text), _) => Self::Text(text),
            (None, Some(truth)) => Self::Truth(truth),
            (None, None) => Self::Other,
        }
    }

    /// The text of a field that must be there.
    ///
    /// # Errors
    /// `MISSING_FIELD`, with its name.
    pub fn required(self, key: &'static str) -> Result<&'b str, Bad> {
        if let Self::Text(text) = self { Ok(text) } else { Err(missing(key, "a text")) }
    }

    /// The text of a field that may be absent or `null`: then it is empty.
    ///
    /// # Errors
    /// `MISSING_FIELD` for another type.
    pub fn optional(self, key: &'static str) -> Result<&'b str, Bad> {
        match self {
            Self::Nothing => Ok(""),
            Self::Text(text) => Ok(text),
            Self::Truth(_) | Self::Other => Err(missing(key, "a text")),
        }
    }

    /// The truth of a field that may be absent or `null`.
    ///
    /// # Errors
    /// `MISSING_FIELD` for another type.
    pub fn flag(self, key: &'static str, otherwise: bool) -> Result<bool, Bad> {
        match self {
            Self::Nothing => Ok(otherwise),
            Self::Truth(truth) => Ok(truth),
            Self::Text(_) | Self::Other => Err(missing(key, "true or false")),
        }
    }
}

#[cold]
fn missing(key: &str, what: &str) -> Bad {
    Bad { code: Code::MissingField, text: format!("`{key}` must be {what}").into() }
}

/// Where in the document a value is. Without a borrow: what turns out not to be plain goes on to the tape, which
/// writes into the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Absent,
    Null,
    Text(usize, usize),
    Truth(bool),
}

impl Place {
    /// What is there.
    pub(super) fn held(self, document: &str) -> Held<'_> {
        match self {
            Self::Absent | Self::Null => Held::Nothing,
            // Texts end at quotation marks, so there are always characters to cut between.
            Self::Text(start, end) => Held::Text(document.get(start..end).unwrap_or_default()),
            Self::Truth(truth) => Held::Truth(truth),
        }
    }
}

/// The values of these names in a plain object, of two of one name the first; `None` if it is not plain, or has more
/// keys than this.
pub(super) fn plain<const N: usize>(bytes: &[u8], names: &[&str; N], keys_max: usize) -> Option<[Place; N]> {
    let mut found = [Place::Absent; N];
    let mut at = Cursor { bytes, at: 0 };
    at.take(b'{')?;
    let mut ended = at.take(b'}').is_some();
    let mut keys = 0;
    while !ended {
        at.take(b'"')?;
        let (start, end) = at.text()?;
        at.take(b':')?;
        let value = at.value()?;
        keys += 1;
        let key = bytes.get(start..end)?;
        if let Some(n) = names.iter().position(|name| name.as_bytes() == key)
            && found[n] == Place::Absent
        {
            found[n] = value;
        }
        ended = at.take(b',').is_none();
        if ended {
            at.take(b'}')?;
        }
    }
    at.skip_space();
    (at.at == bytes.len() && keys <= keys_max).then_some(found)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        // RFC 8259 section 2: "Insignificant whitespace is allowed before or after any of the six structural characters."
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// Goes past this character, if it is the next one after white space.
    #[inline]
    fn take(&mut self, byte: u8) -> Option<()> {
        if self.bytes.get(self.at) != Some(&byte) {
            self.skip_space();
        }
        let is_next = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(is_next);
        is_next.then_some(())
    }

    /// The rest of a text that has begun, without its last quotation mark. An escape or a control character is for the
    /// tape to judge.
    #[inline]
    fn text(&mut self) -> Option<(usize, usize)> {
        let start = self.at;
        let end = start + plain_len(self.rest())?;
        self.at = end + 1;
        Some((start, end))
    }

    #[inline]
    fn value(&mut self) -> Option<Place> {
        if self.take(b'"').is_some() {
            let (start, end) = self.text()?;
            return Some(Place::Text(start, end));
        }
        let rest = self.rest();
        let (len, place) = if rest.starts_with(b"true") {
            (4, Place::Truth(true))
        } else if rest.starts_with(b"false") {
            (5, Place::Truth(false))
        } else if rest.starts_with(b"null") {
            (4, Place::Null)
        } else {
            return None;
        };
        self.at += len;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Json, JsonLimits};

    const NAMES: [&str; 3] = ["type", "content", "stream"];
    const PLAIN: [&str; 8] = [
        "{}",
        " { } ",
        r#"{"type":"message"}"#,
        r#"{"content":"as long as a text must be to be looked at in blocks and not by words alone","type":""}"#,
        "{ \"type\" : \"a\" ,\n\"other\":\t\"b\",\"stream\":true , \"x\":null, \"y\":false}\r\n",
        r#"{"type":null,"type":"second","stream":false,"stream":true}"#,
        r#"{"content":"Grüße, 漢字 und 👍","type":"é"}"#,
        "{\"content\":\"\u{7f}\u{80}\"}",
    ];

    /// Was it read as a plain one? And what the tape says of it, which must be the same.
    fn check(bytes: &[u8]) -> (bool, Result<[String; 3], Code>) {
        let mut json = Json::new(JsonLimits::TEST);
        let told = |held: [Held<'_>; 3]| held.map(|held| format!("{held:?}"));
        let mut copy = bytes.to_vec();
        let read = json.fields(&mut copy, &NAMES, |held, root| (told(held), root.is_none()));
        let (read, plain) = match read {
            Ok((read, plain)) => (Ok(read), plain),
            Err(bad) => (Err(bad.code), false),
        };
        let mut copy = bytes.to_vec();
        let parsed = json.parse(&mut copy).map_err(|bad| bad.code);
        let taped = parsed.map(|document| told(document.root().pick(&NAMES).map(Held::of)));
        assert_eq!(read, taped, "{}", String::from_utf8_lossy(bytes));
        (plain, taped)
    }

    #[test]
    fn plain_objects_are_read_as_the_tape_reads_them() {
        for text in PLAIN {
            let (plain, taped) = check(text.as_bytes());
            assert!(plain && taped.is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_not_plain_is_the_tapes() {
        for text in [
            r#"{"type":1}"#,
            r#"{"type":"a\n"}"#,
            r#"{"ty\u0070e":"a"}"#,
            r#"{"type":["a"]}"#,
            r#"{"type":{}}"#,
            r#"["type"]"#,
            r#""type""#,
            "",
        ] {
            assert!(!check(text.as_bytes()).0, "{text}");
        }
        let many = format!("{{{}}}", vec!["\"k\":\"\""; JsonLimits::TEST.keys_max + 1].join(","));
        assert_eq!(check(many.as_bytes()), (false, Err(Code::BadJson)));
    }

    /// Every prefix, and every byte exchanged for one that means something: never another answer than the tape's.
    #[test]
    fn spoiled_objects_are_never_taken_for_plain_ones() {
        for text in PLAIN {
            let bytes = text.as_bytes();
            for at in 0..bytes.len() {
                let _ = check(&bytes[..at]);
                for byte in *b"\"\\{}[]:,tn1 \x00\x1f\x7f\x80\xc3\xff" {
                    let mut spoiled = bytes.to_vec();
                    spoiled[at] = byte;
                    let _ = check(&spoiled);
                    spoiled.insert(at, bytes[at]);
                    let _ = check(&spoiled);
                }
            }
        }
    }
}
