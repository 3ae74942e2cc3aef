//! The JSON Schema of the configuration, and the reading of a document by it: every unknown key, wrong type and value
//! out of range is found at once, each at its place.
//!
//! The schema comes from the types (`schemars`), so what an editor checks, what the documentation says and what is
//! refused here cannot differ. Only the words of JSON Schema that our types give rise to are understood; a test holds that.
use super::document::{Entry, Node, Value};
use super::path::Path;
use super::report::{Report, quoted};
use super::written::File;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::{Map, Number, Value as Json};
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// The JSON Schema (draft 2020-12) of a configuration file.
#[must_use]
pub(crate) fn schema() -> &'static Json {
    static SCHEMA: LazyLock<Json> = LazyLock::new(generate);
    &SCHEMA
}

fn generate() -> Json {
    let mut settings = SchemaSettings::draft2020_12();
    settings.transforms.push(Box::new(RecursiveTransform(without_null)));
    let mut schema = settings.into_generator().into_root_schema_for::<File>().to_value();
    schema["title"] = Json::from("Clawgate configuration");
    schema
}

// A key that is not needed is left out; `null` for it would be one more way to say the same.
fn without_null(schema: &mut schemars::Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(Json::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Json::Array(branches)) = object.get_mut("anyOf") {
        branches.retain(|branch| branch.get("type").is_none_or(|name| name != "null"));
        if let [only] = branches.as_mut_slice() {
            let only = only.take();
            object.remove("anyOf");
            object.extend(only.as_object().cloned().unwrap_or_default());
        }
    }
}

/// Every key that the schema knows, wherever it stands.
pub(super) fn keys() -> BTreeSet<String> {
    let forms = schema().get("$defs").and_then(Json::as_object).into_iter().flat_map(Map::values);
    let forms = forms.chain([schema()]);
    let properties = forms.filter_map(|form| form.get("properties")?.as_object());
    properties.flat_map(Map::keys).cloned().collect()
}

/// Follows a `$ref` of the schema `root`; a schema without one is itself.
pub(super) fn resolve<'s>(root: &'s Json, schema: &'s Json) -> &'s Json {
    let target = schema.get("$ref").and_then(Json::as_str).and_then(|name| name.strip_prefix('#'));
    target.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

/// The words that a schema admits, with what each means, if it is a choice of words.
pub(super) fn words(schema: &Json) -> Option<Vec<(&str, &str)>> {
    if let Some(Json::Array(values)) = schema.get("enum") {
        return values.iter().map(|value| Some((value.as_str()?, ""))).collect();
    }
    let Some(Json::Array(branches)) = schema.get("oneOf") else { return None };
    let mut all = Vec::new();
    for branch in branches {
        match branch.get("const").and_then(Json::as_str) {
            Some(word) => all.push((word, branch.get("description").and_then(Json::as_str).unwrap_or(""))),
            None => all.extend(words(branch)?),
        }
    }
    Some(all)
}

/// Reads documents by a schema.
#[derive(Debug)]
pub(super) struct Reader<'s> {
    root: &'s Json,
}

impl<'s> Reader<'s> {
    /// By this schema.
    pub(super) fn new(root: &'s Json) -> Self {
        Self { root }
    }

    /// What of the document is fit; everything else is reported. `None` if nothing is.
    pub(super) fn read(&self, node: &Node, report: &mut Report<'_>) -> Option<Json> {
        self.fit(node, self.root, &Path::default(), report)
    }

    fn fit(&self, node: &Node, schema: &Json, path: &Path, report: &mut Report<'_>) -> Option<Json> {
        let schema = resolve(self.root, schema);
        if let Some(Json::Array(branches)) = schema.get("anyOf") {
            return self.fit_one(node, branches, path, report);
        }
        if let Some(words) = words(schema) {
            return fit_word(node, &words, path, report);
        }
        let kind = schema.get("type").and_then(Json::as_str);
        match (&node.value, kind) {
            (Value::Object(entries), Some("object")) => self.fit_object(entries, schema, path, report),
            (Value::List(elements), Some("array")) => self.fit_list(elements, schema, path, report),
            (Value::Text(text, _), Some("string")) => {
                if !is_secret(schema) && !has_credentials(text) {
                    report.may_be_shown(&node.range);
                }
                Some(Json::from(text.as_str()))
            }
            (Value::Bool(value), Some("boolean")) => Some(Json::from(*value)),
            (Value::Number(number), Some("integer" | "number")) => {
                report.may_be_shown(&node.range);
                fit_number(number, schema, path, report)
            }
            // Anything goes; it may hold secrets.
            (_, None) => Some(plain(node)),
            (_, Some(_)) => {
                // Anything but a number may be a secret that was put one level too high.
                if matches!(node.value, Value::Number(_)) && !is_secret(schema) {
                    report.may_be_shown(&node.range);
                }
                wrong_type(node, schema, path, report);
                None
            }
        }
    }

