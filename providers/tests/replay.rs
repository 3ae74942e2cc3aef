//! Responses as providers send them, replayed in every way in which a network can cut them.
//!
//! In `tests/data`, a folder a format, `x.sse` and `x.ndjson` are streams, `x.json` is a body that is none; `x.expected` has
//! a line for each thing said.
//! `UPDATE_GOLDEN=1 cargo test -p clawgate-providers --test replay` writes what comes out: read the difference.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "the files are read here; the providers never do")]
use clawgate_core::event::Piece;
use clawgate_providers::said::{CallPart, Thought};
use clawgate_providers::{Decoder, End, Json, Kind, Limits, Said};
use std::path::{Path, PathBuf};

fn line_of(said: &Said<'_>) -> String {
    match said {
        Said::Piece(Piece::Text(text)) => format!("text {text:?}"),
        Said::Piece(Piece::Reasoning(text)) => format!("reasoning {text:?}"),
        Said::Piece(Piece::Usage(usage)) => format!("{usage:?}, which decoders do not say"),
        Said::Usage(counts) => {
            let more = [counts.cached, counts.cache_created, counts.reasoning];
            let more = if more == [0; 3] { String::new() } else { format!(" {more:?}") };
            format!("usage {} {}{more}", counts.prompt, counts.completion)
        }
        Said::Call(CallPart::Begin { index, id, name }) => format!("call {index} {id:?} {name:?}"),
        Said::Call(CallPart::Arguments { index, text }) => format!("arguments {index} {text:?}"),
        Said::Call(CallPart::End { index }) => format!("called {index}"),
        Said::Thought(Thought::Signature(text)) => format!("signature {text:?}"),
        Said::Thought(Thought::Redacted(text)) => format!("redacted {text:?}"),
        Said::Thought(Thought::Item { id, encrypted }) => format!("item {id:?} {encrypted:?}"),
        Said::Piece(Piece::Alive) => "alive".into(),
        Said::Ended(End::Finished(stop)) => format!("finished {stop:?}"),
        Said::Ended(End::Failed(failure)) => {
            format!("failed {} {:?} {:?}", failure.code.name(), failure.retry, failure.detail)
        }
    }
}

/// Reads a response that arrives in these reads, as the shell does: what is left is kept in front of the next read.
fn replay<'r>(
    kind: Kind,
    stream: bool,
    json: &mut Json,
    reads: impl Iterator<Item = &'r [u8]>,
) -> Vec<String> {
    let mut decoder = Decoder::new(kind, stream, Limits::TEST).with_seed(0xC1A);
    let (mut buf, mut lines) = (Vec::new(), Vec::new());
    for read in reads {
        buf.extend_from_slice(read);
        let before = lines.len();
        let consumed = decoder.decode(&mut buf, json, &mut |said| lines.push(line_of(&said)));
        assert!(consumed <= buf.len());
        buf.drain(..consumed);
        assert!(
            buf.len() <= Limits::TEST.event_bytes_max.max(Limits::TEST.body_bytes_max),
            "kept without bound"
        );
        let ended =
            lines[before..].iter().position(|line| line.starts_with("fin") || line.starts_with("failed"));
        assert_eq!(
            ended.map(|at| before + at + 1),
            decoder.is_ended().then_some(lines.len()).filter(|_| before < lines.len())
        );
    }
    decoder.finish(&mut buf, json, &mut |said| lines.push(line_of(&said)));
    decoder.finish(&mut [], json, &mut |_| panic!("it ended twice"));
    let ends = lines.iter().filter(|line| line.starts_with("fin") || line.starts_with("failed"));
    assert_eq!(ends.count(), 1, "{lines:?}");
    lines
}

const fn folder_of(kind: Kind) -> &'static str {
    match kind {
        Kind::OpenAiChat => "openai_chat",
        Kind::OpenAiResponses => "openai_responses",
        Kind::Anthropic => "anthropic",
        Kind::Ollama => "ollama",
    }
}

fn path_of(kind: Kind, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder_of(kind)).join(name)
}

fn inputs() -> Vec<(Kind, PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        let paths = std::fs::read_dir(path_of(kind, "")).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths
            .filter(|path| path.extension().is_some_and(|end| end != "expected" && end != "request"))
            .collect();
        paths.sort();
        assert!(10 < paths.len(), "tests/data is not there");
        found.extend(paths.into_iter().map(|path| (kind, path.clone(), std::fs::read(&path).unwrap())));
    }
    found
}

fn check(kind: Kind, path: &Path, bytes: &[u8]) -> Result<(), String> {
    let mut json = Json::new();
    let lines = replay(kind, true, &mut json, [bytes].into_iter());
    let actual: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let golden = path.with_extension("expected");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &actual).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    if actual != expected {
        return Err(format!("{}\n expected: {expected}\n actual:   {actual}", path.display()));
    }
    let again = |name: &str, got: Vec<String>| {
        if got == lines { Ok(()) } else { Err(format!("{}, {name}: {got:?}", path.display())) }
    };
    if path.extension().is_some_and(|extension| extension == "json") {
        again("not asked for a stream", replay(kind, false, &mut json, [bytes].into_iter()))?;
    }
    again("byte by byte", replay(kind, true, &mut json, bytes.chunks(1)))?;
    for at in 0..=bytes.len() {
        let (front, back) = bytes.split_at(at);
        again("split", replay(kind, true, &mut json, [front, back].into_iter()))?;
    }
    Ok(())
}

