//! The address of an HTTP tool: a URL with places for arguments, as `https://api.example.com/v1/weather/{city}`.
//!
//! Pure. An argument can never change where a request goes: places are in the path and the query alone, what is put in
//! is percent-encoded (RFC 3986, 2.1), and a segment that would climb is refused.
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

/// All but the unreserved characters of RFC 3986, 2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A URL with places for arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The argument of this name; in the path it must be there.
    Argument {
        name: String,
        needed: bool,
    },
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let rest = rest.ok_or("it does not begin with https:// or http://")?;
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let authority = &rest[..authority_end];
        if authority.is_empty() || authority.contains(['{', '}', '@']) {
            return Err("its host is fixed: no place for an argument, and no user, stands there");
        }
        if text.contains('#') {
            return Err("it has a fragment, which is never sent");
        }
        let query = text.find('?').unwrap_or(text.len());
        let (mut parts, mut at) = (Vec::new(), 0);
        while let Some(open) = text[at..].find('{').map(|open| at + open) {
            let close = text[open..].find('}').ok_or("a `{` has no `}`")? + open;
            let name = &text[open + 1..close];
            if name.is_empty() || name.contains(['{', '/', '?', '&', '=']) {
                return Err("a place needs the name of an argument: `{city}`");
            }
            parts.push(Part::Text(text[at..open].to_owned()));
            parts.push(Part::Argument { name: name.to_owned(), needed: open < query });
            at = close + 1;
        }
        parts.push(Part::Text(text[at..].to_owned()));
        let template = Self { parts };
        let sample = template.fill(&|_| Some("x".to_owned())).unwrap_or_default();
        match sample.parse::<http::Uri>() {
            Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) && !sample.contains('}') => {
                Ok(template)
            }
            Ok(_) | Err(_) => Err("it is not a URL; write other characters percent-encoded"),
        }
    }

    /// The names of its arguments.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Argument { name, .. } => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Its host and port, as they are written.
    pub(crate) fn authority(&self) -> &str {
        let Some(Part::Text(text)) = self.parts.first() else { return "" };
        let rest = text.split_once("://").map_or("", |(_, rest)| rest);
        rest.split(['/', '?']).next().unwrap_or_default()
    }

    /// Is what is sent there encrypted?
    pub(crate) fn is_secure(&self) -> bool {
        matches!(self.parts.first(), Some(Part::Text(text)) if text.starts_with("https:"))
    }

    /// The URL for these arguments; those that it has no place for become its query if `rest` says so.
    ///
    /// # Errors
    /// What is wrong with the arguments, for the model.
    pub(crate) fn url(&self, arguments: &Map<String, Value>, rest: bool) -> Result<String, String> {
        for part in &self.parts {
            if let Part::Argument { name, needed: true } = part
                && !arguments.contains_key(name)
            {
                return Err(format!("the argument `{name}` is missing"));
            }
        }
        for name in self.names() {
            if arguments.get(name).is_some_and(|value| plain(value).is_none()) {
                return Err(format!("the argument `{name}` must be a text, a number, true or false"));
            }
        }
        let encoded = |name: &str| {
            let text = arguments.get(name).and_then(plain).unwrap_or_default();
            Some(utf8_percent_encode(&text, ENCODED).to_string())
        };
        let mut url = self.fill(&encoded).unwrap_or_default();
        let path = url.split('?').next().unwrap_or_default();
        if path.split('/').skip(3).any(|segment| segment == "." || segment == "..") {
            return Err("an argument of the path is `.` or `..`".to_owned());
        }
        let own: Vec<&str> = self.names().collect();
        for (name, value) in arguments.iter().filter(|(name, _)| rest && !own.contains(&name.as_str())) {
            let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            for value in values {
                let text = plain(value);
                let text = text.ok_or_else(|| format!("the argument `{name}` does not fit into a URL"))?;
                url.push(if url.contains('?') { '&' } else { '?' });
                url.extend(utf8_percent_encode(name, ENCODED));
                url.push('=');
                url.extend(utf8_percent_encode(&text, ENCODED));
            }
        }
        Ok(url)
    }

    fn fill(&self, value: &dyn Fn(&str) -> Option<String>) -> Option<String> {
        let mut url = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => url.push_str(text),
                Part::Argument { name, .. } => url.push_str(&value(name)?),
            }
        }
        Some(url)
    }
}

/// A value as it stands in a URL; `None` for one that does not.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn url(template: &str, arguments: Value, rest: bool) -> Result<String, String> {
        Template::parse(template).unwrap().url(arguments.as_object().unwrap(), rest)
    }

    #[test]
    fn arguments_are_put_in_and_change_nothing_else() {
        let place = "https://api.example.com/v1/{city}/now?units={units}";
        for (arguments, rest, expected) in [
            (json!({"city": "Rome", "units": "C"}), true, "https://api.example.com/v1/Rome/now?units=C"),
            (json!({"city": "São Paulo"}), true, "https://api.example.com/v1/S%C3%A3o%20Paulo/now?units="),
            (
                json!({"city": "a/../b?c=d&e#f@g:h\\i\r\nj"}),
                true,
                "https://api.example.com/v1/a%2F..%2Fb%3Fc%3Dd%26e%23f%40g%3Ah%5Ci%0D%0Aj/now?units=",
            ),
            (
                json!({"city": 7, "units": true, "q": "a b", "n": [1, 2]}),
                true,
                "https://api.example.com/v1/7/now?units=true&n=1&n=2&q=a%20b",
            ),
            (json!({"city": 7, "units": 1, "q": "a b"}), false, "https://api.example.com/v1/7/now?units=1"),
        ] {
            assert_eq!(url(place, arguments.clone(), rest).as_deref(), Ok(expected), "{arguments}");
        }
        assert_eq!(url("http://h", json!({"a": "b"}), true).as_deref(), Ok("http://h?a=b"));
        for (arguments, expected) in [
            (json!({}), "the argument `city` is missing"),
            (json!({"city": ".."}), "an argument of the path is `.` or `..`"),
            (json!({"city": "."}), "an argument of the path is `.` or `..`"),
            (json!({"city": ["x"]}), "the argument `city` must be a text, a number, true or false"),
            (json!({"city": "x", "deep": {"a": 1}}), "the argument `deep` does not fit into a URL"),
        ] {
            assert_eq!(url(place, arguments, true).unwrap_err(), expected);
        }
    }

    #[test]
    fn what_could_send_a_request_elsewhere_is_no_template() {
        for text in [
            "",
            "example.com/x",
            "ftp://example.com/",
            "https://",
            "https:///x",
            "https://{host}/x",
            "https://api.{host}/x",
            "https://user@example.com/",
            "https://example.com/#x",
            "https://example.com/{",
            "https://example.com/{}",
            "https://example.com/{a/b}",
            "https://example.com/a b",
            "https://example.com/}",
            "//example.com/x",
            "https://?x={a}",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
        let template = Template::parse("https://example.com:8443/{a}?b={c}").unwrap();
        assert_eq!((template.authority(), template.is_secure()), ("example.com:8443", true));
        assert_eq!(template.names().collect::<Vec<_>>(), ["a", "c"]);
    }
}
