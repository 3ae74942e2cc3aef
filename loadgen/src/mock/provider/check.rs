//! Whether a request is one that the real service takes: what each format's reader asks of the JSON in front of it. Says
//! what is wrong and where, as a person would; in whose words it is told is the format's business.

use serde_json::{Map, Value};

/// Why a request is refused, or a script's error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) message: String,
    /// Which part of the request, as `messages[0].content`.
    pub(super) param: String,
    /// Money, not time, is short.
    pub(super) spent: bool,
    pub(super) retry_after_seconds: Option<u32>,
}

impl Refusal {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        let (message, param) = (message.into(), String::new());
        Self { status, message, param, spent: false, retry_after_seconds: None }
    }

    /// The request is wrong at this place.
    pub(super) fn at(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: param.into(), ..Self::new(400, message) }
    }
}

pub(super) type Checked<T> = Result<T, Refusal>;

/// A part of the request, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<'v> {
    pub(super) value: &'v Value,
    pub(super) path: String,
}

impl<'v> At<'v> {
    pub(super) fn body(value: &'v Value) -> Self {
        Self { value, path: String::new() }
    }

    /// A field that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(Self { value, path: self.inside(key) })
    }

    pub(super) fn need(&self, key: &str) -> Checked<Self> {
        self.get(key)
            .ok_or_else(|| Refusal::at(self.inside(key), format!("{}: field required", self.inside(key))))
    }

    fn inside(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn wrong(&self, why: &str) -> Refusal {
        Refusal::at(self.path.clone(), format!("{}: {why}", self.path))
    }

    pub(super) fn text(&self) -> Checked<&'v str> {
        self.value.as_str().ok_or_else(|| self.wrong("must be a string"))
    }

    /// A text that says something.
    pub(super) fn some_text(&self) -> Checked<&'v str> {
        let text = self.text()?;
        if text.is_empty() { Err(self.wrong("must not be empty")) } else { Ok(text) }
    }

    pub(super) fn bool(&self) -> Checked<bool> {
        self.value.as_bool().ok_or_else(|| self.wrong("must be a boolean"))
    }

    pub(super) fn object(&self) -> Checked<&'v Map<String, Value>> {
        self.value.as_object().ok_or_else(|| self.wrong("must be an object"))
    }

    pub(super) fn list(&self) -> Checked<Vec<Self>> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("must be an array"))?;
        let at = |(number, value)| Self { value, path: format!("{}[{number}]", self.path) };
        Ok(list.iter().enumerate().map(at).collect())
    }

    /// A list of one at the least.
    pub(super) fn some_list(&self) -> Checked<Vec<Self>> {
        let list = self.list()?;
        if list.is_empty() { Err(self.wrong("must not be empty")) } else { Ok(list) }
    }

    pub(super) fn number(&self, min: f64, max: f64) -> Checked<f64> {
        let number = self.value.as_f64().ok_or_else(|| self.wrong("must be a number"))?;
        if (min..=max).contains(&number) {
            Ok(number)
        } else {
            Err(self.wrong(&format!("must be between {min} and {max}")))
        }
    }

    pub(super) fn whole(&self, min: u64) -> Checked<u64> {
        let number = self.value.as_u64().filter(|number| min <= *number);
        number.ok_or_else(|| self.wrong(&format!("must be a whole number of at least {min}")))
    }

    pub(super) fn one_of(&self, words: &[&str]) -> Checked<&'v str> {
        let text = self.text()?;
        if words.contains(&text) {
            Ok(text)
        } else {
            Err(self.wrong(&format!("{text:?} is none of {}", words.join(", "))))
        }
    }

    /// No other fields than these.
    pub(super) fn only(&self, known: &[&str]) -> Checked<()> {
        match self.object()?.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let path = self.inside(key);
                Err(Refusal::at(
                    path.clone(),
                    format!("{path}: unknown parameter, extra inputs are not permitted"),
                ))
            }
        }
    }

    /// A name that a tool may have.
    pub(super) fn tool_name(&self) -> Checked<&'v str> {
        let name = self.some_text()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if name.len() <= 64 && name.bytes().all(plain) {
            Ok(name)
        } else {
            Err(self.wrong("must match ^[a-zA-Z0-9_-]{1,64}$"))
        }
    }

    /// Text that holds a JSON object.
    pub(super) fn object_text(&self) -> Checked<()> {
        match serde_json::from_str::<Map<String, Value>>(self.text()?) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.wrong("must be a JSON object in a string")),
        }
    }

    /// Base64 of something.
    pub(super) fn base64(&self) -> Checked<()> {
        let text = self.some_text()?.trim_end_matches('=');
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
        if text.bytes().all(plain) { Ok(()) } else { Err(self.wrong("must be base64")) }
    }

    /// The address of an image, or the image itself.
    pub(super) fn image_url(&self) -> Checked<()> {
        let url = self.some_text()?;
        let Some(data) = url.strip_prefix("data:") else {
            let web = url.starts_with("https://") || url.starts_with("http://");
            return if web { Ok(()) } else { Err(self.wrong("must be a web or data URL")) };
        };
        let Some((media, data)) = data.split_once(";base64,") else {
            return Err(self.wrong("a data URL must be base64"));
        };
        IMAGES.contains(&media).then_some(()).ok_or_else(|| self.wrong("unsupported image"))?;
        let data = Value::String(data.to_owned());
        At { value: &data, path: self.path.clone() }.base64()
    }
}

/// Kinds of images that all services take.
pub(super) const IMAGES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let body = json!({"a": [{"b": "x"}, {"b": 5}], "n": 3.5, "none": null});
        let at = At::body(&body);
        let list = at.need("a").unwrap().some_list().unwrap();
        assert_eq!(list[0].need("b").unwrap().text(), Ok("x"));
        let wrong = list[1].need("b").unwrap().text().unwrap_err();
        assert_eq!((wrong.status, wrong.param.as_str()), (400, "a[1].b"));
        assert!(at.need("none").unwrap_err().message.contains("none: field required"));
        assert!(at.only(&["a", "n"]).unwrap_err().message.starts_with("none: "));
        assert!(at.need("n").unwrap().whole(1).is_err() && at.need("n").unwrap().number(0.0, 4.0).is_ok());
    }

    #[test]
    fn images_are_addresses_or_base64() {
        for (url, good) in [
            ("https://x.example/a.png", true),
            ("data:image/png;base64,aGk/+A==", true),
            ("data:image/png;base64,!", false),
            ("data:text/plain;base64,aGk=", false),
            ("data:image/png,aGk=", false),
            ("ftp://x", false),
            ("", false),
        ] {
            let body = json!({ "url": url });
            assert_eq!(At::body(&body).need("url").unwrap().image_url().is_ok(), good, "{url}");
        }
    }
}
