//! Which tools a turn may use, and what a model calls them.
//!
//! Pure. A tool is offered if a pattern of the agent names it and the tier of whoever asks reaches its own; one that is
//! not offered cannot be called either, whatever the model makes up.
use std::collections::BTreeSet;

/// Characters of a tool's name at a provider: the least that all of them take.
const NAME_CHARS_MAX: usize = 64;

/// Does a pattern name this tool? `*` stands for any characters, none included.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last = None;
    for piece in pieces {
        // A piece between two stars fits best where it is found first.
        if let Some(piece) = last.replace(piece) {
            let Some((_, behind)) = rest.split_once(piece) else { return false };
            rest = behind;
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

/// What a model calls this tool: letters, digits, `_` and `-` alone, at most 64, and no name twice. A dot, which divides a
/// server's name from that of its tool, becomes two underscores.
pub(crate) fn wire_name(name: &str, taken: &BTreeSet<String>) -> String {
    let mut plain = String::with_capacity(name.len());
    for letter in name.chars() {
        match letter {
            '.' => plain.push_str("__"),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => plain.push(letter),
            _ => plain.push('_'),
        }
    }
    if plain.len() <= NAME_CHARS_MAX && !plain.is_empty() && !taken.contains(&plain) {
        return plain;
    }
    // A name keeps its own even if others come and go.
    let mut salt = 0_u64;
    loop {
        let tail = format!("_{:08x}", digest(name, salt));
        let mut short = plain.clone();
        short.truncate(NAME_CHARS_MAX - tail.len());
        short.push_str(&tail);
        if !taken.contains(&short) {
            return short;
        }
        salt += 1;
    }
}

/// FNV-1a, folded.
fn digest(name: &str, salt: u64) -> u32 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64 ^ salt;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    (hash ^ (hash >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("time", "time", true),
            ("time", "times", false),
            ("time", "tim", false),
            ("*", "", true),
            ("*", "files.read", true),
            ("files.*", "files.read", true),
            ("files.*", "files", false),
            ("*.read", "files.read", true),
            ("*.read", "files.reader", false),
            ("f*s.*d", "files.read", true),
            ("f*s.*d", "files.reads", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn names_fit_every_provider_and_none_is_there_twice() {
        let long = "x".repeat(100);
        let mut taken = BTreeSet::new();
        let names =
            ["time", "files.read", "files__read", "files/read", "files_read", "größe", "", &long, &long[1..]];
        for name in names {
            let wire = wire_name(name, &taken);
            let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
            assert!(!wire.is_empty() && wire.len() <= NAME_CHARS_MAX && wire.chars().all(fits), "{wire}");
            assert!(taken.insert(wire.clone()), "{wire} twice");
        }
        assert!(taken.contains("time") && taken.contains("files__read"));
        assert_eq!(wire_name(&long, &BTreeSet::new()), wire_name(&long, &BTreeSet::new()));
    }
}
