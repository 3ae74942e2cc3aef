//! Server-sent events, both ways, and lines of JSON. WHATWG HTML, 9.2.5 and 9.2.6.
//!
//! Owns where an event ends and what its fields are. Joins the data of an event in the caller's buffer; never buffers,
//! never reconnects: the last id and the time to wait are the caller's to keep.

use alloc::vec::Vec;

use memchr::{memchr, memchr2};

/// The peer's event or line is longer than we take. The stream cannot be used after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl core::fmt::Display for TooLong {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SSE_TOO_LONG")
    }
}

impl core::error::Error for TooLong {}

/// What one call found. Drop `consumed` bytes from the front of the buffer before the next call.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'b> {
    /// No event is complete. Call again with the same bytes and those that came after them.
    NeedMore,
    /// An event with data.
    Event {
        /// Bytes done with.
        consumed: usize,
        /// Its type: `message` unless the event names another, or names it in bytes that are not UTF-8.
        event: &'b str,
        /// The id that this event set; empty to clear the last one.
        id: Option<&'b str>,
        /// Its data lines, joined by LF.
        data: &'b mut [u8],
    },
    /// An event without data that sets the last id, to which a reconnect returns.
    Id {
        /// Bytes done with.
        consumed: usize,
        /// The id; empty to clear the last one.
        id: &'b str,
    },
    /// A comment between events: how servers keep a connection alive.
    Comment {
        /// Bytes done with.
        consumed: usize,
    },
    /// An empty line, or an event without data.
    Skip {
        /// Bytes done with.
        consumed: usize,
    },
}

/// A place in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
}

impl Span {
    const fn bytes(self) -> usize {
        self.end - self.start
    }
}

/// What the lines so far of an event have said.
#[derive(Clone, Copy, Debug, Default)]
struct Fields {
    event: Option<Span>,
    id: Option<Span>,
    /// The value of the first data line.
    data: Option<Span>,
    /// Whether there is a second one.
    many_data: bool,
    /// Whether there was any line that is no comment.
    any: bool,
}

/// Splits a stream into events. Remembers where it stopped, so that a byte is looked at once however many reads an
/// event takes.
#[derive(Clone, Debug)]
pub struct Decoder {
    event_bytes_max: usize,
    /// Bytes at the front of the buffer that belong to the event before: the LF of a CR LF that came apart.
    lead: usize,
    line_start: usize,
    scanned: usize,
    fields: Fields,
    /// A CR ended the last line and was the buffer's last byte: an LF after it belongs to it.
    after_cr: bool,
    /// The stream's first line is still to come, and may start with a byte order mark.
    fresh: bool,
    retry_millis: Option<u64>,
}

impl Decoder {
    /// A decoder for a stream whose events have at most `event_bytes_max` bytes, field names and line ends included.
    #[must_use]
    pub fn new(event_bytes_max: usize) -> Self {
        Self {
            event_bytes_max,
            lead: 0,
            line_start: 0,
            scanned: 0,
            fields: Fields::default(),
            after_cr: false,
            fresh: true,
            retry_millis: None,
        }
    }

    /// The reconnection time that the server asked for last, in milliseconds.
    #[must_use]
    pub const fn retry_millis(&self) -> Option<u64> {
        self.retry_millis
    }

