//! Reads JSON through simd-json's tape, in memory that is reused, within limits on size, depth and keys.
//!
//! Owns: the parser's memory of one thread, and the cursor over what was parsed. Never builds a tree, never copies a
//! string: texts are slices of the caller's buffer, in which escapes are resolved in place. Obeys RFC 8259; where an
//! object repeats a key, the first one counts. What is plain enough is read without a tape (see [`Json::fields`]).
mod fields;
mod value;
pub(crate) mod write;

pub use fields::Held;
pub use value::{Digits, Value};

use crate::Bad;
use clawgate_core::codes::Code;
use core::cell::Cell;
use core::fmt;
use simd_json::{Buffers, Node, tape};

/// How much JSON is read before it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonLimits {
    /// Bytes of a document.
    pub bytes_max: usize,
    /// Arrays and objects inside one another; 1 is a flat object.
    pub depth_max: usize,
    /// Keys of all objects of a document together: it bounds what looking up a field costs.
    pub keys_max: usize,
}

impl JsonLimits {
    /// For bodies of senders that nobody knows yet: more than any platform sends in one event.
    pub const UNAUTHENTICATED: Self = Self { bytes_max: 256 * 1024, depth_max: 32, keys_max: 4_096 };
    /// Small enough that every limit is reached in a test.
    pub const TEST: Self = Self { bytes_max: 64 * 1024, depth_max: 16, keys_max: 512 };
}

/// simd-json has no word of its own for "too deep" that would be worth telling apart.
const NOT_JSON: &str = "the body is not JSON, or nested deeper than the limit";

/// Documents up to this size leave their memory to the next one; that of larger ones is given back.
const RETAINED_BYTES_MAX: usize = 64 * 1024;
/// A document of [`RETAINED_BYTES_MAX`] bytes rarely has more nodes.
const RETAINED_NODES_MAX: usize = 8 * 1024;

/// Parser memory: simd-json's buffers, the tape, and the same again for JSON inside JSON strings.
struct Memory {
    buffers: Buffers,
    nodes: tape::Tape<'static>,
    text: Vec<u8>,
}

impl Memory {
    fn new(depth_max: usize) -> Self {
        Self {
            buffers: Buffers::with_max_depth(0, depth_max),
            nodes: tape::Tape(Vec::new()),
            text: Vec::new(),
        }
    }

    /// Parses into the kept tape. The tape comes back by [`Self::keep`].
    fn fill<'b>(&mut self, bytes: &'b mut [u8], limits: &JsonLimits) -> Result<tape::Tape<'b>, Bad> {
        if limits.bytes_max < bytes.len() {
            return Err(Bad::new(Code::TooLarge, "the JSON is larger than the limit"));
        }
        let mut nodes = core::mem::replace(&mut self.nodes, tape::Tape(Vec::new())).reset();
        let large = RETAINED_BYTES_MAX < bytes.len();
        let parsed = simd_json::fill_tape(bytes, &mut self.buffers, &mut nodes);
        if large {
            self.buffers = Buffers::with_max_depth(0, limits.depth_max);
        }
        let refused = match parsed {
            Err(_) => Some(NOT_JSON),
            Ok(()) if limits.keys_max < keys(&nodes.0) => Some("the JSON has more keys than the limit"),
            Ok(()) => None,
        };
        match refused {
            Some(text) => {
                self.keep(nodes);
                Err(Bad::new(Code::BadJson, text))
            }
            None => Ok(nodes),
        }
    }

    fn keep(&mut self, mut nodes: tape::Tape<'_>) {
        if RETAINED_NODES_MAX < nodes.0.capacity() {
            nodes = tape::Tape(Vec::new());
        }
        self.nodes = nodes.reset();
    }
}

