//! A value that must not be seen: an API key, a token, a signing secret. It obeys no outside document.
//!
//! It never prints itself: `Debug` and `Serialize` give a placeholder, and there is no `Display`. Comparing two
//! secrets is not done here: whoever authenticates compares digests in constant time.
use core::fmt;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;

/// What is shown in place of a secret.
pub(crate) const HIDDEN: &str = "********";

/// A secret text. [`Secret::expose`] is the only way to read it, so that its uses can be found by name.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    /// Takes the text over.
    #[must_use]
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself. Never log it, never put it into an error.
    #[must_use]
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    // `format: password` is how editors and our own diagnostics know which texts must not be shown.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "password" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print_itself() {
        let secret = Secret::new("correct horse".to_owned());
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "******** Some(\n    ********,\n)");
        assert_eq!(serde_json::json!(secret), HIDDEN);
        assert_eq!(secret.expose(), "correct horse");
    }
}
