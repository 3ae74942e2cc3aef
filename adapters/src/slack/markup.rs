//! How Slack writes what has a meaning in its texts, and how people do.
//!
//! Obeys docs.slack.dev, "Formatting message text": `&`, `<` and `>` are escaped, and what stands in `<...>` is a link, or
//! names a person, a channel or everybody.
use std::borrow::Cow;

/// A text of ours: what a model writes names nobody and calls nobody.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            _ => escaped.push(char),
        }
    }
    Cow::Owned(escaped)
}

/// A text of theirs, as people read it: `<https://a.b|this>` is `this (https://a.b)`, `<@U1>` is `@U1`, `<#C1|general>` is
/// `#general`, `<!here>` is `@here`.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<']) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        unescape(before, &mut plain);
        let Some((inside, behind)) = after.split_once('>') else {
            plain.push('<');
            rest = after;
            continue;
        };
        entity(inside, &mut plain);
        rest = behind;
    }
    unescape(rest, &mut plain);
    Cow::Owned(plain)
}

/// What stands between `<` and `>`.
fn entity(inside: &str, plain: &mut String) {
    let (target, label) = inside.split_once('|').unwrap_or((inside, ""));
    let (mark, name) = match target.as_bytes() {
        [b'@', ..] => ("@", &target[1..]),
        [b'#', ..] => ("#", &target[1..]),
        // `<!subteam^S1|@team>`, `<!date^...|yesterday>`: the label is what people see.
        [b'!', ..] if !label.is_empty() => ("", label),
        [b'!', ..] => ("@", &target[1..]),
        _ if label.is_empty() || label == target => return unescape(target, plain),
        _ => {
            unescape(label, plain);
            plain.push_str(" (");
            unescape(target, plain);
            return plain.push(')');
        }
    };
    let shown = if label.is_empty() { name } else { label };
    plain.push_str(if shown.starts_with(mark) { "" } else { mark });
    unescape(shown, plain);
}

fn unescape(mut text: &str, plain: &mut String) {
    while let Some((before, after)) = text.split_once('&') {
        plain.push_str(before);
        let known = [("amp;", '&'), ("lt;", '<'), ("gt;", '>')];
        let found = known.into_iter().find_map(|(name, char)| Some((char, after.strip_prefix(name)?)));
        let (char, rest) = found.unwrap_or(('&', after));
        plain.push(char);
        text = rest;
    }
    plain.push_str(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_slack_marks_is_read_as_people_see_it() {
        for (text, read) in [
            ("plain", "plain"),
            ("<@U0BOT> hi", "@U0BOT hi"),
            ("<@U1|ana>", "@ana"),
            ("in <#C1|general> and <#C2>", "in #general and #C2"),
            ("<!here> and <!subteam^S1|@team>", "@here and @team"),
            ("<https://a.b/?x=1&amp;y>", "https://a.b/?x=1&y"),
            ("<https://a.b|this &lt;one&gt;>", "this <one> (https://a.b)"),
            ("<mailto:a@b.c|a@b.c>", "a@b.c (mailto:a@b.c)"),
            ("1 &lt; 2 &amp;&amp; 3 &gt; 2 &nbsp;", "1 < 2 && 3 > 2 &nbsp;"),
            ("a < b", "a < b"),
            ("<", "<"),
            ("<>", ""),
            ("<@>", "@"),
            ("&amp;lt;", "&lt;"),
            ("ä<@U1>ö", "ä@U1ö"),
        ] {
            assert_eq!(plain(text), read, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        for text in ["", "plain", "<!channel> & <@U1>", "&amp; a < b > c", "5 > 4"] {
            assert_eq!(plain(&escape(text)), text);
            assert!(!escape(text).contains(['<', '>']));
        }
    }
}
