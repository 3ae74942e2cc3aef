//! What a session remembers for its agent's prompts: what was said, and its context variables. Each is one text and
//! the lengths of its pieces, because there may be a million of them.
use crate::limits::Limits;
use crate::view::{Past, Role, Variables};
use alloc::string::String;
use alloc::vec::Vec;

/// What was said in a session, the oldest dropped whole where there is no room.
#[derive(Debug, Default)]
pub(crate) struct History {
    text: String,
    entries: Vec<(Role, u32)>,
}

impl History {
    /// Adds a message. One that is longer than all the room is not kept, nor is anything before it: a prompt with a
    /// hole in it misleads more than a short one.
    pub(crate) fn push(&mut self, role: Role, text: &str, limits: &Limits) {
        let (bytes_max, entries_max) =
            (limits.history_bytes_max as usize, usize::from(limits.history_messages_max));
        if bytes_max < text.len() || entries_max == 0 {
            self.clear();
            return;
        }
        let mut bytes = self.text.len() + text.len();
        let mut count = self.entries.len() + 1;
        let mut dropped = 0;
        while let Some(&(_, len)) = self.entries.get(dropped)
            && (bytes_max < bytes || entries_max < count)
        {
            bytes -= len as usize;
            count -= 1;
            dropped += 1;
        }
        self.text.drain(..self.text.len() + text.len() - bytes);
        self.entries.drain(..dropped);
        if self.text.capacity() < bytes {
            // A little more than needed, not twice: idle sessions keep what they have.
            self.text.reserve_exact(text.len() + bytes / 8);
        }
        self.text.push_str(text);
        self.entries.push((role, u32::try_from(text.len()).unwrap_or(0)));
    }

    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.entries.clear();
    }

    pub(crate) fn iter(&self) -> Past<'_> {
        Past { rest: &self.text, entries: &self.entries }
    }

    pub(crate) fn check(&self) {
        let bytes: usize = self.entries.iter().map(|&(_, len)| len as usize).sum();
        assert_eq!(bytes, self.text.len(), "the lengths of a history add up");
    }
}

/// Why a variable was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unset {
    /// It has no name.
    Nameless,
    /// There is no room for it.
    Full,
}

/// A session's context variables, in the order in which they were first set.
#[derive(Debug, Default)]
pub(crate) struct Context {
    text: String,
    lens: Vec<(u32, u32)>,
}

impl Context {
    /// Sets a variable; an empty value removes it. If there is no room, all stays as it was.
    pub(crate) fn set(&mut self, name: &str, value: &str, limits: &Limits) -> Result<(), Unset> {
        if name.is_empty() {
            return Err(Unset::Nameless);
        }
        let (mut start, mut found) = (0, None);
        for (place, &(name_len, value_len)) in self.lens.iter().enumerate() {
            let end = start + name_len as usize;
            if self.text.get(start..end) == Some(name) {
                found = Some((place, end, end + value_len as usize));
                break;
            }
            start = end + value_len as usize;
        }
        let len = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX);
        let room = limits.context_bytes_max as usize;
        match found {
            Some((place, from, to)) if value.is_empty() => {
                self.text.drain(from - name.len()..to);
                self.lens.remove(place);
            }
            Some((place, from, to)) => {
                if room < self.text.len() - (to - from) + value.len() {
                    return Err(Unset::Full);
                }
                self.text.replace_range(from..to, value);
                self.lens[place].1 = len(value);
            }
            None if value.is_empty() => {}
            None => {
                let full = usize::from(limits.context_entries_max) <= self.lens.len();
                if full || room < self.text.len() + name.len() + value.len() {
                    return Err(Unset::Full);
                }
                self.text.reserve_exact(name.len() + value.len());
                self.text.push_str(name);
                self.text.push_str(value);
                self.lens.push((len(name), len(value)));
            }
        }
        Ok(())
    }

    pub(crate) fn iter(&self) -> Variables<'_> {
        Variables { rest: &self.text, lens: &self.lens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    const LIMITS: Limits = Limits {
        history_messages_max: 3,
        history_bytes_max: 10,
        context_entries_max: 2,
        context_bytes_max: 10,
        ..Limits::TEST
    };

    #[test]
    fn the_oldest_goes_first_and_whole() {
        let table: [(&[&str], &[&str]); 5] = [
            (&["a", "b", "c", "d"], &["b", "c", "d"]),
            (&["aaaaa", "bbbbb", "c"], &["bbbbb", "c"]),
            (&["aaa", "bbb", "cccccccccc"], &["cccccccccc"]),
            (&["aaa", "ccccccccccc", "d"], &["d"]),
            (&["", "é", ""], &["", "é", ""]),
        ];
        for (said, kept) in table {
            let mut history = History::default();
            for text in said {
                history.push(Role::User, text, &LIMITS);
                history.check();
            }
            let past: Vec<&str> = history.iter().map(|(_, text)| text).collect();
            assert_eq!(past, kept, "{said:?}");
        }
    }

    #[test]
    fn variables_are_set_replaced_and_removed_within_their_room() {
        let mut context = Context::default();
        let list = |context: &Context| format!("{:?}", context.iter().collect::<Vec<_>>());
        let table = [
            ("a", "1", Ok(()), r#"[("a", "1")]"#),
            ("b", "22", Ok(()), r#"[("a", "1"), ("b", "22")]"#),
            ("c", "3", Err(Unset::Full), r#"[("a", "1"), ("b", "22")]"#),
            ("a", "333333", Ok(()), r#"[("a", "333333"), ("b", "22")]"#),
            ("b", "4444", Err(Unset::Full), r#"[("a", "333333"), ("b", "22")]"#),
            ("", "x", Err(Unset::Nameless), r#"[("a", "333333"), ("b", "22")]"#),
            ("a", "", Ok(()), r#"[("b", "22")]"#),
            ("zz", "", Ok(()), r#"[("b", "22")]"#),
            ("2", "2", Ok(()), r#"[("b", "22"), ("2", "2")]"#),
            ("2", "", Ok(()), r#"[("b", "22")]"#),
        ];
        for (name, value, result, expected) in table {
            assert_eq!(context.set(name, value, &LIMITS), result, "{name}={value}");
            assert_eq!(list(&context), expected, "{name}={value}");
        }
    }
}
