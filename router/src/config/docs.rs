//! The documentation of the configuration: prose, and tables made from the schema, so that they cannot lie.
use super::schema::{bare, resolve, schema, words};
use core::fmt::Write;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;

/// A commented file to start from; it says what holds without a file.
pub(crate) const STARTER: &str = include_str!("starter.jsonc");

const GUIDE: &str = include_str!("guide.md");

/// In the order in which people need them.
const SECTIONS: [&str; 16] = [
    "server", "data", "journal", "store", "keys", "rate", "limits", "llm", "models", "agents", "tools",
    "audit", "route", "channels", "session", "logging",
];

/// `router/docs/configuration.md`: the guide, and every key.
#[must_use]
pub(crate) fn docs() -> String {
    let root = schema();
    let mut page = Page { root, out: GUIDE.to_owned(), seen: BTreeMap::new() };
    page.out.push_str("\n## Every key\n\n");
    page.out.push_str(
        "Made from the schema by `clawgate config docs`. Times in seconds may have a fraction (`0.5`). \"All \
         together\" means over all threads of the process.\n",
    );
    for name in SECTIONS {
        if let Some(section) = root.pointer(&format!("/properties/{name}")) {
            page.section(name, section);
        }
    }
    page.out
}

struct Page<'r> {
    root: &'r Json,
    out: String,
    // What was described already, and where: a route can hold routes, and rates stand in several places.
    seen: BTreeMap<String, String>,
}

impl<'r> Page<'r> {
    // One heading, one table; what lies deeper follows.
    fn section(&mut self, title: &str, schema: &'r Json) {
        if let Some(name) = text(schema, "$ref") {
            if self.seen.contains_key(name) {
                return;
            }
            self.seen.insert(name.to_owned(), title.to_owned());
        }
        let inner = resolve(self.root, schema);
        let about = text(schema, "description").or_else(|| text(inner, "description")).unwrap_or_default();
        if let Some(Json::Array(forms)) = inner.get("anyOf") {
            self.heading(title, about);
            self.out.push_str(
                "\nThe name of an agent, or one of these forms, which can be put into each other:\n",
            );
            for form in forms.iter().map(|form| resolve(self.root, form)) {
                self.form(title, form);
            }
            return;
        }
        if let Some(entries) = inner.get("additionalProperties").filter(|entries| entries.is_object()) {
            return self.section_of(&format!("{title}.<name>"), about, resolve(self.root, entries));
        }
        if let Some(items) = inner.get("items") {
            return self.section_of(&format!("{title}[]"), about, resolve(self.root, items));
        }
        self.section_of(title, about, inner);
    }

    fn section_of(&mut self, title: &str, about: &str, schema: &'r Json) {
        let Some(properties) = schema.get("properties").and_then(Json::as_object) else { return };
        self.heading(title, about);
        self.table(title, schema, properties);
    }

    fn form(&mut self, title: &str, schema: &'r Json) {
        let Some(properties) = schema.get("properties").and_then(Json::as_object) else { return };
        let _ = write!(self.out, "\n**{}**", text(schema, "description").unwrap_or_default());
        self.out.push('\n');
        self.table(title, schema, properties);
    }

    fn heading(&mut self, title: &str, about: &str) {
        let _ = write!(self.out, "\n### `{title}`\n\n{}\n", flat(about));
    }

    fn table(&mut self, title: &str, schema: &'r Json, properties: &'r Map<String, Json>) {
        self.out.push_str("\n| key | takes | default | bounds | meaning |\n|---|---|---|---|---|\n");
        let needed = schema.get("required").and_then(Json::as_array);
        for (name, property) in properties {
            let is_needed = needed.is_some_and(|needed| needed.iter().any(|key| key == name));
            let inner = resolve(self.root, property);
            let takes = self.takes(inner);
            let default = if is_needed { "*needed*".to_owned() } else { self.default(name, property, inner) };
            let bounds = bounds(name, property, inner);
            let about =
                text(property, "description").or_else(|| text(inner, "description")).unwrap_or_default();
            let choices = self.choices(inner);
            let twin = self.twin(property);
            let about = flat(about).replace('|', "\\|");
            let _ =
                writeln!(self.out, "| `{name}` | {takes} | {default} | {bounds} | {about}{twin}{choices} |");
        }
        for (name, property) in properties {
            if self.is_deep(property) {
                self.section(&format!("{title}.{name}"), property);
            }
        }
    }

