//! Cuts an answer into parts that a platform takes: at paragraphs, lines, sentences or spaces where it can, never
//! inside a character as people see it unless that is longer than a whole part, and with code blocks closed at the end
//! of a part and opened again at the start of the next (`CommonMark` 0.31, section 4.5).
//!
//! Total: any text, any limit. A limit below [`MAX_LEAST`] counts as that, because a character may need as much.
use crate::plan::Unit;
use alloc::string::String;
use core::ops::Range;

/// The smallest limit: the bytes of the longest character.
pub const MAX_LEAST: u32 = 4;

/// What closes a code block after the last line of a part.
const CLOSE: &str = "\n```";

/// One part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The line that opens the code block again which the part before closed; empty if it was in none.
    pub fence: &'a str,
    /// What the answer says.
    pub body: &'a str,
    /// It ends inside a code block, which must be closed.
    pub closes: bool,
}

impl Part<'_> {
    /// Writes the part as it is sent.
    pub fn write(&self, into: &mut String) {
        if !self.fence.is_empty() {
            into.push_str(self.fence);
            into.push('\n');
        }
        into.push_str(self.body);
        if self.closes {
            into.push_str(CLOSE);
        }
    }
}

/// The parts of `text`, each at most `max` `unit`s as it is sent, none empty; white space where a cut falls is left out.
pub fn parts(text: &str, unit: Unit, max: u32) -> impl Iterator<Item = Part<'_>> {
    let mut cursor = Cursor::default();
    core::iter::from_fn(move || {
        let (part, next) = part(text, unit, max, cursor)?;
        cursor = next;
        Some(part)
    })
}

/// Where a part begins. Plain numbers, so that a turn can keep it between attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    at: usize,
    /// The line that opened the code block that the part begins in, if `fence_end` is not 0.
    fence_start: usize,
    fence_end: usize,
}

impl Cursor {
    const fn fence(&self) -> Option<Range<usize>> {
        if self.fence_end == 0 { None } else { Some(self.fence_start..self.fence_end) }
    }

    fn after(at: usize, fence: Option<Range<usize>>) -> Self {
        let fence = fence.unwrap_or_default();
        Self { at, fence_start: fence.start, fence_end: fence.end }
    }
}

/// The part that begins at the cursor, and where the next one begins; `None` at the end.
pub(crate) fn part(text: &str, unit: Unit, max: u32, cursor: Cursor) -> Option<(Part<'_>, Cursor)> {
    let text = text.trim_end();
    let max = max.max(MAX_LEAST) as usize;
    let mut inside = cursor.fence();
    if inside.is_none() && text.get(cursor.at..)?.trim_start().is_empty() {
        return None;
    }
    let mut rest = text.get(cursor.at..).filter(|rest| !rest.is_empty())?;
    let mut fence = inside.clone().map_or("", |range| text.get(range).unwrap_or_default());
    let close = len(CLOSE, unit);
    let mut opening = if fence.is_empty() { 0 } else { len(fence, unit) + 1 };
    if max < opening + close + 4 * MAX_LEAST as usize {
        // Too narrow to repeat the fence: the code goes on bare.
        (fence, opening, inside) = ("", 0, None);
    }
    let room = max - opening;
    if !is_shown(&rest[..prefix(rest, unit, room)]) {
        rest = rest.trim_start();
    }
    let start = text.len() - rest.len();
    if prefix(rest, unit, room) == rest.len() {
        return Some((Part { fence, body: rest, closes: false }, Cursor::after(text.len(), None)));
    }
    let whole = cut(rest, unit, room, inside.is_some());
    let (body, open) = match fence_after(text, start, whole.len(), inside.clone()) {
        // It ends inside a block: leave room to close that.
        Some(_) if room < len(whole, unit) + close && close + MAX_LEAST as usize <= room => {
            let body = cut(rest, unit, room - close, inside.is_some());
            (body, fence_after(text, start, body.len(), inside.clone()))
        }
        open => (whole, open),
    };
    let (body, open) = mend(text, start, body, open, |body| {
        if room < len(body.trim_end(), unit) {
            None
        } else {
            Some(fence_after(text, start, body.len(), inside.clone()))
        }
    });
    let closes = open.is_some() && len(body, unit) + close <= room;
    let open = if closes { open } else { None };
    let at = resume(text, start + body.len(), open.is_some());
    Some((Part { fence, body: trim_cut(body, open.is_some()), closes }, Cursor::after(at, open)))
}

