//! The place of a value in the configuration, as people write it: `channels.telegram.token`, `keys[2].id`.
use core::fmt;

/// One step down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Into an object.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// From the root to a value; empty for the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path(Vec<Step>);

impl Path {
    /// One key of the root.
    pub(super) fn of(key: &str) -> Self {
        Self::default().key(key)
    }

    /// This value's key.
    pub(super) fn key(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Self(steps)
    }

    /// This list's element.
    pub(super) fn index(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }

    /// The steps from the root.
    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The last key, if the last step is one.
    pub(super) fn last_key(&self) -> Option<&str> {
        match self.0.last() {
            Some(Step::Key(key)) => Some(key),
            Some(Step::Index(_)) | None => None,
        }
    }

    /// The same place below `target`, if it lies at or below `source`.
    pub(super) fn moved(&self, source: &Self, target: &Self) -> Option<Self> {
        let rest = self.0.strip_prefix(source.0.as_slice())?;
        let mut steps = target.0.clone();
        steps.extend_from_slice(rest);
        Some(Self(steps))
    }

    /// Does it lie at or below this one?
    pub(super) fn is_within(&self, root: &Self) -> bool {
        self.0.starts_with(&root.0)
    }

    /// With each index replaced by what `original` says for its list.
    pub(super) fn reindexed(&self, original: impl Fn(&Self, usize) -> usize) -> Self {
        let mut path = Self::default();
        for step in &self.0 {
            path = match step {
                Step::Key(key) => path.key(key),
                Step::Index(index) => path.index(original(&path, *index)),
            };
        }
        path
    }
}

impl fmt::Display for Path {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) => {
                    if 0 < position {
                        out.write_str(".")?;
                    }
                    if is_plain(key) {
                        out.write_str(key)?;
                    } else {
                        write!(out, "{key:?}")?;
                    }
                }
                Step::Index(index) => write!(out, "[{index}]")?,
            }
        }
        Ok(())
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-$".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_people_write_it() {
        let path = Path::of("keys").index(2).key("id");
        assert_eq!(path.to_string(), "keys[2].id");
        assert_eq!(Path::of("models").key("a.b").key("x y").to_string(), r#"models."a.b"."x y""#);
        assert_eq!(Path::default().to_string(), "");
        assert_eq!(path.last_key(), Some("id"));
    }

    #[test]
    fn a_path_moves_with_what_it_lies_in() {
        let alias = Path::of("models").key("default");
        let moved = alias.key("apiKey").moved(&alias, &Path::of("llm"));
        assert_eq!(moved.map(|path| path.to_string()), Some("llm.apiKey".to_owned()));
        assert_eq!(Path::of("models").moved(&alias, &Path::of("llm")), None);
        let kept = Path::of("keys").index(0).reindexed(|list, index| {
            assert_eq!(list, &Path::of("keys"));
            index + 3
        });
        assert_eq!(kept.to_string(), "keys[3]");
    }
}
