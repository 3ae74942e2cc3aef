//! What agents answer over HTTP, replayed in every way in which a network can cut it.
//!
//! In `tests/data/agent`, `x.sse` are streams and `x.json` whole answers; `.expected` behind that has a line for
//! each thing said.
//! `UPDATE_GOLDEN=1 cargo test -p clawgate-providers --test agents` writes what comes out: read the difference.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "the files are read here; the providers never do")]
use clawgate_core::event::Piece;
use clawgate_providers::agent::AgentDecoder;
use clawgate_providers::{End, Json, Limits, Said};
use std::path::{Path, PathBuf};

fn line_of(said: &Said<'_>) -> String {
    match said {
        Said::Piece(Piece::Text(text)) => format!("text {text:?}"),
        Said::Piece(Piece::Reasoning(text)) => format!("reasoning {text:?}"),
        Said::Piece(Piece::Alive) => "alive".into(),
        Said::Usage(counts) => {
            format!("usage {} {} {} {}", counts.prompt, counts.completion, counts.cached, counts.reasoning)
        }
        Said::Ended(End::Finished(stop)) => format!("finished {stop:?}"),
        Said::Ended(End::Failed(failure)) => {
            format!("failed {} {:?} {:?}", failure.code.name(), failure.retry, failure.detail)
        }
        Said::Piece(Piece::Usage(_)) | Said::Call(_) | Said::Thought(_) => {
            panic!("agents do not say {said:?}")
        }
    }
}

fn replay<'r>(reads: impl Iterator<Item = &'r [u8]>) -> String {
    let (mut decoder, mut json) = (AgentDecoder::new(Limits::TEST), Json::new());
    let (mut buf, mut lines) = (Vec::new(), Vec::new());
    for read in reads {
        buf.extend_from_slice(read);
        let consumed = decoder.decode(&mut buf, &mut json, &mut |said| lines.push(line_of(&said)));
        buf.drain(..consumed);
        let most = Limits::TEST.event_bytes_max.max(Limits::TEST.body_bytes_max);
        assert!(buf.len() <= most, "kept without bound");
    }
    decoder.finish(&mut buf, &mut json, &mut |said| lines.push(line_of(&said)));
    decoder.finish(&mut [], &mut json, &mut |_| panic!("it ended twice"));
    let ends = lines.iter().filter(|line| line.starts_with("fin") || line.starts_with("failed"));
    assert_eq!(ends.count(), 1, "{lines:?}");
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn inputs() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/agent");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end != "expected"));
    paths.sort();
    assert!(15 < paths.len(), "tests/data is not there");
    paths.into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn every_answer_is_what_it_says() {
    let mut wrong = Vec::new();
    for (path, bytes) in inputs() {
        let actual = replay([bytes.as_slice()].into_iter());
        let golden = path.with_extension(match path.extension().unwrap().to_str().unwrap() {
            "sse" => "sse.expected",
            _ => "json.expected",
        });
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &actual).unwrap();
        }
        if std::fs::read_to_string(&golden).unwrap_or_default() != actual {
            wrong.push(format!("{}:\n{actual}", path.display()));
        }
        // Cut in two at every byte, and byte for byte.
        for at in 0..bytes.len() {
            assert_eq!(
                replay([&bytes[..at], &bytes[at..]].into_iter()),
                actual,
                "{} at {at}",
                path.display()
            );
        }
        assert_eq!(replay(bytes.chunks(1)), actual, "{}", path.display());
        // What ends early fails, or had said its end by then.
        for at in 0..bytes.len() {
            let cut = replay([&bytes[..at]].into_iter());
            let last = cut.lines().last().unwrap();
            assert!(
                last.starts_with("failed") || actual.starts_with(&cut[..cut.len() - last.len() - 1]),
                "{cut}"
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_has_no_end_is_cut() {
    let long = format!("event: delta\ndata: {{\"text\":\"{}\"}}\n\n", "x".repeat(5_000));
    assert!(replay([long.as_bytes()].into_iter()).contains("larger than the limit"));
    let long = format!("{{\"text\":\"{}", "x".repeat(9_000));
    assert!(replay(long.as_bytes().chunks(1_000)).contains("larger than the limit"));
    assert!(replay([b"\x1f\x8b\x08".as_slice()].into_iter()).contains("compressed"));
    assert!(replay([" \n".repeat(50_000).as_bytes()].into_iter()).contains("UPSTREAM_TRUNCATED"));
}
