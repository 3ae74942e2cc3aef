//! The problems found so far, and how a place in the resolved configuration is found again in what was written.
use super::diagnostic::{Diagnostic, Place, Severity};
use super::document::{Found, Node, Slip, Value};
use super::environment::{DotenvProblem, Missing};
use super::mask::Mask;
use super::path::Path;
use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FilePath, PathBuf};

/// The problems found so far.
#[derive(Debug)]
pub(super) struct Report<'d> {
    source: &'d FilePath,
    text: &'d str,
    root: Option<&'d Node>,
    problems: Vec<Problem>,
    // Starts of the keys and values that may be shown.
    harmless: BTreeSet<usize>,
    // What was written elsewhere: `models.default` for what `llm` says.
    aliases: Vec<(Path, Path)>,
    // Set by a flag of the command line.
    flags: BTreeMap<Path, &'static str>,
    // Texts into which a variable could not be put: what else is wrong with them follows from that.
    unfilled: BTreeSet<Path>,
    // Lists of which some elements were unfit: the places of those that remain.
    thinned: BTreeMap<Path, Vec<usize>>,
}

#[derive(Debug)]
struct Problem {
    severity: Severity,
    path: Path,
    place: Where,
    message: String,
    help: String,
}

#[derive(Debug)]
enum Where {
    Text(Range<usize>),
    Elsewhere(Place),
}

impl<'d> Report<'d> {
    /// Nothing found yet in this text.
    pub(super) fn new(source: &'d FilePath, text: &'d str, root: Option<&'d Node>) -> Self {
        Self {
            source,
            text,
            root,
            problems: Vec::new(),
            harmless: BTreeSet::new(),
            aliases: Vec::new(),
            flags: BTreeMap::new(),
            unfilled: BTreeSet::new(),
            thinned: BTreeMap::new(),
        }
    }

    /// What is said about `path` was written at `written`.
    pub(super) fn alias(&mut self, path: Path, written: Path) {
        self.aliases.push((path, written));
    }

    /// What is said about `path` was given by this flag.
    pub(super) fn flag(&mut self, path: Path, flag: &'static str) {
        self.flags.insert(path, flag);
    }

    /// Of the list at `path` only these elements remain.
    pub(super) fn thin(&mut self, path: Path, kept: Vec<usize>) {
        self.thinned.insert(path, kept);
    }

    /// The key or value that begins here may be shown.
    pub(super) fn may_be_shown(&mut self, range: &Range<usize>) {
        self.harmless.insert(range.start);
    }

    /// A text of the configuration, for a message. What a variable said is not told: it may have been a secret's.
    pub(super) fn quote(&self, path: &Path, text: &str) -> String {
        if self.is_filled(path) { "what its variable says".to_owned() } else { quoted(text) }
    }

    /// Was a variable put into the text at `path`?
    pub(super) fn is_filled(&self, path: &Path) -> bool {
        let path = self.written_path(path);
        let found = self.root.map(|root| root.find(&path)).filter(|found| found.whole);
        found.is_some_and(|found| matches!(found.node.value, Value::Text(_, true)))
    }

