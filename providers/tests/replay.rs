//! Responses as providers send them, replayed in every way in which a network can cut them.
//!
//! `tests/data/openai_chat/x.sse` is a stream, `x.json` a body that is none; `x.expected` has a line for each thing said.
//! `UPDATE_GOLDEN=1 cargo test -p clawgate-providers --test replay` writes what comes out: read the difference.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "the files are read here; the providers never do")]
use clawgate_core::event::{End, Piece};
use clawgate_providers::openai_chat::{Decoder, Limits};
use clawgate_providers::{Json, Said};
use std::path::{Path, PathBuf};

fn line_of(said: &Said<'_>) -> String {
    match said {
        Said::Piece(Piece::Text(text)) => format!("text {text:?}"),
        Said::Piece(Piece::Reasoning(text)) => format!("reasoning {text:?}"),
        Said::Piece(Piece::Usage(usage)) => format!("usage {} {}", usage.prompt, usage.completion),
        Said::Piece(Piece::Alive) => "alive".into(),
        Said::Ended(End::Finished(stop)) => format!("finished {stop:?}"),
        Said::Ended(End::Failed(failure)) => {
            format!("failed {} {:?} {:?}", failure.code.name(), failure.retry, failure.detail)
        }
    }
}

/// Reads a response that arrives in these reads, as the shell does: what is left is kept in front of the next read.
fn replay<'r>(stream: bool, json: &mut Json, reads: impl Iterator<Item = &'r [u8]>) -> Vec<String> {
    let mut decoder = Decoder::new(stream, Limits::TEST);
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

fn inputs() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/openai_chat");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension != "expected"));
    let mut found: Vec<_> = paths.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect();
    found.sort();
    found
}

fn check(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let mut json = Json::new();
    let lines = replay(true, &mut json, [bytes].into_iter());
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
        again("not asked for a stream", replay(false, &mut json, [bytes].into_iter()))?;
    }
    again("byte by byte", replay(true, &mut json, bytes.chunks(1)))?;
    for at in 0..=bytes.len() {
        let (front, back) = bytes.split_at(at);
        again("split", replay(true, &mut json, [front, back].into_iter()))?;
    }
    Ok(())
}

#[test]
fn every_response_says_the_same_however_it_is_cut() {
    let inputs = inputs();
    assert!(50 < inputs.len(), "tests/data is not there");
    let wrong: Vec<_> = inputs.iter().filter_map(|(path, bytes)| check(path, bytes).err()).collect();
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
    for (path, bytes) in inputs() {
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            let kinds = b"\"\\{}[],:\n\r\0 ";
            damaged[at] = match random.next() % 3 {
                0 => kinds[random.next() % kinds.len()],
                1 => damaged[at] ^ (1 << (random.next() % 8)),
                _ => (random.next() % 256) as u8,
            };
            let whole = replay(true, &mut json, [damaged.as_slice()].into_iter());
            let parts = replay(true, &mut json, damaged.chunks(1 + random.next() % 40));
            assert_eq!(whole, parts, "{} at {at}", path.display());
        }
    }
}

/// An answer that broke off must never pass for a complete one.
#[test]
fn no_prefix_without_its_end_is_complete() {
    let mut json = Json::new();
    for name in ["openai.sse", "kimi-reasoning.sse", "crlf.sse", "whole.json"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/openai_chat").join(name);
        let bytes = std::fs::read(path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        // The stream is complete once the chunk with the reason is, and a body once its last brace came.
        let chunk_end = |at| text[at..].find("}]").map(|end| at + end);
        let end = match text.find("\"finish_reason\":\"stop\"").filter(|_| name != "whole.json") {
            Some(at) => chunk_end(at).unwrap(),
            None => bytes.len() - 1,
        };
        for at in 0..=end {
            let last = replay(true, &mut json, [&bytes[..at]].into_iter()).pop().unwrap();
            assert!(last.starts_with("failed UPSTREAM_TRUNCATED"), "{name} at {at}: {last}");
        }
    }
}

#[test]
fn responses_beyond_the_limits_fail() {
    let mut json = Json::new();
    let long = "x".repeat(Limits::TEST.event_bytes_max + 1);
    let event = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{long}\"}}}}]}}\n\n");
    let body = format!("{{\"choices\":[{{\"message\":{{\"content\":\"{long}{long}\"}}}}]}}");
    let blank = " ".repeat(100_000);
    for (response, expected) in [(&event, "an event"), (&body, "the answer")] {
        for reads in [1, 7, response.len()] {
            let last = replay(true, &mut json, response.as_bytes().chunks(reads)).pop().unwrap();
            assert!(last.starts_with("failed UPSTREAM_MALFORMED"), "{last}");
            assert!(last.contains(expected), "{last}");
        }
    }
    // White space and comments are not kept, however much comes.
    let stream = format!("{blank}{}data: [DONE]\n\n", ": ping\n\n".repeat(10_000));
    assert_eq!(replay(true, &mut json, stream.as_bytes().chunks(1_000)), ["finished Complete"]);
}
