//! Writes a field of a JSON object: its name with all that stands before the value, then the value.
//!
//! Names come with their punctuation (`,"id":`), so that they are copied in one piece. Text is escaped by the wire crate.
use clawgate_wire::json;

// Inlined wherever they are called: a name of known length is a store or two there, and a call to copy it elsewhere.

#[inline(always)]
pub(crate) fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    json::write_str(out, value);
}

#[inline(always)]
pub(crate) fn text_if_any(out: &mut Vec<u8>, name: &str, value: &str) {
    if !value.is_empty() {
        text(out, name, value);
    }
}

#[inline(always)]
pub(crate) fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    json::write_u64(out, value);
}
