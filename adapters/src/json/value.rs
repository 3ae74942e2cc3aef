//! The cursor over a parsed document: fields by name, by pointer, and as ids.
//!
//! Owns what counts as a text, a number and an id. Never copies; never fails on a type that it did not expect: it is `None`,
//! or a refusal that names the field.
use super::Held;
use crate::Bad;
use simd_json::prelude::*;
use simd_json::tape;

/// A value in a document: a cursor, two words. Texts live as long as the buffer (`'b`), not as the document.
#[derive(Clone, Copy, Debug)]
pub struct Value<'t, 'b>(pub(super) tape::Value<'t, 'b>);

impl<'t, 'b> Value<'t, 'b> {
    /// The field of an object; `None` for another type, or where it has none of this name.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Self> {
        self.0.get(key).map(Value)
    }

    /// The fields of these names, in one pass over the object's keys; each as [`Self::get`] would find it.
    #[must_use]
    pub fn pick<const N: usize>(self, names: &[&str; N]) -> [Option<Self>; N] {
        let mut found = [None; N];
        let Some(object) = self.0.as_object() else { return found };
        for (key, value) in object.iter() {
            if let Some(n) = names.iter().position(|name| *name == key)
                && found[n].is_none()
            {
                found[n] = Some(Value(value));
            }
        }
        found
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
        Held::of(self.get(key)).required(key)
    }

    /// The text of a field that may be absent or `null`: then it is empty.
    ///
    /// # Errors
    /// `MISSING_FIELD` for another type.
    pub fn optional(self, key: &'static str) -> Result<&'b str, Bad> {
        Held::of(self.get(key)).optional(key)
    }

    /// The truth of a field that may be absent or `null`.
    ///
    /// # Errors
    /// `MISSING_FIELD` for another type.
    pub fn flag(self, key: &'static str, otherwise: bool) -> Result<bool, Bad> {
        Held::of(self.get(key)).flag(key, otherwise)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Json, JsonLimits};
    use clawgate_core::codes::Code;

    fn check<R>(text: &str, read: impl FnOnce(Value<'_, '_>) -> R) -> R {
        let mut json = Json::new(JsonLimits::TEST);
        let mut bytes = text.as_bytes().to_vec();
        let document = json.parse(&mut bytes).unwrap();
        read(document.root())
    }

    /// RFC 6901 section 5, all of its examples, and what must lead nowhere.
    #[test]
    fn pointers() {
        let text = r#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8,"x":{"0":9}}"#;
        let number = |pointer: &str| check(text, |root| root.pointer(pointer).and_then(Value::u64));
        let numbers = ["/", "/a~1b", "/c%d", "/e^f", "/g|h", "/i\\j", "/k\"l", "/ ", "/m~0n", "/x/0"];
        for (expected, pointer) in numbers.into_iter().enumerate() {
            assert_eq!(number(pointer), Some(expected as u64), "{pointer}");
        }
        let found =
            |pointer: &str| check(text, |root| root.pointer(pointer).and_then(Value::str).map(str::to_owned));
        assert_eq!(found("/foo/0").as_deref(), Some("bar"));
        assert_eq!(found("/foo/1").as_deref(), Some("baz"));
        assert!(check(text, |root| root.pointer("").is_some_and(Value::is_object)));
        for nowhere in [
            "foo", "/foo/2", "/foo/-", "/foo/00", "/foo/01", "/foo/+1", "/foo/ 1", "/foo/", "/foo/0/x",
            "/nope/0",
        ] {
            assert!(check(text, |root| root.pointer(nowhere).is_none()), "{nowhere}");
        }
    }

    #[test]
    fn ids_keep_all_their_digits() {
        for (text, expected) in [
            ("0", Some("0")),
            ("9007199254740993", Some("9007199254740993")),
            ("18446744073709551615", Some("18446744073709551615")),
            ("-1001234567890", Some("-1001234567890")),
            ("-9223372036854775808", Some("-9223372036854775808")),
            ("\"7597792895776587776999\"", Some("7597792895776587776999")),
            ("18446744073709551616", None),
            ("1.5", None),
            ("1e3", None),
            ("true", None),
            ("null", None),
            ("[1]", None),
        ] {
            let mut digits = Digits::default();
            assert_eq!(
                check(text, |root| root.id(&mut digits).map(str::to_owned)).as_deref(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn fields_and_their_absence() {
        let text = r#"{"s":"x","n":null,"b":false,"i":1,"s":"y"}"#;
        check(text, |root| {
            assert_eq!(root.required("s"), Ok("x"), "the first of two counts");
            assert_eq!(
                (root.optional("s"), root.optional("n"), root.optional("none")),
                (Ok("x"), Ok(""), Ok(""))
            );
            assert_eq!(
                (root.flag("b", true), root.flag("n", true), root.flag("none", false)),
                (Ok(false), Ok(true), Ok(false))
            );
            for bad in [
                root.required("n").unwrap_err(),
                root.required("i").unwrap_err(),
                root.optional("i").unwrap_err(),
            ] {
                assert_eq!(bad.code, Code::MissingField);
            }
            assert_eq!(root.flag("i", true).unwrap_err().text, "`i` must be true or false");
        });
        check("[1,[2,3],{}]", |root| {
            assert!(root.get("s").is_none() && root.required("s").is_err());
            assert_eq!(root.items().filter_map(Value::u64).collect::<Vec<_>>(), [1]);
            assert_eq!(
                root.items().nth(1).into_iter().flat_map(Value::items).filter_map(Value::u64).sum::<u64>(),
                5
            );
        });
        assert_eq!(check("1.5", |root| root.f64()), Some(1.5));
        assert_eq!(check("3", |root| root.f64()), Some(3.0));
    }
}
