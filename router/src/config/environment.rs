//! Variables in texts: `${NAME}` and `${NAME:-default}`, from the environment of the process and a `.env` file beside
//! the configuration. The environment wins. It is read, never changed.
use super::document::{Node, Value};
use super::path::Path;
use core::ops::Range;
use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};

/// Where variables come from.
#[derive(Default)]
pub(super) struct Environment {
    // `None` asks the process.
    fixed: Option<BTreeMap<String, String>>,
    file: BTreeMap<String, String>,
}

// Its values are secrets more often than not.
impl core::fmt::Debug for Environment {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Environment").field("names", &self.file.keys()).finish_non_exhaustive()
    }
}

/// Something is wrong with the `.env` file. What the line says is not kept: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DotenvProblem {
    pub(super) file: PathBuf,
    /// 0 where the file could not be read.
    pub(super) line: usize,
    pub(super) message: String,
}

/// A variable that cannot be put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// Bytes of the text of the configuration.
    pub(super) range: Range<usize>,
    pub(super) path: Path,
    pub(super) message: String,
    pub(super) help: String,
}

impl Environment {
    /// The variables of the process, and those of a `.env` in this folder.
    pub(super) fn of_process(folder: &FilePath) -> (Self, Vec<DotenvProblem>) {
        let path = folder.join(".env");
        let (file, problems) = match std::fs::read_to_string(&path) {
            Ok(text) => read_dotenv(&path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (BTreeMap::new(), Vec::new()),
            Err(error) => {
                let message = format!("cannot be read: {error}");
                (BTreeMap::new(), vec![DotenvProblem { file: path, line: 0, message }])
            }
        };
        (Self { fixed: None, file }, problems)
    }

    /// These variables and no others.
    #[cfg(test)]
    pub(super) fn fixed(pairs: &[(&str, &str)]) -> Self {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { fixed: Some(pairs.collect()), file: BTreeMap::new() }
    }

    fn get(&self, name: &str) -> Option<String> {
        let set = match &self.fixed {
            Some(pairs) => pairs.get(name).cloned(),
            None => std::env::var(name).ok(),
        };
        set.or_else(|| self.file.get(name).cloned())
    }

    /// Puts the variables into every text below `node`, except where `skip` says that the value is not used.
    pub(super) fn fill(
        &self,
        node: &mut Node,
        text: &str,
        path: &Path,
        skip: &dyn Fn(&Path) -> bool,
        missing: &mut Vec<Missing>,
    ) {
        let skipped = skip(path);
        match &mut node.value {
            Value::Text(value, filled) if value.contains("${") => {
                *filled = true;
                let mut problems = Vec::new();
                *value = self.expand(value, &mut problems);
                if !skipped {
                    missing.extend(problems.into_iter().map(|problem| problem.at(&node.range, text, path)));
                }
            }
            Value::List(elements) => {
                for (index, element) in elements.iter_mut().enumerate() {
                    self.fill(element, text, &path.index(index), &|below| skipped || skip(below), missing);
                }
            }
            Value::Object(entries) => {
                for entry in entries {
                    let below = path.key(&entry.name);
                    self.fill(&mut entry.node, text, &below, &|below| skipped || skip(below), missing);
                }
            }
            Value::Text(..) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    // `$${` stands for `${` itself.
    fn expand(&self, value: &str, problems: &mut Vec<Problem>) -> String {
        let mut out = String::with_capacity(value.len());
        let mut rest = value;
        while let Some(at) = rest.find("${") {
            let before = &rest[..at];
            let after = &rest[at + 2..];
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = after;
                continue;
            }
            out.push_str(before);
            let Some(end) = after.find('}') else {
                problems.push(Problem::Open);
                return out;
            };
            self.expand_one(&after[..end], &mut out, problems);
            rest = &after[end + 1..];
        }
        out.push_str(rest);
        out
    }

    fn expand_one(&self, inside: &str, out: &mut String, problems: &mut Vec<Problem>) {
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            problems.push(Problem::Name(inside.to_owned()));
            return;
        }
        match (self.get(name), default) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (Some(_) | None, Some(default)) => out.push_str(default),
            (None, None) => problems.push(Problem::Unset(name.to_owned())),
        }
    }
}

enum Problem {
    Open,
    Name(String),
    Unset(String),
}

