//! How events are written: server-sent events or lines of JSON, each in an HTTP chunk of its own, in the shapes that the
//! grammar allows and hardly anybody sends.

use std::fmt;
use std::io::Write as _;

use clawgate_wire::http1::{begin_chunk, end_chunk, write_chunk};

use super::script::Framing;

/// What a stream is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Server-sent events. <https://html.spec.whatwg.org/multipage/server-sent-events.html>
    Events,
    /// A JSON object a line. <https://github.com/ndjson/ndjson-spec>
    Lines,
}

/// A text as JSON has it, with its quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quoted<'t>(pub(super) &'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(self.0.len() + 2);
        clawgate_wire::json::write_str(&mut text, self.0);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

/// The body of a stream, event by event.
#[derive(Debug)]
pub(super) struct Frames<'o> {
    pub(super) out: &'o mut Vec<u8>,
    framing: Framing,
    kind: Kind,
}

impl<'o> Frames<'o> {
    pub(super) const fn new(out: &'o mut Vec<u8>, framing: Framing, kind: Kind) -> Self {
        Self { out, framing, kind }
    }

    /// What stands before all events.
    pub(super) fn begin(&mut self) {
        if self.framing.bom && self.kind == Kind::Events {
            write_chunk(self.out, "\u{FEFF}".as_bytes());
        }
    }

    /// An event with this JSON object as its data, and a name where the format gives it one.
    pub(super) fn event(&mut self, name: &str, json: fmt::Arguments<'_>) {
        self.put(name, |out| out.write_fmt(json).unwrap_or_default());
    }

    /// An event whose data is no JSON.
    pub(super) fn raw(&mut self, name: &str, data: &[u8]) {
        self.put(name, |out| out.extend_from_slice(data));
    }

    fn put(&mut self, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
        let start = begin_chunk(self.out);
        let end = self.line_end();
        match self.kind {
            Kind::Lines => {
                data(self.out);
                self.out.extend_from_slice(end);
            }
            Kind::Events => {
                let field: &[u8] = if self.framing.no_space { b"data:" } else { b"data: " };
                if !name.is_empty() {
                    let colon: &[u8] = if self.framing.no_space { b"event:" } else { b"event: " };
                    self.out.extend_from_slice(&[colon, name.as_bytes(), end].concat());
                }
                if self.framing.unknown {
                    self.out.extend_from_slice(&[b"id: 5", end, b"x-sim: 1", end].concat());
                }
                self.out.extend_from_slice(field);
                let from = self.out.len();
                data(self.out);
                // Between the brace and the first field there may be any white space, a new line too.
                if self.framing.multi_line && self.out[from..].starts_with(b"{\"") {
                    self.out.splice(from + 1..from + 1, [end, field].concat());
                }
                self.out.extend_from_slice(&[end, end].concat());
            }
        }
        end_chunk(self.out, start);
    }

    const fn line_end(&self) -> &'static [u8] {
        if self.framing.crlf { b"\r\n" } else { b"\n" }
    }

    /// A sign of life that says nothing.
    pub(super) fn comment(&mut self) {
        let start = begin_chunk(self.out);
        let end = self.line_end();
        match self.kind {
            Kind::Lines => self.out.extend_from_slice(end),
            Kind::Events => self.out.extend_from_slice(&[b": keep-alive", end, end].concat()),
        }
        end_chunk(self.out, start);
    }

    /// What stands in every object that may have fields that nobody knows.
    pub(super) const fn extra(&self) -> &'static str {
        if self.framing.unknown { r#","x_sim":{"a":[1,null],"b":"…"}"# } else { "" }
    }

    /// Does the script ask for events that nobody knows?
    pub(super) const fn has_unknown(&self) -> bool {
        self.framing.unknown
    }

    pub(super) const fn comments(&self) -> bool {
        self.framing.comments
    }

    pub(super) const fn pings(&self) -> bool {
        self.framing.pings
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn written(framing: Framing, kind: Kind) -> String {
        let mut out = Vec::new();
        let mut frames = Frames::new(&mut out, framing, kind);
        frames.event("a", format_args!(r#"{{"t":{}}}"#, Quoted("\"é\n")));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_event_has_a_chunk_of_its_own() {
        let plain = Framing::default();
        assert_eq!(written(plain, Kind::Events), "001f\r\nevent: a\ndata: {\"t\":\"\\\"é\\n\"}\n\n\r\n");
        assert_eq!(written(plain, Kind::Lines), "000f\r\n{\"t\":\"\\\"é\\n\"}\n\r\n");
        let odd = Framing { crlf: true, no_space: true, multi_line: true, ..plain };
        let event = written(odd, Kind::Events);
        assert!(event.contains("event:a\r\ndata:{\r\ndata:\"t\":\"\\\"é\\n\"}\r\n\r\n"), "{event:?}");
    }
}