/// Moves a cut that would leave an empty code block: back before a fence that opens at the very end, or on behind one
/// that would close at the very start of the next part. `fence` says how a longer body would end, if it fits.
fn mend<'a>(
    text: &'a str,
    start: usize,
    body: &'a str,
    open: Option<Range<usize>>,
    fence: impl Fn(&'a str) -> Option<Option<Range<usize>>>,
) -> (&'a str, Option<Range<usize>>) {
    let Some(opened) = &open else { return (body, open) };
    let end = start + body.len();
    let before = if start <= opened.start { &text[start..opened.start] } else { "" };
    if is_shown(before) && !is_shown(text.get(opened.end..end).unwrap_or_default()) {
        return (before, None);
    }
    let line = text[end..].split_inclusive('\n').next().unwrap_or_default();
    let longer = &text[start..end + line.len()];
    if body.ends_with('\n') && fence(longer) == Some(None) { (longer, None) } else { (body, open) }
}

/// The length of a text in units.
fn len(text: &str, unit: Unit) -> usize {
    match unit {
        Unit::Bytes => text.len(),
        Unit::Chars => text.chars().count(),
        Unit::Utf16 => text.chars().map(char::len_utf16).sum(),
    }
}

/// The bytes of the longest beginning of `text` that has at most `max` units.
fn prefix(text: &str, unit: Unit, max: usize) -> usize {
    if text.len() <= max {
        // No unit is shorter than a byte.
        return text.len();
    }
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += match unit {
            Unit::Bytes => c.len_utf8(),
            Unit::Chars => 1,
            Unit::Utf16 => c.len_utf16(),
        };
        if max < used {
            return at;
        }
    }
    text.len()
}

/// The best beginning of `rest`, which is longer than `room`.
fn cut(rest: &str, unit: Unit, room: usize, code: bool) -> &str {
    let window = &rest[..prefix(rest, unit, room)];
    let half = window.len() / 2;
    let breaks: [fn(&str) -> Option<usize>; 4] = [after_paragraph, after_line, after_sentence, after_space];
    let in_code: [fn(&str) -> Option<usize>; 4] = [after_paragraph, after_line, after_line, after_space];
    let breaks = if code { in_code } else { breaks };
    let wanted = breaks.iter().find_map(|at| at(window).filter(|&at| half <= at && is_shown(&window[..at])));
    let anywhere =
        || [after_line, after_space].iter().find_map(|at| at(window).filter(|&at| is_shown(&window[..at])));
    let at = wanted.or_else(anywhere).unwrap_or_else(|| whole_characters(rest, window.len()));
    &rest[..at]
}

fn is_shown(text: &str) -> bool {
    !text.trim().is_empty()
}

fn after_paragraph(window: &str) -> Option<usize> {
    window.rfind("\n\n").map(|at| at + 2)
}

fn after_line(window: &str) -> Option<usize> {
    window.rfind('\n').map(|at| at + 1)
}

fn after_sentence(window: &str) -> Option<usize> {
    let mut ends = window.char_indices().rev().zip(window.chars().rev().skip(1));
    let spaced = ends.find_map(|((at, c), before)| {
        let ends = c == ' ' && matches!(before, '.' | '!' | '?' | '…' | ':' | ';');
        ends.then_some(at + 1)
    });
    let full_width = window.rfind(['。', '！', '？', '；']).map(|at| at + '。'.len_utf8());
    spaced.max(full_width)
}

fn after_space(window: &str) -> Option<usize> {
    window
        .char_indices()
        .rev()
        .find(|(_, c)| c.is_whitespace() && !is_glue(*c))
        .map(|(at, c)| at + c.len_utf8())
}

