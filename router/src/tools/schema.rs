//! The JSON Schema of a tool's arguments: compiled once, when the configuration or a server's list is read.
//!
//! Owns what is told to a model whose arguments do not fit. References lead nowhere but into the schema itself, and patterns
//! take linear time, because a schema may be a stranger's.
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use std::fmt;

/// Problems that are told at once: a model mends what it is told.
const PROBLEMS_MAX: usize = 8;
/// Bytes of what is told.
const TOLD_BYTES_MAX: usize = 2_048;
/// Bytes of a schema.
pub(crate) const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Bytes that one of its patterns may take, compiled.
const PATTERN_BYTES_MAX: usize = 256 * 1024;

/// A compiled schema.
pub(crate) struct Schema {
    text: String,
    validator: Validator,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Schema {
    /// Compiles one.
    ///
    /// # Errors
    /// What is wrong with it, in words for the operator.
    pub(crate) fn compile(schema: &Value) -> Result<Self, String> {
        // What every provider wants of a tool.
        if schema.get("type").and_then(Value::as_str) != Some("object") {
            return Err("arguments are an object: it needs \"type\": \"object\"".to_owned());
        }
        let text = schema.to_string();
        if SCHEMA_BYTES_MAX < text.len() {
            return Err(format!("it has {} bytes, more than {SCHEMA_BYTES_MAX}", text.len()));
        }
        let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX);
        let validator = jsonschema::options().with_pattern_options(patterns).build(schema);
        let validator = validator.map_err(|why| cut(&why.to_string()))?;
        Ok(Self { text, validator })
    }

    /// As JSON.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Do these arguments fit?
    ///
    /// # Errors
    /// What does not, in words for the model.
    pub(crate) fn check(&self, arguments: &Value) -> Result<(), String> {
        if self.validator.is_valid(arguments) {
            return Ok(());
        }
        let mut told = String::new();
        for problem in self.validator.iter_errors(arguments).take(PROBLEMS_MAX) {
            if !told.is_empty() {
                told.push_str("; ");
            }
            let place = problem.instance_path().to_string();
            if !place.is_empty() {
                told.push_str(&place);
                told.push_str(": ");
            }
            // Not the value itself: it may be as long as arguments may be, and the model knows what it said.
            told.push_str(&problem.masked_with("the value").to_string());
        }
        Err(cut(&told))
    }
}

/// The beginning of a text, as long as it may be.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TOLD_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn what_does_not_fit_is_told_without_the_value() {
        let schema = Schema::compile(&json!({
            "type": "object",
            "properties": {
                "city": { "type": "string", "minLength": 2 }, "days": { "type": "integer", "maximum": 7 },
            },
            "required": ["city"], "additionalProperties": false,
        }))
        .unwrap();
        assert_eq!(schema.check(&json!({ "city": "Rome", "days": 3 })), Ok(()));
        let told = schema.check(&json!({ "days": 1_000_017, "colour": "red" })).unwrap_err();
        for part in ["city", "/days", "colour"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(!told.contains("1000017"), "{told}");
        assert!(
            schema.check(&json!([])).is_err()
                && schema.check(&json!({ "city": "x".repeat(1 << 20) })).is_ok()
        );
    }

    #[test]
    fn what_is_no_schema_of_arguments_is_refused() {
        for (schema, part) in [
            (json!({}), "object"),
            (json!({ "type": "array" }), "object"),
            (json!({ "type": "object", "properties": { "a": { "type": "no such type" } } }), "no such type"),
            (
                json!({ "type": "object", "properties": { "a": { "$ref": "https://example.com/x.json" } } }),
                "example.com",
            ),
            (json!({ "type": "object", "properties": { "a": { "$ref": "file:///etc/passwd" } } }), "passwd"),
            (json!({ "type": "object", "properties": { "a": { "pattern": "(" } } }), "("),
            (json!({ "type": "object", "description": "x".repeat(SCHEMA_BYTES_MAX) }), "bytes"),
        ] {
            let told = Schema::compile(&schema).unwrap_err();
            assert!(told.contains(part), "{part} in {told}");
        }
        let (number, reference) = (json!({ "type": "integer" }), json!({ "$ref": "#/$defs/n" }));
        let inner = json!({ "type": "object", "$defs": { "n": number }, "properties": { "a": reference } });
        let schema = Schema::compile(&inner).unwrap();
        assert!(schema.check(&json!({ "a": 1 })).is_ok() && schema.check(&json!({ "a": "1" })).is_err());
    }

    #[test]
    fn a_pattern_of_a_stranger_takes_linear_time() {
        let schema =
            json!({ "type": "object", "properties": { "a": { "type": "string", "pattern": "^(a+)+$" } } });
        let schema = Schema::compile(&schema).unwrap();
        assert!(schema.check(&json!({ "a": format!("{}!", "a".repeat(50_000)) })).is_err());
    }
}