    /// Finds the next event at the front of `buf`: the bytes that the last call did not consume, and what came after
    /// them. At the stream's end an unfinished event is void (WHATWG); a caller that would rather have it, because
    /// its server leaves out the last empty line, appends two LF and calls once more.
    ///
    /// # Errors
    /// [`TooLong`] if an event is longer than allowed.
    #[inline]
    pub fn decode<'b>(&mut self, buf: &'b mut [u8]) -> Result<Step<'b>, TooLong> {
        loop {
            if self.after_cr {
                match buf.get(self.scanned) {
                    None => return Ok(Step::NeedMore),
                    Some(b'\n') => self.on_split_crlf(),
                    Some(_) => {}
                }
                self.after_cr = false;
            }
            let Some(found) = line_end(buf.get(self.scanned..).unwrap_or(&[])) else {
                self.scanned = buf.len();
                self.check_bytes(buf.len())?;
                return Ok(Step::NeedMore);
            };
            let end = self.scanned + found;
            self.check_bytes(end)?;
            let next = self.line_next(buf, end);
            let start = self.take_line_start(buf, next, end);
            let line = buf.get(start..end).unwrap_or(&[]);
            match line.first() {
                // "If the line is empty (a blank line): Dispatch the event, as defined below."
                None => return Ok(self.dispatch(buf, start, next)),
                // "If the line starts with a U+003A COLON character (:): Ignore the line."
                Some(b':') if self.fields.any => {}
                Some(b':') => {
                    self.restart();
                    return Ok(Step::Comment { consumed: next });
                }
                Some(_) => self.on_field(line, start),
            }
        }
    }

    /// The LF of a CR LF that two reads brought.
    fn on_split_crlf(&mut self) {
        self.scanned += 1;
        self.line_start = self.scanned;
        if self.scanned == 1 {
            self.lead = 1;
        }
    }

    #[inline]
    fn check_bytes(&self, end: usize) -> Result<(), TooLong> {
        if end - self.lead <= self.event_bytes_max { Ok(()) } else { Err(TooLong) }
    }

    /// Where the line after the one that ends at `end` starts. "Lines must be separated by either a U+000D CARRIAGE
    /// RETURN U+000A LINE FEED (CRLF) character pair, a single U+000A LINE FEED (LF) character, or a single U+000D
    /// CARRIAGE RETURN (CR) character."
    #[inline]
    fn line_next(&mut self, buf: &[u8], end: usize) -> usize {
        if buf.get(end) == Some(&b'\r') {
            match buf.get(end + 1) {
                Some(b'\n') => return end + 2,
                Some(_) => {}
                None => self.after_cr = true,
            }
        }
        end + 1
    }

    /// Moves on to the next line, and tells where the current one starts: after the stream's byte order mark, if it
    /// has one.
    #[inline]
    fn take_line_start(&mut self, buf: &[u8], next: usize, end: usize) -> usize {
        let mut start = self.line_start;
        if self.fresh {
            self.fresh = false;
            if buf.get(start..end).is_some_and(|line| line.starts_with(b"\xEF\xBB\xBF")) {
                start += 3;
            }
        }
        self.line_start = next;
        self.scanned = next;
        start
    }

    /// The next event starts at the front of the buffer.
    #[inline]
    fn restart(&mut self) {
        self.lead = 0;
        self.line_start = 0;
        self.scanned = 0;
        self.fields = Fields::default();
    }

    /// One line that is neither empty nor a comment. "Field names must be compared literally, with no case folding
    /// performed."
    #[inline]
    fn on_field(&mut self, line: &[u8], start: usize) {
        self.fields.any = true;
        let span = |value: Span| Span { start: start + value.start, end: start + value.end };
        if let Some(value) = field_value(line, b"data") {
            if self.fields.data.is_none() {
                self.fields.data = Some(span(value));
            } else {
                self.fields.many_data = true;
            }
        } else if let Some(value) = field_value(line, b"event") {
            self.fields.event = Some(span(value));
        } else if let Some(value) = field_value(line, b"id") {
            // "If the field value does not contain U+0000 NULL, then set the last event ID buffer to the field value.
            // Otherwise, ignore the field."
            if memchr(0, line).is_none() {
                self.fields.id = Some(span(value));
            }
        } else if let Some(value) = field_value(line, b"retry") {
            // "If the field value consists of only ASCII digits, then interpret the field value as an integer in base
            // ten [...]. Otherwise, ignore the field."
            self.retry_millis = line.get(value.start..value.end).and_then(parse_digits).or(self.retry_millis);
        }
    }

    /// The empty line that ends an event, at `end`.
    #[inline]
    fn dispatch<'b>(&mut self, buf: &'b mut [u8], end: usize, consumed: usize) -> Step<'b> {
        let mut fields = self.fields;
        self.restart();
        let Some(mut data) = fields.data else {
            // "If the data buffer is an empty string, set the data buffer and the event type buffer to the empty
            // string and return." The id was set a step before.
            let buf: &'b [u8] = buf;
            return match fields.id.and_then(|id| text(buf, id)) {
                Some(id) => Step::Id { consumed, id },
                None => Step::Skip { consumed },
            };
        };
        bring_forward(buf, &mut fields.event, &mut fields.id, &mut data);
        bring_forward(buf, &mut fields.id, &mut fields.event, &mut data);
        if fields.many_data {
            join_data(buf.get_mut(..end).unwrap_or(&mut []), &mut data);
        }
        let (front, rest) = buf.split_at_mut(data.start);
        let front: &'b [u8] = front;
        Step::Event {
            consumed,
            event: fields
                .event
                .and_then(|event| text(front, event))
                .filter(|event| !event.is_empty())
                .unwrap_or("message"),
            id: fields.id.and_then(|id| text(front, id)),
            data: rest.get_mut(..data.bytes()).unwrap_or(&mut []),
        }
    }
}

