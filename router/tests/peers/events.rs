//! A reader of event streams, by the WHATWG's "Server-sent events": lines, fields, comments. The gateway's streams are
//! read with it as a browser would.
use super::http::{Client, Head};
use serde_json::Value;

/// One thing in an event stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    /// An event, with its name and the last `id` seen.
    Event { name: String, id: String, data: Value },
    /// A comment: a sign of life.
    Comment,
}

/// An answer that is an event stream.
pub(crate) struct Events {
    pub(crate) client: Client,
    pub(crate) head: Head,
    text: Vec<u8>,
    over: bool,
}

impl Events {
    /// Reads the head of the answer, which must be a stream.
    #[track_caller]
    pub(crate) fn begin(mut client: Client) -> Self {
        let head = client.head();
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{head:?}");
        Self { client, head, text: Vec::new(), over: false }
    }

    /// The next record; `None` at the end of the stream.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(at) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..at + 2).collect();
                return Some(record(std::str::from_utf8(&block).unwrap()));
            }
            if self.over {
                assert!(self.text.is_empty(), "an event was cut: {:?}", String::from_utf8_lossy(&self.text));
                return None;
            }
            match self.client.piece() {
                Some(piece) => self.text.extend_from_slice(&piece),
                None => self.over = true,
            }
        }
    }

    /// The data of the next event; comments are passed over, and the word that the message waits.
    #[track_caller]
    pub(crate) fn data(&mut self) -> Option<Value> {
        loop {
            match self.next()? {
                Record::Event { data, .. } if data["type"] != "queued" => return Some(data),
                Record::Event { .. } | Record::Comment => {}
            }
        }
    }

    /// Reads to the end: the text of all chunks, and the last event.
    #[track_caller]
    pub(crate) fn finish(mut self) -> (String, Value) {
        let (mut text, mut last) = (String::new(), Value::Null);
        while let Some(data) = self.data() {
            assert!(
                !matches!(last["type"].as_str(), Some("done" | "error")),
                "an event after the end: {data}"
            );
            if data["type"] == "chunk" {
                text += data["content"].as_str().unwrap();
            }
            last = data;
        }
        (text, last)
    }
}

#[track_caller]
fn record(block: &str) -> Record {
    let (mut name, mut id, mut data) = (String::new(), String::new(), Vec::new());
    for line in block.lines().filter(|line| !line.is_empty()) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value.to_owned(),
            "id" => id = value.to_owned(),
            "data" => data.push(value),
            "" => {}
            _ => panic!("an unknown field: {line:?}"),
        }
    }
    if data.is_empty() {
        return Record::Comment;
    }
    let data = data.join("\n");
    Record::Event {
        name,
        id,
        data: serde_json::from_str(&data).unwrap_or_else(|_| panic!("no JSON: {data:?}")),
    }
}