    fn fit_object(
        &self,
        entries: &[Entry],
        schema: &Json,
        path: &Path,
        report: &mut Report<'_>,
    ) -> Option<Json> {
        let known = schema.get("properties").and_then(Json::as_object);
        let others = schema.get("additionalProperties").filter(|others| **others != Json::Bool(false));
        let mut out = Map::new();
        for entry in entries {
            report.may_be_shown(&entry.name_range);
            if entry.is_again {
                continue;
            }
            let below = path.key(&entry.name);
            let schema = known.and_then(|known| known.get(&entry.name)).or(others);
            match schema {
                Some(schema) => {
                    if let Some(value) = self.fit(&entry.node, schema, &below, report) {
                        out.insert(entry.name.clone(), value);
                    }
                }
                None => self.unknown(entry, known, &below, report),
            }
        }
        let required = schema.get("required").and_then(Json::as_array).into_iter().flatten();
        let mut complete = true;
        for name in required.filter_map(Json::as_str).filter(|name| !out.contains_key(*name)) {
            complete = false;
            if !entries.iter().any(|entry| entry.name == name) {
                let about = known.and_then(|known| known.get(name)).map_or("", |schema| about(schema));
                let message = format!("`{name}` is missing here");
                report.error(&path.key(name), message, format!("add `{name}`: {about}"));
            }
        }
        complete.then_some(Json::Object(out))
    }

    fn fit_list(
        &self,
        elements: &[Node],
        schema: &Json,
        path: &Path,
        report: &mut Report<'_>,
    ) -> Option<Json> {
        let anything = Json::Bool(true);
        let schema = schema.get("items").unwrap_or(&anything);
        let mut out = Vec::with_capacity(elements.len());
        let mut kept = Vec::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            if let Some(value) = self.fit(element, schema, &path.index(index), report) {
                out.push(value);
                kept.push(index);
            }
        }
        if kept.len() < elements.len() {
            report.thin(path.clone(), kept);
        }
        Some(Json::Array(out))
    }

    // The branch is chosen by what it needs, so that problems are told about what was meant.
    fn fit_one(&self, node: &Node, branches: &[Json], path: &Path, report: &mut Report<'_>) -> Option<Json> {
        let branches: Vec<&Json> = branches.iter().map(|branch| resolve(self.root, branch)).collect();
        let named = branches.iter().find(|branch| {
            let required = branch.get("required").and_then(Json::as_array).and_then(|names| names.first());
            match (&node.value, required.and_then(Json::as_str)) {
                (Value::Object(entries), Some(name)) => entries.iter().any(|entry| entry.name == name),
                (Value::Text(..), None) => branch.get("type").is_some_and(|kind| kind == "string"),
                _ => false,
            }
        });
        if let Some(branch) = named {
            return self.fit(node, branch, path, report);
        }
        let forms: Vec<String> = branches.iter().map(|branch| form(branch)).collect();
        let message = format!("{} has none of its forms", subject(path));
        report.error(path, message, format!("write {}", either(&forms)));
        None
    }

    fn unknown(
        &self,
        entry: &Entry,
        known: Option<&Map<String, Json>>,
        path: &Path,
        report: &mut Report<'_>,
    ) {
        let names: Vec<&str> = known.into_iter().flat_map(Map::keys).map(String::as_str).collect();
        let same = names.iter().find(|name| fold(name) == fold(&entry.name)).copied();
        let near = || nearest(&entry.name, names.iter().copied());
        let help = match (same, self.home_of(&entry.name)) {
            (Some(name), _) => format!("did you mean `{name}`?"),
            (None, Some(home)) => format!("it belongs to {home}"),
            (None, None) => match near() {
                Some(name) => format!("did you mean `{name}`?"),
                None => known_keys(&entry.name, names),
            },
        };
        let message = format!("unknown key {}", quoted(&entry.name));
        report.error_in(entry.name_range.clone(), path, message, help);
    }

    // A key that is right, in the wrong place.
    fn home_of(&self, name: &str) -> Option<String> {
        let sections = self.root.get("properties")?.as_object()?;
        if sections.contains_key(name) {
            return Some(format!("the top of the file, as `{name}`"));
        }
        sections.iter().find_map(|(section, schema)| {
            let schema = resolve(self.root, schema);
            let has = |schema: &Json| schema.pointer(&format!("/properties/{name}")).is_some();
            let entries = schema.get("additionalProperties").or_else(|| schema.get("items"));
            if has(schema) {
                return Some(format!("`{section}.{name}`"));
            }
            entries.filter(|entry| has(resolve(self.root, entry))).map(|_| format!("an entry of `{section}`"))
        })
    }
}