impl Problem {
    fn at(self, value: &Range<usize>, text: &str, path: &Path) -> Missing {
        let (sought, message, help) = match self {
            Self::Open => (
                "${".to_owned(),
                "a variable that begins with `${` has no `}`".to_owned(),
                "write `${NAME}`, or `$${` for the two characters themselves".to_owned(),
            ),
            Self::Name(inside) => (
                format!("${{{inside}"),
                "this is no name of a variable".to_owned(),
                "names are letters, digits and `_`; write `$${` for the two characters themselves".to_owned(),
            ),
            Self::Unset(name) => (
                format!("${{{name}"),
                format!("the variable {name} is not set"),
                format!(
                    "set it in the environment or in `.env` beside the file, or write `${{{name}:-default}}`"
                ),
            ),
        };
        // Escapes before it move the variable, so it is looked for in the text as written.
        let offset = text.get(value.clone()).and_then(|raw| raw.find(&sought));
        let range = offset.map_or_else(
            || value.clone(),
            |offset| {
                let start = value.start + offset;
                start..(start + sought.len() + 1).min(value.end)
            },
        );
        Missing { range, path: path.clone(), message, help }
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn read_dotenv(file: &FilePath, text: &str) -> (BTreeMap<String, String>, Vec<DotenvProblem>) {
    let mut pairs = BTreeMap::new();
    let mut problems = Vec::new();
    for pair in dotenvy::Iter::new(text.as_bytes()) {
        match pair {
            Ok((name, value)) => {
                pairs.insert(name, value);
            }
            Err(error) => problems.push(DotenvProblem {
                file: file.to_path_buf(),
                line: broken_line(&error, text),
                message: "this line is not NAME=value".to_owned(),
            }),
        }
    }
    (pairs, problems)
}

fn broken_line(error: &dotenvy::Error, text: &str) -> usize {
    let dotenvy::Error::LineParse(broken, _) = error else { return 0 };
    let first = broken.lines().next().unwrap_or_default();
    text.lines().position(|line| line.trim_end() == first.trim_end()).map_or(0, |index| index + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::document;
    use super::*;

    fn expand(value: &str) -> (String, usize) {
        let environment = Environment::fixed(&[("A", "one"), ("EMPTY", "")]);
        let mut problems = Vec::new();
        let value = environment.expand(value, &mut problems);
        (value, problems.len())
    }

    #[test]
    fn variables_are_put_in() {
        for (value, expected) in [
            ("plain", "plain"),
            ("${A}", "one"),
            ("<${A}${A}>", "<oneone>"),
            ("${A:-two}", "one"),
            ("${B:-two}", "two"),
            ("${B:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-two}", "two"),
            ("$${A}", "${A}"),
            ("$A {A} $", "$A {A} $"),
            ("${B:-a:-b}", "a:-b"),
        ] {
            assert_eq!(expand(value), (expected.to_owned(), 0), "{value}");
        }
        for value in ["${B}", "${", "${A", "${}", "${1}", "${A B}", "x${B}y", "${ü}"] {
            assert_eq!(expand(value).1, 1, "{value}");
        }
    }

    #[test]
    fn a_missing_variable_is_named_at_its_place() {
        let text = "{\"a\": [\"\\u0041 ${NOPE}\"], \"off\": \"${NOPE}\"}";
        let mut node = document::read(text).0.unwrap();
        let mut missing = Vec::new();
        let skip = |path: &Path| *path == Path::of("off");
        Environment::fixed(&[]).fill(&mut node, text, &Path::default(), &skip, &mut missing);
        assert_eq!(missing.len(), 1);
        assert_eq!(&text[missing[0].range.clone()], "${NOPE}");
        assert_eq!(missing[0].path.to_string(), "a[0]");
    }

    #[test]
    fn a_broken_line_of_dotenv_is_named_and_not_shown() {
        let text = "# comment\nA=1\nexport B=\"two words\"\nsecret without equals\nC='x'\n";
        let (pairs, problems) = read_dotenv(FilePath::new(".env"), text);
        assert_eq!(pairs.get("B").map(String::as_str), Some("two words"));
        assert_eq!(pairs.get("C").map(String::as_str), Some("x"));
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].line, 4);
        assert!(!problems[0].message.contains("secret"));
    }
}