    fn twin(&self, property: &Json) -> String {
        let known = text(property, "$ref").and_then(|name| self.seen.get(name));
        known.map(|title| format!(" Its keys are those of `{title}`.")).unwrap_or_default()
    }

    // Has it keys of its own that the reader must know?
    fn is_deep(&self, property: &Json) -> bool {
        let inner = resolve(self.root, property);
        let has_keys = |schema: &Json| resolve(self.root, schema).get("properties").is_some();
        has_keys(inner)
            || ["items", "additionalProperties"].iter().any(|key| inner.get(*key).is_some_and(has_keys))
    }

    fn takes(&self, schema: &Json) -> String {
        if words(schema).is_some() {
            return "word".to_owned();
        }
        if schema.get("anyOf").is_some() {
            return "route".to_owned();
        }
        let items = |key: &str| schema.get(key).map(|items| self.takes(resolve(self.root, items)));
        match schema.get("type").and_then(Json::as_str) {
            Some("string") if schema.get("format").is_some_and(|format| format == "password") => {
                "secret".to_owned()
            }
            Some("string") => "text".to_owned(),
            Some("integer") => "whole number".to_owned(),
            Some("number") => "number".to_owned(),
            Some("boolean") => "true, false".to_owned(),
            Some("array") => format!("list of {}s", items("items").unwrap_or_default()),
            Some("object") => {
                match schema.get("additionalProperties").filter(|entries| entries.is_object()) {
                    Some(_) => format!("object of {}s", items("additionalProperties").unwrap_or_default()),
                    None => "object".to_owned(),
                }
            }
            Some(_) | None => "anything".to_owned(),
        }
    }

    fn default(&self, name: &str, property: &Json, inner: &Json) -> String {
        match property.get("default").or_else(|| inner.get("default")) {
            None => "–".to_owned(),
            Some(Json::Number(number)) => match number.as_u64().and_then(|count| size(name, count)) {
                Some(size) => format!("{number} ({size})"),
                None => bare(number),
            },
            Some(Json::Object(_)) if inner.get("required").is_none() => "see below".to_owned(),
            Some(value) => format!("`{value}`"),
        }
    }

    fn choices(&self, schema: &Json) -> String {
        let inner = schema.get("items").map_or(schema, |items| resolve(self.root, items));
        let mut out = String::new();
        for (word, about) in words(inner).unwrap_or_default() {
            let _ = match about {
                "" => write!(out, "<br>`{word}`"),
                about => write!(out, "<br>`{word}`: {}", flat(about)),
            };
        }
        out
    }
}

fn bounds(name: &str, property: &Json, inner: &Json) -> String {
    let bound = |key: &str| {
        let number = property.get(key).or_else(|| inner.get(key)).and_then(Json::as_number)?;
        Some(number.as_u64().and_then(|count| size(name, count)).unwrap_or_else(|| bare(number)))
    };
    match (bound("minimum"), bound("maximum")) {
        (Some(min), Some(max)) => format!("{min} to {max}"),
        (Some(min), None) => format!("from {min}"),
        (None, Some(max)) => format!("to {max}"),
        (None, None) => String::new(),
    }
}

// Bytes in the units that people count them in.
fn size(name: &str, count: u64) -> Option<String> {
    let is_size = name.contains("Bytes");
    match count {
        _ if !is_size || count == 0 => None,
        count if count.is_multiple_of(1 << 20) => Some(format!("{} MiB", count >> 20)),
        count if count.is_multiple_of(1 << 10) => Some(format!("{} KiB", count >> 10)),
        _ => None,
    }
}

fn text<'j>(schema: &'j Json, key: &str) -> Option<&'j str> {
    schema.get(key).and_then(Json::as_str)
}

fn flat(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
