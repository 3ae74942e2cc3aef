//! Reads JSON through simd-json's tape, in memory that is reused, within limits on size, depth and keys.
//!
//! Owns: the parser's memory of one thread, and the cursor over what was parsed. Never builds a tree, never copies a
//! string: texts are slices of the caller's buffer, in which escapes are resolved in place. Obeys RFC 8259; where an
//! object repeats a key, the first one counts.
use crate::Bad;
use clawgate_core::codes::Code;
use core::cell::Cell;
use core::fmt;
use simd_json::prelude::*;
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
            // simd-json has no word of its own for "too deep" that would be worth telling apart.
            Err(_) => Some("the body is not JSON, or nested deeper than the limit"),
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

/// A value in a document: a cursor, two words. Texts live as long as the buffer (`'b`), not as the document.
#[derive(Clone, Copy, Debug)]
pub struct Value<'t, 'b>(tape::Value<'t, 'b>);

impl<'t, 'b> Value<'t, 'b> {
    /// The field of an object; `None` for another type, or where it has none of this name.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Self> {
        self.0.get(key).map(Value)
    }

    /// The text of this field of an object; `None` where it is absent or no text.
    #[must_use]
    pub fn str_of(self, key: &str) -> Option<&'b str> {
        self.get(key)?.str()
    }

    /// The text of a field that must be there.
    ///
    /// # Errors
    /// `MISSING_FIELD`, with its name.
    pub fn required(self, key: &'static str) -> Result<&'b str, Bad> {
        self.str_of(key).ok_or_else(|| missing(key, "a text"))
    }

    /// The text of a field that may be absent or `null`: then it is empty.
    ///
    /// # Errors
    /// `MISSING_FIELD` for another type.
    pub fn optional(self, key: &'static str) -> Result<&'b str, Bad> {
        match self.get(key).filter(|value| !value.is_null()) {
            None => Ok(""),
            Some(value) => value.str().ok_or_else(|| missing(key, "a text")),
        }
    }

    /// The truth of a field that may be absent or `null`.
    ///
    /// # Errors
    /// `MISSING_FIELD` for another type.
    pub fn flag(self, key: &'static str, otherwise: bool) -> Result<bool, Bad> {
        match self.get(key).filter(|value| !value.is_null()) {
            None => Ok(otherwise),
            Some(value) => value.bool().ok_or_else(|| missing(key, "true or false")),
        }
    }

    /// What a JSON pointer (RFC 6901) leads to. The empty pointer is the value itself.
    #[must_use]
    pub fn pointer(self, pointer: &str) -> Option<Self> {
        let Some(path) = pointer.strip_prefix('/') else {
            return pointer.is_empty().then_some(self);
        };
        path.split('/').try_fold(self, |at, token| {
            if at.0.is_array() {
                // RFC 6901 section 4: digits without leading zeros.
                let plain = token == "0" || !token.starts_with(['0', '+']);
                return at.0.get_idx(token.parse().ok().filter(|_| plain)?).map(Value);
            }
            if token.contains('~') {
                at.get(&token.replace("~1", "/").replace("~0", "~"))
            } else {
                at.get(token)
            }
        })
    }

    /// The elements of an array; none for another type.
    pub fn items(self) -> impl Iterator<Item = Self> {
        self.0.as_array().map(|array| array.iter()).into_iter().flatten().map(Value)
    }

    /// Is it an object?
    #[must_use]
    pub fn is_object(self) -> bool {
        self.0.is_object()
    }

    /// Is it `null`?
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Its text.
    #[must_use]
    pub fn str(self) -> Option<&'b str> {
        self.0.into_string()
    }

    /// Its truth.
    #[must_use]
    pub fn bool(self) -> Option<bool> {
        self.0.as_bool()
    }

    /// Its number, if it is whole and fits.
    #[must_use]
    pub fn i64(self) -> Option<i64> {
        self.0.as_i64()
    }

    /// Its number, if it is whole, fits and is not negative.
    #[must_use]
    pub fn u64(self) -> Option<u64> {
        self.0.as_u64()
    }

    /// Its number, whole or not.
    #[must_use]
    pub fn f64(self) -> Option<f64> {
        self.0.cast_f64()
    }

    /// An id: a text as it is, a whole number as its digits, all of them. Ids are never floats: 2^53 and above would not
    /// survive.
    #[must_use]
    pub fn id<'d>(self, digits: &'d mut Digits) -> Option<&'d str>
    where
        'b: 'd,
    {
        if let Some(text) = self.str() {
            return Some(text);
        }
        let (negative, number) = match (self.u64(), self.i64()) {
            (Some(number), _) => (false, number),
            (None, Some(number)) => (true, number.unsigned_abs()),
            (None, None) => return None,
        };
        Some(digits.write(negative, number))
    }
}

fn missing(key: &str, what: &str) -> Bad {
    Bad { code: Code::MissingField, text: format!("`{key}` must be {what}").into() }
}

/// Room for the digits of a number that is an id; lives on the stack of the one who asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Digits([u8; 20]);

impl Digits {
    /// The decimal form.
    pub fn write(&mut self, negative: bool, mut number: u64) -> &str {
        let mut at = self.0.len();
        loop {
            at -= 1;
            self.0[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        // 20 digits are the largest u64; a negative i64 has 19 at most, so the sign finds room.
        if negative && 0 < at {
            at -= 1;
            self.0[at] = b'-';
        }
        core::str::from_utf8(&self.0[at..]).unwrap_or_default()
    }
}
