//! What providers want to have back with reasoning, carried through formats of others.
//!
//! Owns the marks: a client that speaks one format gives the proof of another back as it got it, in the only field that it
//! does not look into, and here it becomes again what it was.
use crate::raw::Text;
use crate::request::Proof;

/// Marks an item of the responses format: `MARK id . encrypted`.
const ITEM: &str = "clawgate.item.";
/// Marks a signature of Anthropic's.
const SIGNATURE: &str = "clawgate.signature.";
/// Marks reasoning that Anthropic redacted.
const REDACTED: &str = "clawgate.redacted.";

/// An item as a text that is given back unread.
pub(crate) fn of_item(id: &str, encrypted: &str) -> String {
    format!("{ITEM}{}.{encrypted}", id.replace('.', "_"))
}

/// A signature as such a text.
pub(crate) fn of_signature(signature: &str) -> String {
    format!("{SIGNATURE}{signature}")
}

/// Redacted reasoning as such a text.
pub(crate) fn of_redacted(data: &str) -> String {
    format!("{REDACTED}{data}")
}

/// What such a text was; `None` if it is no such text.
pub(crate) fn read<'a>(text: &Text<'a>) -> Option<Proof<'a>> {
    let plain = text.plain();
    let owned = |text: &str| Text::from(text.to_owned());
    if let Some((id, encrypted)) = plain.strip_prefix(ITEM).and_then(|item| item.split_once('.')) {
        return Some(Proof::Item { id: owned(id), encrypted: owned(encrypted) });
    }
    if let Some(signature) = plain.strip_prefix(SIGNATURE) {
        return Some(Proof::Signature(owned(signature)));
    }
    plain.strip_prefix(REDACTED).map(|data| Proof::Redacted(owned(data)))
}