/// The first line end. Every second line is the empty one that ends an event, for which no search is begun.
#[inline]
fn line_end(bytes: &[u8]) -> Option<usize> {
    match bytes.first() {
        Some(b'\n' | b'\r') => Some(0),
        _ => memchr2(b'\n', b'\r', bytes),
    }
}

/// The value of a line whose field has this name: after the colon and one space, or empty without a colon.
#[inline]
fn field_value(line: &[u8], name: &[u8]) -> Option<Span> {
    let rest = line.strip_prefix(name)?;
    // "If value starts with a U+0020 SPACE character, remove it from value."
    let start = match rest {
        [] => name.len(),
        [b':', b' ', ..] => name.len() + 2,
        [b':', ..] => name.len() + 1,
        [..] => return None,
    };
    Some(Span { start, end: line.len() })
}

#[inline]
fn text(buf: &[u8], span: Span) -> Option<&str> {
    core::str::from_utf8(buf.get(span.start..span.end)?).ok()
}

fn parse_digits(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(digits).ok()?.parse().ok()
}

/// Moves a field that came after the first data line in front of it, so that data can grow over what lies behind. It
/// is done once an event, however many such lines it has, and costs one pass.
#[inline]
fn bring_forward(buf: &mut [u8], field: &mut Option<Span>, other: &mut Option<Span>, data: &mut Span) {
    let Some(late) = field.filter(|field| data.start < field.start) else { return };
    let bytes = late.bytes();
    if let Some(region) = buf.get_mut(data.start..late.end) {
        region.rotate_right(bytes);
    }
    *field = Some(Span { start: data.start, end: data.start + bytes });
    if let Some(other) = other.as_mut().filter(|other| data.start < other.start && other.start < late.start) {
        other.start += bytes;
        other.end += bytes;
    }
    data.start += bytes;
    data.end += bytes;
}

/// "Append the field value to the data buffer, then append a single U+000A LINE FEED (LF) character to the data
/// buffer", in place: every value moves towards the front, because its field name did not count. `event` ends where its
/// empty line starts.
fn join_data(event: &mut [u8], data: &mut Span) {
    let mut line_end = data.end;
    loop {
        let after = event.get(line_end..).unwrap_or(&[]);
        let start = match after {
            [b'\r', b'\n', ..] => line_end + 2,
            [_, ..] => line_end + 1,
            [] => return,
        };
        let rest = event.get(start..).unwrap_or(&[]);
        let line = rest.get(..memchr2(b'\n', b'\r', rest).unwrap_or(rest.len())).unwrap_or(&[]);
        line_end = start + line.len();
        if let Some(value) = field_value(line, b"data") {
            if let Some(separator) = event.get_mut(data.end) {
                *separator = b'\n';
            }
            event.copy_within(start + value.start..start + value.end, data.end + 1);
            data.end += 1 + value.bytes();
        }
    }
}

/// A line of a stream of JSON values (NDJSON).
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'b> {
    /// Bytes done with.
    pub consumed: usize,
    /// The line, without its LF or CR LF.
    pub line: &'b mut [u8],
}