fn keys(nodes: &[Node<'_>]) -> usize {
    nodes.iter().map(|node| if let Node::Object { len, .. } = node { *len } else { 0 }).sum()
}

/// Reused parser memory of one thread.
pub struct Json {
    limits: JsonLimits,
    outer: Memory,
    /// Taken while JSON inside JSON is read. Boxed, because few platforms need it.
    inner: Cell<Option<Box<Memory>>>,
}

impl fmt::Debug for Json {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Json").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Json {
    /// A parser with no memory yet.
    #[must_use]
    pub fn new(limits: JsonLimits) -> Self {
        Self { limits, outer: Memory::new(limits.depth_max), inner: Cell::new(None) }
    }

    /// What it was made with.
    #[must_use]
    pub const fn limits(&self) -> JsonLimits {
        self.limits
    }

    /// Hands the fields of these names of one object to `read`: those of a plain object (texts without escapes, truths
    /// and nulls, as most messages of clients are) at a fraction of what the tape costs and without a root, those of any
    /// other document with it. `bytes` is scratch afterwards.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn fields<'b, R, const N: usize>(
        &mut self,
        bytes: &'b mut [u8],
        names: &[&str; N],
        read: impl FnOnce([Held<'b>; N], Option<Value<'_, 'b>>) -> R,
    ) -> Result<R, Bad> {
        let JsonLimits { bytes_max, depth_max, keys_max } = self.limits;
        if bytes.len() <= bytes_max
            && 1 <= depth_max
            && let Some(places) = fields::plain(bytes, names, keys_max)
        {
            let document = core::str::from_utf8(bytes).map_err(|_| Bad::new(Code::BadJson, NOT_JSON))?;
            return Ok(read(places.map(|place| place.held(document)), None));
        }
        let document = self.parse(bytes)?;
        let root = document.root();
        Ok(read(root.pick(names).map(Held::of), Some(root)))
    }

    /// Parses one document. `bytes` is scratch afterwards: escapes were resolved in it.
    ///
    /// # Errors
    /// `TOO_LARGE` above `bytes_max`; `BAD_JSON` for what is no JSON, not UTF-8, too deep, or has too many keys.
    pub fn parse<'j, 'b>(&'j mut self, bytes: &'b mut [u8]) -> Result<Document<'j, 'b>, Bad> {
        let nodes = self.outer.fill(bytes, &self.limits)?;
        Ok(Document { nodes, json: self })
    }
}

/// A parsed document. Dropped, it gives its memory back to its [`Json`]; texts read from it live on in the buffer.
#[derive(Debug)]
pub struct Document<'j, 'b> {
    nodes: tape::Tape<'b>,
    json: &'j mut Json,
}

impl Drop for Document<'_, '_> {
    fn drop(&mut self) {
        self.json.outer.keep(core::mem::replace(&mut self.nodes, tape::Tape(Vec::new())));
    }
}

impl<'b> Document<'_, 'b> {
    /// The outermost value.
    #[must_use]
    pub fn root(&self) -> Value<'_, 'b> {
        Value(self.nodes.as_value())
    }

    /// Reads a text of this document that is JSON itself. This is the one copy: the text must stay as it is.
    ///
    /// # Errors
    /// As for [`Json::parse`], with the same limits; and `BAD_JSON` for JSON inside JSON inside JSON.
    pub fn nested<R>(&self, text: &str, read: impl FnOnce(Value<'_, '_>) -> R) -> Result<R, Bad> {
        let json = &*self.json;
        let mut memory = json.inner.take().unwrap_or_else(|| Box::new(Memory::new(json.limits.depth_max)));
        let mut copy = core::mem::take(&mut memory.text);
        copy.clear();
        copy.extend_from_slice(text.as_bytes());
        let answer = memory.fill(&mut copy, &json.limits).map(|nodes| {
            let answer = read(Value(nodes.as_value()));
            memory.keep(nodes);
            answer
        });
        if copy.capacity() <= RETAINED_BYTES_MAX {
            memory.text = copy;
        }
        json.inner.set(Some(memory));
        answer
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Parses with the limits of tests and reads what came out.
    fn check<R>(text: &str, read: impl FnOnce(Value<'_, '_>) -> R) -> Result<R, Code> {
        let mut json = Json::new(JsonLimits::TEST);
        let mut bytes = text.as_bytes().to_vec();
        let document = json.parse(&mut bytes).map_err(|bad| bad.code)?;
        Ok(read(document.root()))
    }

    #[test]
    fn limits_are_exact() {
        let JsonLimits { bytes_max, depth_max, keys_max } = JsonLimits::TEST;
        let nest = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(check(&nest(depth_max), |_| ()), Ok(()));
        assert_eq!(check(&nest(depth_max + 1), |_| ()), Err(Code::BadJson));
        let object = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
        assert_eq!(check(&object(depth_max), |_| ()), Ok(()));
        assert_eq!(check(&object(depth_max + 1), |_| ()), Err(Code::BadJson));
        let keys = |count: usize| format!("{{{}}}", vec!["\"k\":0"; count].join(","));
        assert_eq!(check(&keys(keys_max), |_| ()), Ok(()));
        assert_eq!(check(&keys(keys_max + 1), |_| ()), Err(Code::BadJson));
        let spread = |count: usize| format!("[{}]", vec!["{\"k\":0}"; count].join(","));
        assert_eq!(check(&spread(keys_max + 1), |_| ()), Err(Code::BadJson));
        let blank = |bytes: usize| format!("1{}", " ".repeat(bytes - 1));
        assert_eq!(check(&blank(bytes_max), |_| ()), Ok(()));
        assert_eq!(check(&blank(bytes_max + 1), |_| ()), Err(Code::TooLarge));
    }

    /// The depth is counted before anything is built, so a bomb costs one pass over its bytes.
    #[test]
    fn bombs_are_refused_and_the_parser_lives_on() {
        let mut json = Json::new(JsonLimits::TEST);
        let bombs = ["[", "{\"a\":", "[[],", "{\"a\":{},\"b\":"];
        for bomb in bombs {
            let mut bytes = bomb.repeat(JsonLimits::TEST.bytes_max / bomb.len()).into_bytes();
            assert_eq!(json.parse(&mut bytes).map(|_| ()).map_err(|bad| bad.code), Err(Code::BadJson));
            let mut good = *br#"{"ok":true}"#;
            assert_eq!(json.parse(&mut good).unwrap().root().get("ok").and_then(Value::bool), Some(true));
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "{}}",
            "{} x",
            "nul",
            "'a'",
            "{\"a\":1,}",
            "\"\u{1}\"",
            "01",
            "+1",
            "\"\\ud800\"",
            "\"\\x\"",
        ] {
            assert_eq!(check(text, |_| ()), Err(Code::BadJson), "{text:?}");
        }
        let mut json = Json::new(JsonLimits::TEST);
        assert_eq!(
            json.parse(&mut b"\"\xff\"".to_vec()).map(|_| ()).map_err(|bad| bad.code),
            Err(Code::BadJson)
        );
    }

    #[test]
    fn texts_outlive_the_document() {
        let mut json = Json::new(JsonLimits::TEST);
        let mut bytes = br#"{"a":"\u00e9\n\ud83d\ude00","b":"plain"}"#.to_vec();
        let (a, b) = {
            let document = json.parse(&mut bytes).unwrap();
            (document.root().str_of("a").unwrap(), document.root().str_of("b").unwrap())
        };
        let mut other = *b"[1]";
        assert_eq!(json.parse(&mut other).unwrap().root().items().count(), 1);
        assert_eq!((a, b), ("é\n😀", "plain"));
    }

    #[test]
    fn memory_is_reused_and_that_of_large_documents_given_back() {
        let mut json = Json::new(JsonLimits::UNAUTHENTICATED);
        let mut small = b"[1,2,3]".to_vec();
        drop(json.parse(&mut small).unwrap());
        let kept = json.outer.nodes.0.capacity();
        assert!(0 < kept && json.outer.nodes.0.is_empty());
        let mut large = format!("[{}0]", "0,".repeat(100_000)).into_bytes();
        drop(json.parse(&mut large).unwrap());
        assert!(json.outer.nodes.0.capacity() <= RETAINED_NODES_MAX);
        let mut bad = b"[1,2,".to_vec();
        assert!(json.parse(&mut bad).is_err());
        assert_eq!(
            json.parse(&mut b"[1]".to_vec()).unwrap().root().items().next().and_then(Value::u64),
            Some(1)
        );
    }

    #[test]
    fn json_inside_json() {
        let mut json = Json::new(JsonLimits::TEST);
        let mut bytes = br#"{"content":"{\"text\":\"a\\\"b\"}","bad":"{","deep":"\"{}\""}"#.to_vec();
        let document = json.parse(&mut bytes).unwrap();
        let text = |key| document.root().str_of(key).unwrap();
        let read = |key| document.nested(text(key), |value| value.str_of("text").map(str::to_owned));
        for _ in 0..2 {
            assert_eq!(read("content"), Ok(Some(String::from("a\"b"))));
            assert_eq!(read("bad").map_err(|bad| bad.code), Err(Code::BadJson));
            assert_eq!(read("deep"), Ok(None));
        }
        let bomb = "[".repeat(JsonLimits::TEST.depth_max + 1);
        assert_eq!(document.nested(&bomb, |_| ()).map_err(|bad| bad.code), Err(Code::BadJson));
        let nested_twice = document.nested(text("content"), |_| read("content"));
        assert_eq!(
            nested_twice,
            Ok(Ok(Some(String::from("a\"b")))),
            "the inner memory is taken: it gets its own"
        );
    }
}
