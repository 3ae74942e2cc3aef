//! What a rule found, and the exceptions of `scripts/tidy/allow.toml`, each with its reason.
//!
//! An exception is counted: one more place than it grants is a finding, and so is one that is no longer needed.
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// How an exception bounds what it excuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// `max` is the number of places in the file, exactly.
    Places,
    /// `max` is the size that none of them may pass.
    Size(usize),
}

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule's name, as an exception names it.
    pub rule: &'static str,
    /// The file, from the root of the tree.
    pub path: String,
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What was found: the call, the function, the key.
    pub item: String,
    /// What is wrong with it and what to do.
    pub text: String,
    /// How an exception bounds it.
    pub measure: Measure,
}

impl Finding {
    /// A breach that counts as one place.
    #[must_use]
    pub fn new(rule: &'static str, path: &str, line: usize, item: &str, text: impl Into<String>) -> Self {
        let (path, item) = (path.to_owned(), item.to_owned());
        Self { rule, path, line, item, text: text.into(), measure: Measure::Places }
    }

    /// The same, bounded by its size.
    #[must_use]
    pub fn of_size(mut self, size: usize) -> Self {
        self.measure = Measure::Size(size);
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, item, text, .. } = self;
        match line {
            0 => write!(f, "{path}: {item}: {text}"),
            _ => write!(f, "{path}:{line}: {item}: {text}"),
        }
    }
}

/// One exception.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    rule: String,
    path: String,
    item: String,
    max: usize,
    reason: String,
}

/// All exceptions.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exceptions {
    #[serde(default)]
    allow: Vec<Exception>,
}

impl Exceptions {
    /// Reads `allow.toml`.
    ///
    /// # Errors
    /// What is wrong with it: its syntax, an unknown key, or an exception without a reason.
    pub fn read(text: &str) -> Result<Self, String> {
        let read: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        let bare = read.allow.iter().find(|exception| exception.reason.trim().len() < 10);
        match bare {
            Some(exception) => Err(format!("{} in {}: say why", exception.item, exception.path)),
            None => Ok(read),
        }
    }

    /// The findings of a rule that no exception covers, and the exceptions of that rule that cover too much.
    #[must_use]
    pub fn apply(&self, rule: &'static str, findings: Vec<Finding>) -> Vec<Finding> {
        let mut groups: BTreeMap<(String, String), Vec<Finding>> = BTreeMap::new();
        for finding in findings {
            groups.entry((finding.path.clone(), finding.item.clone())).or_default().push(finding);
        }
        let mut left = Vec::new();
        for exception in self.allow.iter().filter(|exception| exception.rule == rule) {
            let found = groups.remove(&(exception.path.clone(), exception.item.clone())).unwrap_or_default();
            left.extend(exception.judge(rule, found));
        }
        left.extend(groups.into_values().flatten());
        left
    }
}

impl Exception {
    fn judge(&self, rule: &'static str, found: Vec<Finding>) -> Vec<Finding> {
        let places = found.iter().filter(|finding| finding.measure == Measure::Places).count();
        let stale = |text: String| vec![Finding::new(rule, "scripts/tidy/allow.toml", 0, &self.item, text)];
        if found.is_empty() {
            return stale(format!("the exception for {} is not needed: remove it", self.path));
        }
        if 0 < places && places < self.max {
            return stale(format!("{} has {places} of them, not {}: lower its `max`", self.path, self.max));
        }
        let over = |finding: &Finding| match finding.measure {
            Measure::Places => self.max < places,
            Measure::Size(size) => self.max < size,
        };
        found.into_iter().filter(over).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exceptions(max: usize) -> Exceptions {
        let text = format!(
            "[[allow]]\nrule = \"r\"\npath = \"a.rs\"\nitem = \"x\"\nmax = {max}\nreason = \"because of the test\"\n"
        );
        Exceptions::read(&text).expect("well-formed")
    }

    fn places(count: usize) -> Vec<Finding> {
        (1..=count).map(|line| Finding::new("r", "a.rs", line, "x", "do something else")).collect()
    }

    #[test]
    fn an_exception_is_exact() {
        let left = |max, count| exceptions(max).apply("r", places(count)).len();
        assert_eq!(left(2, 2), 0);
        assert_eq!(left(2, 3), 3, "one more than granted: all are shown");
        assert_eq!(left(2, 1), 1, "one less than granted: lower it");
        assert_eq!(left(2, 0), 1, "none: remove it");
    }

    #[test]
    fn a_size_may_shrink_below_its_exception() {
        let sized = |size| vec![Finding::new("r", "a.rs", 1, "x", "shorten it").of_size(size)];
        assert!(exceptions(90).apply("r", sized(80)).is_empty());
        assert!(exceptions(90).apply("r", sized(90)).is_empty());
        assert_eq!(exceptions(90).apply("r", sized(91)).len(), 1);
    }

    #[test]
    fn an_exception_needs_its_reason() {
        let text = "[[allow]]\nrule = \"r\"\npath = \"a.rs\"\nitem = \"x\"\nmax = 1\nreason = \"\"\n";
        assert!(Exceptions::read(text).is_err());
        assert!(Exceptions::read("[[allow]]\nrule = \"r\"\n").is_err());
    }
}