/// Takes the next line, ended by LF or CR LF, from the front of `buf`. `scanned` starts at zero and is kept by the caller
/// between calls: it is how much of `buf` is known to have no LF.
///
/// # Errors
/// [`TooLong`] if the line has more than `line_bytes_max` bytes, its CR counted and its LF not.
#[inline]
pub fn next_line<'b>(
    buf: &'b mut [u8],
    scanned: &mut usize,
    line_bytes_max: usize,
) -> Result<Option<Line<'b>>, TooLong> {
    let Some(found) = memchr(b'\n', buf.get(*scanned..).unwrap_or(&[])) else {
        *scanned = buf.len();
        return if buf.len() <= line_bytes_max { Ok(None) } else { Err(TooLong) };
    };
    let end = *scanned + found;
    if line_bytes_max < end {
        return Err(TooLong);
    }
    *scanned = 0;
    let line = buf.get_mut(..end).unwrap_or(&mut []);
    let bytes = if line.last() == Some(&b'\r') { end - 1 } else { end };
    Ok(Some(Line { consumed: end + 1, line: line.get_mut(..bytes).unwrap_or(&mut []) }))
}

/// Writes one event. Data of several lines becomes several data lines; every line end in it reaches the peer as LF.
pub fn write_event(out: &mut Vec<u8>, event: Option<&str>, id: Option<u64>, data: &str) {
    begin_fields(out, event, id);
    write_lines(out, b"data: ", data);
    out.push(b'\n');
}

/// Starts an event whose data the caller then writes straight into `out`: one line, as JSON is.
#[inline]
pub fn begin_data(out: &mut Vec<u8>, event: Option<&str>, id: Option<u64>) {
    begin_fields(out, event, id);
    out.extend_from_slice(b"data: ");
}

/// Ends the event that [`begin_data`] started.
#[inline]
pub fn end_data(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\n\n");
}

/// Writes a comment: keeps idle proxies from closing the connection, and no event reaches the page.
pub fn write_comment(out: &mut Vec<u8>, text: &str) {
    write_lines(out, b": ", text);
    out.push(b'\n');
}

/// Writes how long the peer is to wait before it reconnects, in milliseconds.
pub fn write_retry(out: &mut Vec<u8>, millis: u64) {
    out.extend_from_slice(b"retry: ");
    out.extend_from_slice(itoa::Buffer::new().format(millis).as_bytes());
    out.extend_from_slice(b"\n\n");
}

#[inline]
fn begin_fields(out: &mut Vec<u8>, event: Option<&str>, id: Option<u64>) {
    if let Some(event) = event {
        // An event's type is a constant of ours; one with a line end in it would forge fields, so it is left out.
        let one_line = memchr2(b'\n', b'\r', event.as_bytes()).is_none();
        debug_assert!(one_line, "an event type of two lines");
        if one_line {
            out.extend_from_slice(b"event: ");
            out.extend_from_slice(event.as_bytes());
            out.push(b'\n');
        }
    }
    if let Some(id) = id {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
        out.push(b'\n');
    }
}