fn known_keys(name: &str, mut names: Vec<&str>) -> String {
    if names.is_empty() {
        return "no key is known here".to_owned();
    }
    names.retain(|known| !known.starts_with('$'));
    let count = names.len();
    names.sort_by(|one, other| strsim::jaro_winkler(other, name).total_cmp(&strsim::jaro_winkler(one, name)));
    names.truncate(12);
    let more = if names.len() < count { ", …" } else { "" };
    names.sort_unstable();
    format!("known here: {}{more}", names.join(", "))
}

/// The name that was meant, if one is near enough.
pub(super) fn nearest<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let folded = fold(written);
    let reach = (folded.chars().count() / 4).max(1);
    names
        .map(|name| (strsim::damerau_levenshtein(&folded, &fold(name)), name))
        .filter(|(distance, _)| *distance <= reach)
        .min()
        .map(|(_, name)| name)
}

fn fold(name: &str) -> String {
    name.chars().filter(|char| !"_-. ".contains(*char)).flat_map(char::to_lowercase).collect()
}

fn fit_word(node: &Node, words: &[(&str, &str)], path: &Path, report: &mut Report<'_>) -> Option<Json> {
    let known: Vec<String> = words.iter().map(|(word, _)| quoted(word)).collect();
    let Value::Text(text, _) = &node.value else {
        let message = format!("{} takes a word, not {}", subject(path), got(node));
        report.error(path, message, format!("write {}", either(&known)));
        return None;
    };
    report.may_be_shown(&node.range);
    if words.iter().any(|(word, _)| word == text) {
        return Some(Json::from(text.as_str()));
    }
    let message = format!("{} does not know {}", subject(path), report.quote(path, text));
    let hint = later(path.last_key().unwrap_or_default(), text).map(str::to_owned);
    let near = || nearest(text, words.iter().map(|(word, _)| *word));
    let help = hint.unwrap_or_else(|| match near() {
        Some(word) => format!("did you mean {word:?}? It takes {}", either(&known)),
        None => format!("it takes {}", either(&known)),
    });
    report.error(path, message, help);
    None
}

/// What is planned but not there yet, and what does until then.
pub(super) fn later(key: &str, word: &str) -> Option<&'static str> {
    match (key, word) {
        ("dmPolicy", "pairing") => Some(
            "pairing arrives in a later version; until then use \"allowlist\" and name the senders in `allowFrom`",
        ),
        ("groupPolicy", "pairing") => {
            Some("groups are not paired: use \"allowlist\" and name them in `groups`")
        }
        (
            "type",
            "discord" | "feishu" | "lark" | "googlechat" | "teams" | "msteams" | "signal" | "imessage"
            | "wechat" | "wecom" | "dingtalk" | "matrix" | "irc" | "mattermost" | "email" | "gmail" | "rokid",
        ) => Some(
            "this platform arrives in a later version; until then set `\"enabled\": false`, or bring it in by \"webhook\"",
        ),
        _ => None,
    }
}