/// White space that holds words together.
const fn is_glue(c: char) -> bool {
    matches!(c, '\u{A0}' | '\u{202F}' | '\u{2007}')
}

/// The last place up to `end` that is between two characters as people see them; `end` if there is none.
fn whole_characters(rest: &str, end: usize) -> usize {
    let places = rest.char_indices().map(|(at, _)| at).take_while(|&at| at <= end);
    let last = places.filter(|&at| is_shown(&rest[..at]) && is_between(&rest[..at], &rest[at..])).last();
    last.unwrap_or(end)
}

/// May a cut fall here? A conservative reading of UAX 29, section 3, without its tables: what is not known to join may
/// be cut.
fn is_between(before: &str, after: &str) -> bool {
    let (Some(left), Some(right)) = (before.chars().next_back(), after.chars().next()) else { return true };
    if left == '\r' && right == '\n' || left == '\u{200D}' || joins_back(right) {
        return false;
    }
    if left == '`' && right == '`' {
        return false;
    }
    if is_flag(left) && is_flag(right) {
        // Flags are pairs: an even number before means that a new pair begins.
        return before.chars().rev().take_while(|&c| is_flag(c)).count() % 2 == 0;
    }
    true
}

const fn is_flag(c: char) -> bool {
    matches!(c, '\u{1F1E6}'..='\u{1F1FF}')
}

/// Combining marks, joiners, variation selectors, skin tones, tags, Hangul vowels and tails.
fn joins_back(c: char) -> bool {
    matches!(u32::from(c),
        0x0300..=0x036F | 0x0483..=0x0489 | 0x0591..=0x05BD | 0x05BF..=0x05C7 | 0x0610..=0x061A
        | 0x064B..=0x065F | 0x0670 | 0x06D6..=0x06ED | 0x0711 | 0x0730..=0x074A | 0x07A6..=0x07B0
        | 0x0816..=0x082D | 0x08D3..=0x0903 | 0x093A..=0x094F
        | 0x0951..=0x0957 | 0x0962..=0x0963 | 0x0981..=0x0983
        | 0x09BC..=0x09CD | 0x09D7 | 0x0A01..=0x0A03 | 0x0A3C..=0x0A51 | 0x0A70..=0x0A71 | 0x0A81..=0x0A83
        | 0x0ABC..=0x0ACD | 0x0B01..=0x0B03 | 0x0B3C..=0x0B57 | 0x0B82 | 0x0BBE..=0x0BCD | 0x0BD7
        | 0x0C00..=0x0C04 | 0x0C3E..=0x0C56 | 0x0C81..=0x0C83 | 0x0CBC..=0x0CD6 | 0x0D00..=0x0D03
        | 0x0D3B..=0x0D4D | 0x0D57 | 0x0D81..=0x0D83 | 0x0DCA..=0x0DDF | 0x0E31 | 0x0E33..=0x0E3A
        | 0x0E47..=0x0E4E | 0x0EB1 | 0x0EB3..=0x0EBC | 0x0EC8..=0x0ECE | 0x0F18..=0x0F19 | 0x0F35 | 0x0F37
        | 0x0F39 | 0x0F3E..=0x0F3F | 0x0F71..=0x0F84 | 0x0F86..=0x0F87 | 0x0F8D..=0x0FBC | 0x102B..=0x103E
        | 0x1056..=0x1059 | 0x1160..=0x11FF | 0x135D..=0x135F | 0x17B4..=0x17D3 | 0x180B..=0x180F
        | 0x1AB0..=0x1AFF | 0x1B00..=0x1B04 | 0x1B34..=0x1B44 | 0x1DC0..=0x1DFF | 0x200C..=0x200D
        | 0x20D0..=0x20F0 | 0x2DE0..=0x2DFF | 0x302A..=0x302F | 0x3099..=0x309A | 0xA66F..=0xA672
        | 0xA8E0..=0xA8F1 | 0xD7B0..=0xD7FB | 0xFB1E | 0xFE00..=0xFE0F | 0xFE20..=0xFE2F | 0xFF9E..=0xFF9F
        | 0x1F3FB..=0x1F3FF | 0xE0020..=0xE007F | 0xE0100..=0xE01EF)
}

