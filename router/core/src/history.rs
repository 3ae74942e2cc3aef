//! What a session remembers for its agent's prompts: what was said, and its context variables. Each is one text with the
//! lengths of its pieces in it, exactly as long as it must be, because there may be a million of them: every further
//! allocation costs what a short message does.
use crate::call::{CHARS_PER_TOKEN, chars};
use crate::limits::Limits;
use crate::plan::Excerpt;
use crate::view::{Past, Role};
use alloc::boxed::Box;
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

/// How many characters [`put_number`] takes.
const fn number_len(number: u64) -> usize {
    let bits = (u64::BITS - number.leading_zeros()) as usize;
    if bits <= 6 { 1 } else { bits.div_ceil(6) }
}

/// A message's role and the length of its text, as one number.
fn said_number(role: Role, text: &str) -> u64 {
    (text.len() as u64) << 1 | u64::from(role == Role::Agent)
}

/// What was said in a session, the oldest dropped whole where there is no room: of each message a number, whose lowest bit
/// is its role and whose others are its length, and its text.
#[derive(Debug, Default)]
pub(crate) struct History(Box<str>);

impl History {
    /// Adds messages. As many of the last ones are kept as there is room for: a prompt with a hole in it misleads more
    /// than a short one.
    pub(crate) fn push(&mut self, said: &[(Role, &str)], limits: &Limits) {
        let (bytes_max, count_max) =
            (limits.history_bytes_max as usize, usize::from(limits.history_messages_max));
        let (mut bytes, mut count) = (0, 0);
        for (_, text) in Messages(&self.0).chain(said.iter().copied()) {
            (bytes, count) = (bytes + text.len(), count + 1);
        }
        let is_over = |bytes: usize, count: usize| bytes_max < bytes || count_max < count;
        let mut old = Messages(&self.0);
        while is_over(bytes, count)
            && let Some((_, text)) = old.next()
        {
            (bytes, count) = (bytes - text.len(), count - 1);
        }
        let dropped = self.0.len() - old.0.len();
        let mut new = said;
        while is_over(bytes, count)
            && let [(_, text), rest @ ..] = new
        {
            (bytes, count, new) = (bytes - text.len(), count - 1, rest);
        }
        let mut packed = String::from(core::mem::take(&mut self.0));
        packed.drain(..dropped);
        let numbers = new.iter().map(|(role, text)| number_len(said_number(*role, text)) + text.len());
        packed.reserve_exact(numbers.sum());
        for (role, text) in new {
            put_number(&mut packed, said_number(*role, text));
            packed.push_str(text);
        }
        // No room is held in reserve: there may be a million that nobody adds to.
        self.0 = packed.into_boxed_str();
    }

    pub(crate) fn iter(&self) -> Past<'_> {
        let left = Messages(&self.0).count();
        Past { rest: &self.0, left: u32::try_from(left).unwrap_or(u32::MAX) }
    }

    /// As many of the last messages as an agent's prompts may have of it. None of them is cut.
    pub(crate) fn excerpt(&self, of: Excerpt) -> Past<'_> {
        let mut past = self.iter();
        // Nothing is counted for the many that read all.
        while past.left > u32::from(of.messages_max) && past.next().is_some() {}
        if of.tokens_max != u32::MAX {
            let most = u64::from(of.tokens_max) * u64::from(CHARS_PER_TOKEN);
            let mut all: u64 = past.map(|(_, text)| u64::from(chars(text))).sum();
            while most < all
                && let Some((_, text)) = past.next()
            {
                all -= u64::from(chars(text));
            }
        }
        past
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn check(&self) {
        let mut messages = Messages(&self.0);
        messages.by_ref().for_each(drop);
        assert_eq!(messages.0, "", "the lengths of a history add up");
    }
}

/// The messages of a packed text.
struct Messages<'a>(&'a str);

