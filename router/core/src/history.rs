//! What a session remembers for its agent's prompts: what was said, and its context variables. Each is one text with the
//! lengths of its pieces in it, because there may be a million of them: every further allocation costs what a short
//! message does.
use crate::limits::Limits;
use crate::view::{Past, Role, Variables};
use alloc::string::String;

/// Writes a number into a text: six bits a character, the lowest first, and 64 where another follows. All are below 128,
/// so that a length before a piece leaves the whole a text.
fn put_number(packed: &mut String, mut number: u64) {
    loop {
        let low = u8::try_from(number & 63).unwrap_or(0);
        number >>= 6;
        packed.push(char::from(if number == 0 { low } else { low | 64 }));
        if number == 0 {
            return;
        }
    }
}

/// Reads a number, and returns what is behind it.
fn take_number(packed: &str) -> Option<(u64, &str)> {
    let (mut number, mut shift) = (0, 0);
    for (place, byte) in packed.bytes().enumerate() {
        number |= u64::from(byte & 63) << shift;
        if byte & 64 == 0 {
            return Some((number, packed.get(place + 1..)?));
        }
        shift = (shift + 6).min(58);
    }
    None
}

/// Reads a piece of a text, with its length before it, and returns what is behind it.
pub(crate) fn take_piece(packed: &str) -> Option<(&str, &str)> {
    let (len, rest) = take_number(packed)?;
    rest.split_at_checked(usize::try_from(len).ok()?)
}

/// Reads a message of a history, and returns what is behind it.
pub(crate) fn take_said(packed: &str) -> Option<((Role, &str), &str)> {
    let (number, rest) = take_number(packed)?;
    let role = if number & 1 == 0 { Role::User } else { Role::Agent };
    let (text, rest) = rest.split_at_checked(usize::try_from(number >> 1).ok()?)?;
    Some(((role, text), rest))
}

/// What was said in a session, the oldest dropped whole where there is no room.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Of each message a number, whose lowest bit is its role and whose others are its length, and its text.
    packed: String,
    /// Bytes of the texts.
    bytes: u32,
    count: u32,
}

impl History {
    /// Adds a message. One that is longer than all the room is not kept, nor is anything before it: a prompt with a
    /// hole in it misleads more than a short one.
    pub(crate) fn push(&mut self, role: Role, text: &str, limits: &Limits) {
        let (bytes_max, entries_max) = (limits.history_bytes_max, u32::from(limits.history_messages_max));
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        if bytes_max < len || entries_max == 0 {
            self.clear();
            return;
        }
        let mut rest = self.packed.as_str();
        while (bytes_max - len < self.bytes || entries_max <= self.count)
            && let Some(((_, dropped), after)) = take_said(rest)
        {
            self.bytes -= u32::try_from(dropped.len()).unwrap_or(0);
            self.count -= 1;
            rest = after;
        }
        self.packed.drain(..self.packed.len() - rest.len());
        // The number before it has six characters at most.
        let needed = self.packed.len() + text.len() + 6;
        if self.packed.capacity() < needed {
            // A little more than needed, not twice: idle sessions keep what they have.
            self.packed.reserve_exact(text.len() + 6 + needed / 16);
        }
        put_number(&mut self.packed, u64::from(len) << 1 | u64::from(role == Role::Agent));
        self.packed.push_str(text);
        self.bytes += len;
        self.count += 1;
    }

    pub(crate) fn clear(&mut self) {
        self.packed.clear();
        (self.bytes, self.count) = (0, 0);
    }