fn fit_number(number: &Number, schema: &Json, path: &Path, report: &mut Report<'_>) -> Option<Json> {
    let whole = schema.get("type").is_some_and(|kind| kind == "integer");
    if whole && !number.is_i64() && !number.is_u64() {
        let message = format!("{} takes a whole number, not {number}", subject(path));
        report.error(path, message, "write it without a fraction or exponent");
        return None;
    }
    let bound = |name: &str| schema.get(name).and_then(Json::as_number).cloned();
    let (min, max) = (bound("minimum"), bound("maximum"));
    let value = number.as_f64().unwrap_or(f64::NAN);
    let above = min.as_ref().and_then(Number::as_f64).is_none_or(|min| min <= value);
    let below = max.as_ref().and_then(Number::as_f64).is_none_or(|max| value <= max);
    if above && below {
        return Some(Json::Number(number.clone()));
    }
    let help = match (min, max) {
        (Some(min), Some(max)) => format!("it must be {} to {}", bare(&min), bare(&max)),
        (Some(min), None) => format!("it must be at least {}", bare(&min)),
        (None, Some(max)) => format!("it must be at most {}", bare(&max)),
        (None, None) => String::new(),
    };
    let message = format!("{} cannot be {number}", subject(path));
    report.error(path, message, help);
    None
}

/// A number without a fraction that is zero.
pub(super) fn bare(number: &Number) -> String {
    let text = number.to_string();
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

fn wrong_type(node: &Node, schema: &Json, path: &Path, report: &mut Report<'_>) {
    let wanted = wanted(schema);
    let message = format!("{} takes {wanted}, not {}", subject(path), got(node));
    let kind = schema.get("type").and_then(Json::as_str).unwrap_or_default();
    let help = match (&node.value, kind) {
        (Value::Null, _) => "leave the key out".to_owned(),
        (Value::Text(..), "integer" | "number" | "boolean") => "write it without quotes".to_owned(),
        (Value::Number(_) | Value::Bool(_), "string") => "put it in double quotes".to_owned(),
        (Value::Object(_), "array") => "write a list: [{ … }]".to_owned(),
        (_, "array") => "write a list: [ … ]".to_owned(),
        (_, "object") => "write an object: { … }".to_owned(),
        (_, "boolean") => "write true or false".to_owned(),
        (_, _) => format!("write {wanted}"),
    };
    report.error(path, message, help);
}

fn wanted(schema: &Json) -> &'static str {
    match schema.get("type").and_then(Json::as_str) {
        Some("integer") => "a whole number",
        Some("number") => "a number",
        Some("boolean") => "true or false",
        Some("array") => "a list",
        Some("object") => "an object",
        Some(_) | None => "a text",
    }
}

fn got(node: &Node) -> &'static str {
    match &node.value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::Text(..) => "a text",
        Value::List(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn subject(path: &Path) -> String {
    match (path.last_key(), path.steps().is_empty()) {
        (Some(key), _) => format!("`{key}`"),
        (None, true) => "the file".to_owned(),
        (None, false) => format!("`{path}`"),
    }
}

fn form(schema: &Json) -> String {
    let required = schema.get("required").and_then(Json::as_array).and_then(|names| names.first());
    match required.and_then(Json::as_str) {
        Some(name) => format!("{{ \"{name}\": … }}"),
        None => wanted(schema).to_owned(),
    }
}

fn is_secret(schema: &Json) -> bool {
    schema.get("format").is_some_and(|format| format == "password")
}

// An address with a user or a query, where it does not belong or where it does.
fn has_credentials(text: &str) -> bool {
    text.contains("//") && text.contains(['@', '?', '#'])
}

fn about(schema: &Json) -> &str {
    let text = schema.get("description").and_then(Json::as_str).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim_end_matches('.')
}

/// `a, b or c`
pub(super) fn either(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn plain(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::from(*value),
        Value::Number(number) => Json::Number(number.clone()),
        Value::Text(text, _) => Json::from(text.as_str()),
        Value::List(elements) => elements.iter().map(plain).collect(),
        Value::Object(entries) => {
            let pairs = entries.iter().filter(|entry| !entry.is_again);
            let pairs = pairs.map(|entry| (entry.name.clone(), plain(&entry.node)));
            Json::Object(pairs.collect())
        }
    }
}