    /// Something is wrong with the value at `path`, or one is missing there.
    pub(super) fn error(&mut self, path: &Path, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Error, path, message.into(), help.into());
    }

    /// A careful person would change the value at `path`.
    pub(super) fn warning(&mut self, path: &Path, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Warning, path, message.into(), help.into());
    }

    /// Each of these keys that was written in the object at `path` has no use there.
    pub(super) fn useless(&mut self, path: &Path, keys: &[&str], why: &str, help: &str) {
        for key in keys {
            let at = self.written_path(&path.key(key));
            let found = self.root.map(|root| root.find(&at)).filter(|found| found.whole);
            if let Some(entry) = found.and_then(|found| found.key) {
                self.error_in(entry.name_range.clone(), &at, format!("`{key}` {why}"), help.to_owned());
            }
        }
    }

    /// Something is wrong at this very place of the text.
    pub(super) fn error_in(&mut self, range: Range<usize>, path: &Path, message: String, help: String) {
        let place = Where::Text(range);
        self.problems.push(Problem { severity: Severity::Error, path: path.clone(), place, message, help });
    }

    /// The text itself has problems.
    pub(super) fn slips(&mut self, slips: Vec<Slip>) {
        for slip in slips {
            self.error_in(slip.range, &slip.path, slip.message, slip.help);
        }
    }

    /// Variables cannot be put in.
    pub(super) fn missing(&mut self, missing: Vec<Missing>) {
        for missing in missing {
            self.unfilled.insert(missing.path.clone());
            self.error_in(missing.range, &missing.path, missing.message, missing.help);
        }
    }

    /// The `.env` file has problems.
    pub(super) fn dotenv(&mut self, problems: Vec<DotenvProblem>) {
        for problem in problems {
            let mut place = Place::whole(problem.file);
            if 0 < problem.line {
                (place.line, place.column, place.width) = (problem.line, 1, 1);
            }
            self.problems.push(Problem {
                severity: Severity::Error,
                path: Path::default(),
                place: Where::Elsewhere(place),
                message: problem.message,
                help: "write NAME=value, in quotes if it has blanks; `#` begins a comment".to_owned(),
            });
        }
    }

    fn add(&mut self, severity: Severity, path: &Path, message: String, help: String) {
        let flag = self.flags.iter().find(|(flagged, _)| path.is_within(flagged)).map(|(_, flag)| *flag);
        let (path, place) = match flag {
            Some(flag) => (path.clone(), Where::Elsewhere(Place::whole(PathBuf::from(flag)))),
            None => {
                let path = self.written_path(path);
                if self.unfilled.contains(&path) {
                    return;
                }
                let range = self.range(&path);
                (path, Where::Text(range))
            }
        };
        self.problems.push(Problem { severity, path, place, message, help });
    }

    fn written_path(&self, path: &Path) -> Path {
        let path = path.reindexed(|list, index| {
            self.thinned.get(list).and_then(|kept| kept.get(index)).copied().unwrap_or(index)
        });
        self.aliases.iter().find_map(|(from, to)| path.moved(from, to)).unwrap_or(path)
    }

    // A value is shown itself; what has several lines, by its key or its bracket; what is missing, by what it should be in.
    fn range(&self, path: &Path) -> Range<usize> {
        let Some(root) = self.root else { return 0..0 };
        let Found { node, key, whole } = root.find(path);
        match (&node.value, key) {
            (Value::List(_) | Value::Object(_), Some(key)) => key.name_range.clone(),
            (Value::List(_) | Value::Object(_), None) => node.range.start..node.range.start + 1,
            (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(..), Some(key)) if !whole => {
                key.name_range.clone()
            }
            (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(..), _) => node.range.clone(),
        }
    }

    /// Was a value written at `path`, fit or not?
    pub(super) fn is_written(&self, path: &Path) -> bool {
        let path = self.written_path(path);
        self.root.is_some_and(|root| root.find(&path).whole)
    }

    /// The keys that were written in the object at `path`, fit or not.
    pub(super) fn keys(&self, path: &Path) -> Vec<&'d str> {
        let path = self.written_path(path);
        self.root.map(|root| root.keys(&path).collect()).unwrap_or_default()
    }

    /// Is nothing written in the list at `path`, fit or not?
    pub(super) fn is_empty_list(&self, path: &Path) -> bool {
        let found = self.root.map(|root| root.find(path)).filter(|found| found.whole);
        found.is_none_or(|found| matches!(&found.node.value, Value::List(elements) if elements.is_empty()))
    }

    /// Were elements of the list at `path` unfit?
    pub(super) fn is_thinned(&self, path: &Path) -> bool {
        self.thinned.contains_key(path)
    }

    /// Has anything been found that refuses the configuration?
    pub(super) fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// What was found, in the order of the text, each once.
    pub(super) fn finish(self) -> Vec<Diagnostic> {
        let mask = match self.root {
            Some(root) => Mask::of(root, &self.harmless),
            None => Mask::of_unread(super::schema::keys()),
        };
        let mut found: Vec<Diagnostic> = Vec::with_capacity(self.problems.len());
        for problem in self.problems {
            let place = match problem.place {
                Where::Elsewhere(place) => place,
                Where::Text(range) => {
                    let shown = mask.show(self.text, &range);
                    Place {
                        source: self.source.to_path_buf(),
                        line: shown.line,
                        column: shown.column,
                        width: shown.width,
                        text: shown.text,
                        caret: shown.caret,
                    }
                }
            };
            found.push(Diagnostic {
                severity: problem.severity,
                place,
                path: problem.path.to_string(),
                message: problem.message,
                help: problem.help,
            });
        }
        found.sort_by(|one, other| {
            let key = |it: &Diagnostic| (it.place.source != self.source, it.place.line, it.place.column);
            key(one).cmp(&key(other))
        });
        found.dedup();
        found
    }
}

/// A text in quotes, cut if it is long.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