    pub(crate) fn iter(&self) -> Past<'_> {
        Past { rest: &self.packed, left: self.count }
    }

    pub(crate) fn check(&self) {
        let (mut bytes, mut count, mut rest) = (0, 0, self.packed.as_str());
        while let Some(((_, text), after)) = take_said(rest) {
            (bytes, count, rest) = (bytes + text.len(), count + 1, after);
        }
        let told = (self.bytes as usize, self.count, "");
        assert_eq!((bytes, count, rest), told, "the lengths of a history add up");
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

/// A session's context variables, in the order in which they were first set: names and values, each with its length
/// before it.
#[derive(Debug, Default)]
pub(crate) struct Context(String);

impl Context {
    /// Sets a variable; an empty value removes it. If there is no room, all stays as it was.
    pub(crate) fn set(&mut self, name: &str, value: &str, limits: &Limits) -> Result<(), Unset> {
        if name.is_empty() {
            return Err(Unset::Nameless);
        }
        let Self(packed) = self;
        let (mut rest, mut bytes, mut count, mut found) = (packed.as_str(), 0, 0, None);
        while let Some((one, after)) = take_piece(rest) {
            let Some((value, next)) = take_piece(after) else { break };
            if one == name {
                found =
                    Some((packed.len() - rest.len(), packed.len() - after.len(), packed.len() - next.len()));
                // It makes room.
                bytes += one.len();
            } else {
                bytes += one.len() + value.len();
            }
            (rest, count) = (next, count + 1);
        }
        let room = limits.context_bytes_max as usize;
        match found {
            Some((from, _, to)) if value.is_empty() => {
                packed.drain(from..to);
            }
            Some((_, from, to)) => {
                if room < bytes + value.len() {
                    return Err(Unset::Full);
                }
                let mut piece = String::with_capacity(value.len() + 6);
                put_number(&mut piece, value.len() as u64);
                piece.push_str(value);
                packed.replace_range(from..to, &piece);
            }
            None if value.is_empty() => {}
            None => {
                let full = usize::from(limits.context_entries_max) <= count;
                if full || room < bytes + name.len() + value.len() {
                    return Err(Unset::Full);
                }
                packed.reserve_exact(name.len() + value.len() + 4);
                for piece in [name, value] {
                    put_number(packed, piece.len() as u64);
                    packed.push_str(piece);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn iter(&self) -> Variables<'_> {
        Variables(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec::Vec;

    const LIMITS: Limits = Limits {
        history_messages_max: 3,
        history_bytes_max: 10,
        context_entries_max: 2,
        context_bytes_max: 10,
        ..Limits::TEST
    };

    #[test]
    fn the_oldest_goes_first_and_whole() {
        let table: [(&[&str], &[&str]); 6] = [
            (&["a", "b", "c", "d"], &["b", "c", "d"]),
            (&["aaaaa", "bbbbb", "c"], &["bbbbb", "c"]),
            (&["aaa", "bbb", "cccccccccc"], &["cccccccccc"]),
            (&["aaa", "ccccccccccc", "d"], &["d"]),
            (&["", "é", ""], &["", "é", ""]),
            (&[], &[]),
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
    fn messages_of_any_length_come_back_as_they_were_said() {
        let limits = Limits { history_messages_max: 100, history_bytes_max: 1 << 20, ..Limits::TEST };
        let mut history = History::default();
        let said: Vec<_> = (0..20)
            .map(|power| {
                (if power % 3 == 0 { Role::Agent } else { Role::User }, "é".repeat((1 << power) / 9))
            })
            .collect();
        for (role, text) in &said {
            history.push(*role, text, &limits);
            history.check();
        }
        assert_eq!(history.iter().len(), said.len());
        assert!(history.iter().eq(said.iter().map(|(role, text)| (*role, text.as_str()))));
        history.clear();
        history.check();
        assert_eq!(history.iter().next(), None);
        let mut packed = String::new();
        for number in [0, 1, 63, 64, 4_095, 4_096, u64::from(u32::MAX) << 1 | 1] {
            packed.clear();
            put_number(&mut packed, number);
            assert_eq!(take_number(&packed), Some((number, "")));
            assert_eq!(take_number(&packed[..packed.len() - 1]), None);
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