impl<'a> Iterator for Messages<'a> {
    type Item = (Role, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (said, rest) = take_said(self.0)?;
        self.0 = rest;
        Some(said)
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

/// Sets one of a session's context variables, which are in the order in which they were first set: names and values, each
/// with its length before it. An empty value removes it. If there is no room, all stays as it was.
pub(crate) fn set_variable(
    packed: &mut String,
    (name, value): (&str, &str),
    limits: &Limits,
) -> Result<(), Unset> {
    if name.is_empty() {
        return Err(Unset::Nameless);
    }
    let (mut rest, mut bytes, mut count, mut found) = (packed.as_str(), 0, 0, None);
    while let Some((one, after)) = take_piece(rest) {
        let Some((value, next)) = take_piece(after) else { break };
        if one == name {
            found = Some((packed.len() - rest.len(), packed.len() - after.len(), packed.len() - next.len()));
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
            for piece in [name, value] {
                put_number(packed, piece.len() as u64);
                packed.push_str(piece);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Variables;
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
                history.push(&[(Role::User, text)], &LIMITS);
                history.check();
            }
            let past: Vec<&str> = history.iter().map(|(_, text)| text).collect();
            assert_eq!(past, kept, "{said:?}");
            // As much is kept where they come together, all or in part.
            for cut in 0..=said.len() {
                let mut history = History::default();
                for part in [&said[..cut], &said[cut..]] {
                    let part: Vec<_> = part.iter().map(|text| (Role::Agent, *text)).collect();
                    history.push(&part, &LIMITS);
                    history.check();
                }
                assert!(
                    history.iter().map(|(_, text)| text).eq(kept.iter().copied()),
                    "{said:?} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn a_prompt_has_the_last_that_fit_and_whole() {
        let limits = Limits { history_messages_max: 100, history_bytes_max: 1_000, ..Limits::TEST };
        let mut history = History::default();
        // A character of each is two bytes, and four are a token.
        for text in ["éééé", "éééééééé", "é", "ééé"] {
            history.push(&[(Role::User, text)], &limits);
        }
        let excerpt = |messages_max, tokens_max| {
            let past = history.excerpt(Excerpt { messages_max, tokens_max });
            assert_eq!(past.len(), past.count());
            past.count()
        };
        let all = (Excerpt::ALL.messages_max, Excerpt::ALL.tokens_max);
        assert_eq!(excerpt(all.0, all.1), 4);
        let messages: Vec<usize> = [0, 1, 3, 4, 5].map(|most| excerpt(most, all.1)).into();
        assert_eq!(messages, [0, 1, 3, 4, 4]);
        let tokens: Vec<usize> = [0, 1, 2, 3, 4].map(|most| excerpt(all.0, most)).into();
        assert_eq!(tokens, [0, 2, 2, 3, 4]);
        assert_eq!((excerpt(1, 1), excerpt(3, 1), excerpt(2, 4)), (1, 2, 2), "both bounds hold");
        assert!(history.excerpt(Excerpt { messages_max: 1, ..Excerpt::ALL }).eq([(Role::User, "ééé")]));
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
            history.push(&[(*role, text)], &limits);
            history.check();
        }
        assert_eq!(history.iter().len(), said.len());
        assert!(history.iter().eq(said.iter().map(|(role, text)| (*role, text.as_str()))));
        let mut none = History::default();
        none.check();
        assert_eq!((none.iter().next(), none.is_empty()), (None, true));
        none.push(&[(Role::User, "a")], &Limits { history_messages_max: 0, ..limits });
        assert!(none.is_empty());
        let mut packed = String::new();
        for number in [0, 1, 63, 64, 4_095, 4_096, u64::from(u32::MAX) << 1 | 1] {
            packed.clear();
            put_number(&mut packed, number);
            assert_eq!(packed.len(), number_len(number));
            assert_eq!(take_number(&packed), Some((number, "")));
            assert_eq!(take_number(&packed[..packed.len() - 1]), None);
        }
    }

    #[test]
    fn variables_are_set_replaced_and_removed_within_their_room() {
        let mut context = String::new();
        let list = |context: &str| format!("{:?}", Variables(context).collect::<Vec<_>>());
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
            assert_eq!(set_variable(&mut context, (name, value), &LIMITS), result, "{name}={value}");
            assert_eq!(list(&context), expected, "{name}={value}");
        }
    }
}