/// The body without the white space at its cut. Code keeps its blanks; only the line's own end goes, which the fence
/// brings again.
fn trim_cut(body: &str, code: bool) -> &str {
    let trimmed = if code { body.trim_end_matches(['\n', '\r']) } else { body.trim_end() };
    if is_shown(trimmed) { trimmed } else { body }
}

/// Where the next part begins: after the white space at the cut, but with the indentation of code.
fn resume(text: &str, cut: usize, code: bool) -> usize {
    let rest = text.get(cut..).unwrap_or_default();
    let kept = if code { rest.trim_start_matches(['\n', '\r']) } else { rest.trim_start() };
    text.len() - kept.len()
}

/// The line that opened the code block that `text[start..start + len]` ends in; `inside` is the one that it begins in.
fn fence_after(text: &str, start: usize, len: usize, inside: Option<Range<usize>>) -> Option<Range<usize>> {
    let mut open = inside;
    let mut at = start;
    for line in text.get(start..start + len).unwrap_or_default().split_inclusive('\n') {
        let bare = line.trim();
        // A part may begin in the middle of a line; what looks like a fence there is none.
        let begins = at == 0 || text.as_bytes().get(at - 1) == Some(&b'\n');
        let ticks = bare.bytes().take_while(|&byte| byte == b'`').count();
        if begins && 3 <= ticks {
            let indent = line.len() - line.trim_start().len();
            match &open {
                Some(fence) => {
                    let needed = text.get(fence.clone()).unwrap_or_default();
                    let needed = needed.bytes().take_while(|&byte| byte == b'`').count();
                    if needed <= ticks && bare.len() == ticks {
                        open = None;
                    }
                }
                None if !bare[ticks..].contains('`') => open = Some(at + indent..at + indent + bare.len()),
                None => {}
            }
        }
        at += line.len();
    }
    open
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::random::Random;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    fn written(text: &str, unit: Unit, max: u32) -> Vec<String> {
        parts(text, unit, max)
            .map(|part| {
                let mut out = String::new();
                part.write(&mut out);
                out
            })
            .collect()
    }

    fn check(text: &str, max: u32, expected: &[&str]) {
        assert_eq!(written(text, Unit::Chars, max), expected, "{text:?} in {max}");
    }

    #[test]
    fn cuts_where_people_would() {
        check("short", 10, &["short"]);
        check("", 10, &[]);
        check(" \n ", 10, &[]);
        check("exactly10!", 10, &["exactly10!"]);
        check("one para\n\nand two", 12, &["one para", "and two"]);
        check("line one\nline two", 12, &["line one", "line two"]);
        check("A sentence. And one.", 15, &["A sentence.", "And one."]);
        check("some words here", 11, &["some words", "here"]);
        check("unbreakable", 4, &["unbr", "eaka", "ble"]);
        check("a https://long.example/path", 20, &["a", "https://long.example", "/path"]);
        check("你好。世界很大", 5, &["你好。", "世界很大"]);
        check("keep\u{A0}together now", 14, &["keep\u{A0}together", "now"]);
    }

    #[test]
    fn what_people_see_as_one_stays_one() {
        check("aaae\u{301}x", 4, &["aaa", "e\u{301}x"]);
        check("ab👨‍👩‍👧", 4, &["ab", "👨‍👩‍", "👧"]);
        check("ab👨‍👩‍👧", 5, &["ab", "👨‍👩‍👧"]);
        check("🇩🇪🇫🇷🇮🇹", 5, &["🇩🇪🇫🇷", "🇮🇹"]);
        check("aaa👍🏽", 4, &["aaa", "👍🏽"]);
        check("का का", 4, &["का", "का"]);
        assert_eq!(written("ab👍👍", Unit::Utf16, 5), ["ab👍", "👍"]);
        assert_eq!(written("aéé", Unit::Bytes, 4), ["aé", "é"]);
        assert_eq!(written("👍👍", Unit::Bytes, 0), ["👍", "👍"]);
    }

    #[test]
    fn code_blocks_are_closed_and_opened_again() {
        let text = "Look:\n```rust\nlet a = 1;\n  let b = 2;\nlet c = 3;\n```\nDone.";
        check(
            text,
            36,
            &["Look:\n```rust\nlet a = 1;\n```", "```rust\n  let b = 2;\nlet c = 3;\n```", "Done."],
        );
        check("Some words go first.\n```\ncode\n```", 26, &["Some words go first.", "```\ncode\n```"]);
        check("```\n0123456789\n```\nAnd more text.", 20, &["```\n0123456789\n```", "And more text."]);
        check("say ```inline``` and ```more``` of it", 20, &["say ```inline```", "and ```more``` of it"]);
    }

    /// As people read it: without white space and without what was added.
    fn essence(text: &str) -> String {
        text.chars().filter(|c| !c.is_whitespace()).collect()
    }

    fn random_text(random: &mut Random) -> String {
        const BITS: [&str; 24] = [
            "a",
            "word ",
            "sentence. ",
            "\n",
            "\n\n",
            "```",
            "```rust\n",
            "\n```\n",
            "    indent\n",
            "é",
            "e\u{301}",
            "👍🏽",
            "👨‍👩‍👧",
            "🇩🇪",
            "漢字",
            "。",
            "\r\n",
            "\t",
            "longunbreakableword",
            "`",
            "````\n",
            "- item\n",
            "\u{A0}",
            "का",
        ];
        let count = random.below(60);
        (0..count).map(|_| BITS[usize::try_from(random.below(BITS.len() as u64)).unwrap()]).collect()
    }

    /// Nothing is lost, nothing is too long, nothing is empty, whatever the text and the limit.
    #[test]
    fn nothing_is_lost_and_nothing_too_long() {
        for seed in 0..6_000 {
            let mut random = Random::new(seed);
            let text = random_text(&mut random);
            let max = u32::try_from(random.below(80)).unwrap();
            let unit = [Unit::Bytes, Unit::Chars, Unit::Utf16][usize::try_from(random.below(3)).unwrap()];
            let mut bodies = String::new();
            for part in parts(&text, unit, max) {
                let mut out = String::new();
                part.write(&mut out);
                assert!(
                    len(&out, unit) <= max.max(MAX_LEAST) as usize,
                    "seed {seed}: {out:?} in {max} {unit:?}"
                );
                assert!(!out.trim().is_empty(), "seed {seed}: an empty part of {text:?}");
                assert!(text.contains(part.body), "seed {seed}");
                bodies.push_str(part.body);
            }
            assert_eq!(essence(&bodies), essence(&text), "seed {seed}: {text:?} in {max}");
        }
    }

    /// Where there is room for fences, each part's blocks are closed, if the text's own were.
    #[test]
    fn fences_balance_in_each_part() {
        for seed in 0..500 {
            let mut random = Random::new(seed);
            let mut text = String::new();
            for n in 0..random.below(20) {
                let lines = random.below(6);
                let line = ["some words on a line\n", "    let x = 1;\n"][usize::from(n % 2 == 1)];
                let block: String = (0..lines).map(|_| line).collect();
                text.push_str(&if n % 2 == 1 { ["```rust\n", &block, "```\n"].concat() } else { block });
            }
            for part in written(&text, Unit::Chars, 60 + u32::try_from(random.below(200)).unwrap()) {
                let fences = part.lines().filter(|line| line.trim_start().starts_with("```")).count();
                assert_eq!(fences % 2, 0, "seed {seed}: {part:?} of {text:?}");
            }
        }
    }

    #[test]
    fn a_cursor_gives_the_same_part_again() {
        let text = "one two three ".repeat(20).to_string();
        let (first, next) = part(&text, Unit::Chars, 40, Cursor::default()).unwrap();
        assert_eq!(part(&text, Unit::Chars, 40, Cursor::default()).unwrap(), (first, next));
        assert_ne!(part(&text, Unit::Chars, 40, next).unwrap().1, next);
    }
}