#[test]
fn every_response_says_the_same_however_it_is_cut() {
    let inputs = inputs();
    let wrong: Vec<_> =
        inputs.iter().filter_map(|(kind, path, bytes)| check(*kind, path, bytes).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// xorshift64*: the same bytes on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as usize
    }
}

/// Damage is a failure or another text, never a panic, and never depends on how the bytes were cut.
#[test]
fn every_damaged_byte_of_every_response() {
    let (mut json, mut random) = (Json::new(), Random(0x00C1_A6A7_E5EE_D003));
    for (kind, path, bytes) in inputs() {
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            let kinds = b"\"\\{}[],:\n\r\0 ";
            damaged[at] = match random.next() % 3 {
                0 => kinds[random.next() % kinds.len()],
                1 => damaged[at] ^ (1 << (random.next() % 8)),
                _ => (random.next() % 256) as u8,
            };
            let whole = replay(kind, true, &mut json, [damaged.as_slice()].into_iter());
            let parts = replay(kind, true, &mut json, damaged.chunks(1 + random.next() % 40));
            assert_eq!(whole, parts, "{} at {at}", path.display());
        }
    }
}

/// An answer that broke off must never pass for a complete one.
#[test]
fn no_prefix_without_its_end_is_complete() {
    let mut json = Json::new();
    // The text whose line makes the answer complete.
    for (kind, name, end) in [
        (Kind::OpenAiChat, "openai.sse", "\"finish_reason\":\"stop\""),
        (Kind::OpenAiChat, "kimi-reasoning.sse", "\"finish_reason\":\"stop\""),
        (Kind::OpenAiChat, "crlf.sse", "\"finish_reason\":\"stop\""),
        (Kind::OpenAiChat, "tool-calls.sse", "\"finish_reason\":\"tool_calls\""),
        (Kind::OpenAiChat, "whole.json", "}"),
        (Kind::Anthropic, "text.sse", "\"stop_reason\":\"end_turn\""),
        (Kind::Anthropic, "tools.sse", "\"stop_reason\":\"tool_use\""),
        (Kind::Anthropic, "whole.json", "}"),
        (Kind::OpenAiResponses, "text.sse", "\"type\":\"response.completed\""),
        (Kind::OpenAiResponses, "tools.sse", "\"type\":\"response.completed\""),
        (Kind::OpenAiResponses, "whole.json", "}"),
        (Kind::Ollama, "text.ndjson", "\"done\":true"),
        (Kind::Ollama, "tools.ndjson", "\"done\":true"),
    ] {
        let bytes = std::fs::read(path_of(kind, name)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let at = text.rfind(end).unwrap();
        let line = &text[at..];
        let end = at + line.trim_end().find(['\r', '\n']).unwrap_or(line.trim_end().len());
        for at in 0..end {
            let last = replay(kind, true, &mut json, [&bytes[..at]].into_iter()).pop().unwrap();
            assert!(last.starts_with("failed UPSTREAM_TRUNCATED"), "{name} at {at}: {last}");
        }
        let last = replay(kind, true, &mut json, [&bytes[..end]].into_iter()).pop().unwrap();
        assert!(last.starts_with("finished"), "{name}: {last}");
    }
}

/// An event of 100 MB and a line that never ends are given up at the limit, however they come, and nothing is kept.
#[test]
fn responses_beyond_the_limits_fail() {
    let mut json = Json::new();
    let long = "x".repeat(Limits::TEST.event_bytes_max + 1);
    for (kind, event) in [
        (Kind::OpenAiChat, format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{long}\"}}}}]}}\n\n")),
        (
            Kind::OpenAiResponses,
            format!("data: {{\"type\":\"response.output_text.delta\",\"delta\":\"{long}\"}}\n\n"),
        ),
        (Kind::Anthropic, format!("data: {{\"type\":\"ping\",\"x\":\"{long}\"}}\n\n")),
        (Kind::Ollama, format!("{{\"message\":{{\"content\":\"{long}\"}},\"done\":false}}\n")),
        (Kind::Ollama, "x".repeat(100_000)),
        (Kind::Anthropic, "x".repeat(100_000)),
    ] {
        for reads in [1, 7, event.len()] {
            let last = replay(kind, true, &mut json, event.as_bytes().chunks(reads)).pop().unwrap();
            assert!(last.starts_with("failed UPSTREAM_MALFORMED"), "{last}");
            assert!(last.contains("an event"), "{last}");
        }
    }
    for kind in Kind::ALL {
        let body = format!("{{\"choices\":[{{\"message\":{{\"content\":\"{long}{long}\"}}}}]}}");
        let last = replay(kind, false, &mut json, body.as_bytes().chunks(7)).pop().unwrap();
        assert!(last.starts_with("failed UPSTREAM_MALFORMED") && last.contains("the answer"), "{last}");
    }
    // White space and comments are not kept, however much comes.
    let blank = " ".repeat(100_000);
    let stream = format!("{blank}{}data: [DONE]\n\n", ": ping\n\n".repeat(10_000));
    let said = replay(Kind::OpenAiChat, true, &mut json, stream.as_bytes().chunks(1_000));
    assert_eq!(said, ["finished Complete"]);
}

/// Nobody asked for gzip: the failure says so, instead of calling it broken.
#[test]
fn a_compressed_answer_is_refused() {
    for kind in Kind::ALL {
        let said = replay(kind, true, &mut Json::new(), [&[0x1F, 0x8B, 8, 0, 0][..]].into_iter());
        assert!(said[0].starts_with("failed UPSTREAM_MALFORMED Backoff"), "{said:?}");
    }
}