/// Every line of `text` behind `prefix`. CR LF, LF and CR all end one, as they would at the peer.
fn write_lines(out: &mut Vec<u8>, prefix: &[u8], text: &str) {
    let mut rest = text.as_bytes();
    loop {
        out.extend_from_slice(prefix);
        let Some(end) = memchr2(b'\n', b'\r', rest) else {
            out.extend_from_slice(rest);
            out.push(b'\n');
            return;
        };
        let (line, after) = rest.split_at(end);
        out.extend_from_slice(line);
        out.push(b'\n');
        let ending = if after.starts_with(b"\r\n") { 2 } else { 1 };
        rest = after.get(ending..).unwrap_or(&[]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloc::format;
    use alloc::string::{String, ToString};
    use alloc::vec;

    use super::*;

    /// All that a stream holds, in words: `type|id|data`, `#` for a comment, `=` for an id alone; empty lines are left
    /// out. The stream comes in pieces that end at `cuts`.
    fn read(stream: &[u8], max: usize, cuts: &[usize]) -> Result<Vec<String>, TooLong> {
        let (mut decoder, mut found) = (Decoder::new(max), Vec::new());
        let (mut buf, mut from) = (Vec::new(), 0);
        for end in cuts.iter().copied().chain([stream.len()]) {
            buf.extend_from_slice(&stream[from..end]);
            from = end;
            loop {
                let consumed = match decoder.decode(&mut buf)? {
                    Step::NeedMore => break,
                    Step::Event { consumed, event, id, data } => {
                        let data = String::from_utf8_lossy(data);
                        found.push(format!("{event}|{}|{data}", id.unwrap_or("-")));
                        consumed
                    }
                    Step::Id { consumed, id } => {
                        found.push(format!("={id}"));
                        consumed
                    }
                    Step::Comment { consumed } => {
                        found.push("#".to_string());
                        consumed
                    }
                    Step::Skip { consumed } => consumed,
                };
                assert!(consumed > 0 && consumed <= buf.len());
                buf.drain(..consumed);
            }
        }
        Ok(found)
    }

    /// The same whole, byte by byte, and cut in two or three anywhere, whatever the line ends are.
    fn check(stream: &str, expected: &[&str]) {
        for line_end in ["\n", "\r\n", "\r"] {
            let stream = stream.replace('\n', line_end);
            let stream = stream.as_bytes();
            assert_eq!(read(stream, 999, &[]).unwrap(), expected, "{stream:?}");
            let every: Vec<usize> = (0..=stream.len()).collect();
            assert_eq!(read(stream, 999, &every).unwrap(), expected, "{stream:?}, byte by byte");
            for first in 0..=stream.len() {
                for second in first..=stream.len() {
                    assert_eq!(
                        read(stream, 999, &[first, second]).unwrap(),
                        expected,
                        "{stream:?} at {first}, {second}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_examples_of_the_standard() {
        check(
            "data: This is the first message.\n\ndata: second\n\n",
            &["message|-|This is the first message.", "message|-|second"],
        );
        check("event: add\ndata: 73857293\n\n", &["add|-|73857293"]);
        check("data: YHOO\ndata: +2\ndata: 10\n\n", &["message|-|YHOO\n+2\n10"]);
        check(
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            &["#", "message|1|first event", "message||second event", "message|-| third event"],
        );
        // "The following stream fires two events": an empty one, and one of a single newline; the last is void.
        check("data\n\ndata\ndata\n\ndata:\n", &["message|-|", "message|-|\n"]);
        check("data:test\n\ndata: test\n\n", &["message|-|test", "message|-|test"]);
    }

    #[test]
    fn fields_in_any_order() {
        check("id: 7\nevent: e\ndata: d\n\n", &["e|7|d"]);
        check("data: d\nevent: e\nid: 7\n\n", &["e|7|d"]);
        check("data: d\nid: 7\nevent: e\n\n", &["e|7|d"]);
        // Data would grow over fields that lie between its lines.
        check(
            "data: a\nevent: eeee\ndata: bbbbbbbbbbbbbbbb\nid: 77\ndata: c\n\n",
            &["eeee|77|a\nbbbbbbbbbbbbbbbb\nc"],
        );
        check("event: x\ndata: a\nid: 1\nevent: yyyy\nid: 22\ndata: b\n: no\n\n", &["yyyy|22|a\nb"]);
        check("id: 1\ndata: a\nevent\nid\n\n", &["message||a"]);
        check("event: x\n\ndata: a\n\n", &["message|-|a"]);
        check("id: 9\n\nid: \n\n", &["=9", "="]);
        check("id: a\0b\ndata: c\n\n", &["message|-|c"]);
    }

    #[test]
    fn lines_that_are_no_fields() {
        check(":\n:x\n\n: y\ndata: a\n: inside\n\n\n\n", &["#", "#", "#", "message|-|a"]);
        check("datax: 1\nDATA: 2\ndata : 3\n data: 4\nfoo\nretry: x\n\n", &[]);
        check("\u{feff}data: a\n\n\u{feff}data: b\n\n", &["message|-|a"]);
        check("\u{feff}\u{feff}data: a\n\ndata: b\n\n", &["message|-|b"]);
        check("\u{feff}: c\n\u{feff}\n", &["#"]);
        check("data: [DONE]", &[]);
        check("data: x\n\ndata: [DONE]\n", &["message|-|x"]);
    }

    #[test]
    fn bytes_that_are_not_utf8() {
        let found = read(b"event: \xFF\nid: \xFE\ndata: \xFD\n\n", 99, &[]).unwrap();
        assert_eq!(found, ["message|-|\u{fffd}"]);
    }

    #[test]
    fn the_time_to_wait_is_kept() {
        let mut decoder = Decoder::new(99);
        assert_eq!(decoder.retry_millis(), None);
        for (field, expected) in [
            ("retry: 1500", Some(1500)),
            ("retry: 1s", Some(1500)),
            ("retry:", Some(1500)),
            ("retry: -1", Some(1500)),
            ("retry: 99999999999999999999", Some(1500)),
            ("retry:0", Some(0)),
        ] {
            let mut buf = format!("{field}\n\n").into_bytes();
            let consumed = buf.len();
            assert_eq!(decoder.decode(&mut buf), Ok(Step::Skip { consumed }));
            assert_eq!(decoder.retry_millis(), expected, "{field}");
        }
    }

    #[test]
    fn events_are_bounded() {
        let stream = b"data: 0123\ndata: 4\n\n";
        // What counts is all that comes before the line end that ends the event.
        for (max, fits) in [(19, true), (18, false)] {
            for cut in 0..=stream.len() {
                assert_eq!(read(stream, max, &[cut]).is_ok(), fits, "{max} bytes, cut at {cut}");
            }
        }
        assert_eq!(read(&[b'x'; 100], 99, &[]), Err(TooLong));
        assert_eq!(read(&[b'x'; 99], 99, &[]), Ok(vec![]));
        // The LF of a line end that came apart belongs to the event before.
        for cut in 0..=12 {
            assert_eq!(
                read(b"data:a\r\n\r\n:1234567\r\n", 8, &[cut]).unwrap(),
                ["message|-|a", "#"],
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_byte_is_looked_at_once() {
        let mut decoder = Decoder::new(1 << 20);
        let mut buf = b"data: ".to_vec();
        for _ in 0..100 {
            buf.extend_from_slice(&[b'x'; 1000]);
            assert_eq!(decoder.decode(&mut buf), Ok(Step::NeedMore));
            assert_eq!(decoder.scanned, buf.len());
        }
    }

    #[test]
    fn events_are_written_and_read_back() {
        let mut out = Vec::new();
        write_event(&mut out, Some("message"), Some(42), "one\ntwo\r\nthree\rfour\n");
        begin_data(&mut out, None, None);
        out.extend_from_slice(b"{\"a\":1}");
        end_data(&mut out);
        write_comment(&mut out, "alive\nstill");
        write_retry(&mut out, 3000);
        write_event(&mut out, None, None, "");
        assert_eq!(
            String::from_utf8(out.clone()).unwrap(),
            "event: message\nid: 42\ndata: one\ndata: two\ndata: three\ndata: four\ndata: \n\ndata: {\"a\":1}\n\n\
             : alive\n: still\n\nretry: 3000\n\ndata: \n\n"
        );
        let found = read(&out, 999, &[]).unwrap();
        assert_eq!(
            found,
            ["message|42|one\ntwo\nthree\nfour\n", "message|-|{\"a\":1}", "#", "#", "message|-|"]
        );
    }

    #[test]
    fn lines_of_json() {
        let lines = |stream: &[u8], max: usize, cut: usize| -> Result<Vec<String>, TooLong> {
            let (mut buf, mut scanned, mut found) = (Vec::new(), 0, Vec::new());
            for piece in [&stream[..cut], &stream[cut..]] {
                buf.extend_from_slice(piece);
                while let Some(line) = next_line(&mut buf, &mut scanned, max)? {
                    found.push(String::from_utf8_lossy(line.line).into_owned());
                    let consumed = line.consumed;
                    buf.drain(..consumed);
                }
                assert_eq!(scanned, buf.len());
            }
            Ok(found)
        };
        let stream = b"{}\n{\"a\":1}\r\n\n[\r]\nrest";
        for cut in 0..=stream.len() {
            assert_eq!(lines(stream, 8, cut).unwrap(), ["{}", "{\"a\":1}", "", "[\r]"]);
            assert_eq!(lines(stream, 7, cut), Err(TooLong));
        }
        assert_eq!(lines(b"012345678", 8, 3), Err(TooLong));
    }
}
