//! Bytes as peers send them: cut anywhere, mixed up, made up. Nothing panics, nothing depends on where a read ended,
//! and what is accepted keeps its promises. Every round's seed is in its panic; `WIRE_ROUNDS=100` makes them longer.
#![allow(clippy::unwrap_used)]

mod support;

use clawgate_wire::http1::{
    BodyDecoder, HeadLimits, Length, Refusal, parse_request, parse_response, write_chunk, write_last_chunk,
};
use clawgate_wire::json;
use clawgate_wire::sse;
use clawgate_wire::websocket::{
    Opcode, Role, Utf8, check_upgrade, check_upgrade_response, write_close, write_frame,
};
use support::{Rng, read_websocket, rounds};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 400, headers_max: 5, target_bytes_max: 60 };

/// Pieces that heads are made of, right and wrong.
const HEAD_PIECES: [&[u8]; 58] = [
    b"GET ",
    b"POST ",
    b"CONNECT ",
    b"OPTIONS ",
    b"/",
    b"/a?b",
    b"*",
    b"http://a",
    b"a:1",
    b" ",
    b"HTTP/1.1",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 101 X\r\n",
    b"HTTP/1.0 204 \r\n",
    b"\r\n",
    b"\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\t",
    b"\0",
    b":",
    b": ",
    b",",
    b"Host: a\r\n",
    b"Host: ",
    b"Host: b\r\n",
    b"host: http://a\r\n",
    b"Content-Length: ",
    b"Content-Length: 5\r\n",
    b"5",
    b"18446744073709551616",
    b"+",
    b"Transfer-Encoding: ",
    b"Transfer-Encoding: chunked\r\n",
    b"chunked",
    b"gzip, chunked",
    b"Connection: ",
    b"Connection: upgrade\r\n",
    b"close",
    b"Upgrade: websocket\r\n",
    b"Sec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    b"==",
    b"Sec-WebSocket-Accept: ",
    b"Expect: 100-continue\r\n",
    b"\xFF",
    b"\xC3\xA9",
    b"x",
    b"#",
    b"@",
    b"X: y\r\n",
    b"[::1]",
    b"HTTP/1.1 099 X\r\n",
    b"a-long-piece-of-thirty-one-bytes",
];

fn soup(rng: &mut Rng, pieces: &[&[u8]], count: usize) -> Vec<u8> {
    let count = rng.below(count);
    (0..count).flat_map(|_| rng.pick(pieces).to_vec()).collect()
}

#[test]
fn made_up_heads() {
    let (mut requests, mut responses, mut refusals) = (0, 0, std::collections::HashSet::new());
    for seed in rounds(150_000) {
        let rng = &mut Rng::new(seed);
        let starts: [&[u8]; 6] = [
            b"",
            b"",
            b"GET http://a/x HTTP/1.1\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\n",
            b"GET / HTTP/1.0\r\n",
            b"HTTP/1.1 200 OK\r\n",
        ];
        let mut buf = rng.pick(&starts).to_vec();
        let count = *rng.pick(&[8, 14, 40]);
        buf.extend(soup(rng, &HEAD_PIECES, count));
        if rng.one_in(20) {
            buf.extend_from_slice(&[b'x'; 400]);
        }
        if rng.one_in(4) && !buf.is_empty() {
            let at = rng.below(buf.len());
            buf[at] = rng.next() as u8;
        }
        match parse_request(&buf, &LIMITS) {
            Err(refusal) => {
                refusals.insert(refusal);
            }
            Ok(None) => assert!(buf.len() < LIMITS.head_bytes_max, "seed {seed}"),
            Ok(Some(head)) => {
                requests += 1;
                assert!(head.bytes <= buf.len() && buf[..head.bytes].ends_with(b"\r\n\r\n"), "seed {seed}");
                assert!(head.target.starts_with('/') || head.target == "*", "seed {seed}");
                assert!(head.method != "CONNECT" && head.body != Length::UntilClose, "seed {seed}");
                assert!(head.headers.count("host") == 1 || head.minor == 0, "seed {seed}");
                assert!(head.headers.count("content-length") <= 1, "seed {seed}");
                assert_eq!(head.headers.iter().count(), head.headers.len(), "seed {seed}");
                let _ = check_upgrade(&head).map(|upgrade| upgrade.protocols().count());
            }
        }
        match parse_response(&buf, &LIMITS, rng.one_in(2)) {
            Err(refusal) => {
                refusals.insert(refusal);
            }
            Ok(None) => assert!(buf.len() < LIMITS.head_bytes_max, "seed {seed}"),
            Ok(Some(head)) => {
                responses += 1;
                assert!(head.bytes <= buf.len() && (100..=999).contains(&head.status), "seed {seed}");
                assert!(!head.keep_alive || head.body != Length::UntilClose, "seed {seed}");
                let _ = check_upgrade_response(&head, "AAAAAAAAAAAAAAAAAAAAAA==");
            }
        }
    }
    // The soup is neither all bad nor all good, and meets every refusal of a head.
    assert!(1000 < requests && 1000 < responses, "{requests} {responses}");
    assert_eq!(refusals.len(), 24, "{refusals:?}");
}

/// A head is refused for good, and once it is whole more bytes change nothing.
#[test]
fn made_up_heads_do_not_depend_on_reads() {
    let limits = HeadLimits { head_bytes_max: 8000, headers_max: 64, target_bytes_max: 100 };
    let filler = b"X: a-field-of-which-there-are-many-so-that-the-head-is-longer-than-most\r\n".repeat(40);
    for seed in rounds(60_000) {
        let rng = &mut Rng::new(seed);
        let starts: [&[u8]; 3] = [b"", b"POST / HTTP/1.1\r\nHost: a\r\n", b"HTTP/1.1 200 OK\r\n"];
        let mut buf = rng.pick(&starts).to_vec();
        if rng.one_in(4) {
            buf.extend_from_slice(&filler);
        }
        buf.extend(soup(rng, &HEAD_PIECES, 16));
        let end = rng.below(buf.len() + 1);
        let check =
            |prefix: Result<Option<usize>, Refusal>, whole: Result<Option<usize>, Refusal>| match prefix {
                Ok(None) => {}
                Ok(Some(_)) => assert_eq!(whole, prefix, "seed {seed} to {end}"),
                Err(_) => assert!(whole.is_err(), "seed {seed} to {end}"),
            };
        let request = |buf: &[u8]| parse_request(buf, &limits).map(|head| head.map(|head| head.bytes));
        check(request(&buf[..end]), request(&buf));
        let response =
            |buf: &[u8]| parse_response(buf, &limits, false).map(|head| head.map(|head| head.bytes));
        check(response(&buf[..end]), response(&buf));
    }
}

#[test]
fn made_up_bytes_are_no_head() {
    for seed in rounds(100_000) {
        let rng = &mut Rng::new(seed);
        let count = rng.below(60);
        let buf = rng.bytes(count);
        assert!(!matches!(parse_request(&buf, &LIMITS), Ok(Some(_))), "seed {seed}");
        assert!(!matches!(parse_response(&buf, &LIMITS, false), Ok(Some(_))), "seed {seed}");
    }
}

/// Data, bytes consumed, and how it ended, of a body that comes in pieces.
fn read_body(
    length: Length,
    max: u64,
    wire: &[u8],
    cuts: &[usize],
) -> (Vec<u8>, Result<(bool, usize), Refusal>) {
    let mut decoder = BodyDecoder::new(length, max);
    let (mut data, mut at) = (Vec::new(), 0);
    for end in cuts.iter().copied().chain([wire.len()]) {
        loop {
            let body = match decoder.decode(&wire[at..end]) {
                Ok(body) => body,
                Err(refusal) => return (data, Err(refusal)),
            };
            data.extend_from_slice(body.data);
            at += body.consumed;
            if body.done || body.consumed == 0 {
                break;
            }
        }
    }
    (data, Ok((decoder.is_done(), at)))
}

#[test]
fn made_up_bodies_do_not_depend_on_reads() {
    let pieces: [&[u8]; 24] = [
        b"0\r\n\r\n",
        b"3\r\nabc\r\n",
        b"1;x=y\r\nz\r\n",
        b"5",
        b"a",
        b"0",
        b"\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b";",
        b" ",
        b"X: y\r\n",
        b":",
        b"0\r\nX: y\r\n",
        b"\0",
        b"00",
        b"f",
        b"ffffffffffffffff",
        b"10\r\n0123456789abcdef\r\n",
        b"2\r\n\r\n\r\n",
        b"-",
        b"x",
        b"0\r\n",
    ];
    let mut done = 0;
    for seed in rounds(100_000) {
        let rng = &mut Rng::new(seed);
        let wire = soup(rng, &pieces, 10);
        let length = *rng.pick(&[
            Length::Chunked,
            Length::Chunked,
            Length::Chunked,
            Length::Exact(9),
            Length::UntilClose,
        ]);
        let max = rng.below(30) as u64;
        let whole = read_body(length, max, &wire, &[]);
        assert_eq!(read_body(length, max, &wire, &rng.cuts(wire.len())), whole, "seed {seed}: {wire:?}");
        assert!(whole.0.len() as u64 <= max, "seed {seed}");
        done += usize::from(matches!(whole.1, Ok((true, _))));
    }
    assert!(10_000 < done, "{done}");
}

#[test]
fn chunks_come_back_whatever_the_reads() {
    for seed in rounds(2_000) {
        let rng = &mut Rng::new(seed);
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..rng.below(5) {
            let count = *rng.pick(&[0, 1, 15, 16, 300, 70_000]);
            let data = rng.bytes(count);
            write_chunk(&mut wire, &data);
            expected.extend_from_slice(&data);
        }
        write_last_chunk(&mut wire);
        let (bytes, cuts) = (wire.len(), rng.cuts(wire.len()));
        wire.extend_from_slice(b"GET / HTTP/1.1\r\n");
        let found = read_body(Length::Chunked, 1 << 20, &wire, &cuts);
        assert_eq!(found, (expected, Ok((true, bytes))), "seed {seed}");
    }
}

/// A stream of frames as the peer of `role` sends them.
fn frames(rng: &mut Rng, role: Role) -> Vec<u8> {
    let mut wire = Vec::new();
    let mask = |rng: &mut Rng| (role == Role::Server).then(|| (rng.next() as u32).to_ne_bytes());
    for _ in 0..1 + rng.below(4) {
        let characters = *rng.pick(&[0, 1, 5, 40, 126, 200]);
        let text = rng.text(characters);
        match rng.below(5) {
            0 => write_frame(&mut wire, Opcode::Text, true, mask(rng), text.as_bytes()),
            1 => write_frame(&mut wire, Opcode::Binary, true, mask(rng), text.as_bytes()),
            2 => {
                write_frame(&mut wire, Opcode::Ping, true, mask(rng), &text.as_bytes()[..text.len().min(125)])
            }
            3 => write_frame(&mut wire, Opcode::Pong, true, mask(rng), b""),
            _ => {
                let cut = rng.below(text.len() + 1);
                write_frame(&mut wire, Opcode::Text, false, mask(rng), &text.as_bytes()[..cut]);
                if rng.one_in(2) {
                    write_frame(&mut wire, Opcode::Ping, true, mask(rng), b"between");
                }
                write_frame(&mut wire, Opcode::Continuation, true, mask(rng), &text.as_bytes()[cut..]);
            }
        }
    }
    if rng.one_in(3) {
        write_close(&mut wire, mask(rng), 1000, "bye");
    }
    wire
}

#[test]
fn every_prefix_and_every_split_of_websocket_frames() {
    for seed in 0..24 {
        let rng = &mut Rng::new(seed);
        let role = *rng.pick(&[Role::Server, Role::Client]);
        let wire = frames(rng, role);
        let whole = read_websocket(role, 1 << 16, &wire, &[]);
        assert_eq!(whole.1, None, "seed {seed}");
        let every: Vec<usize> = (0..=wire.len()).collect();
        assert_eq!(read_websocket(role, 1 << 16, &wire, &every), whole, "seed {seed}");
        for first in 0..=wire.len() {
            let prefix = read_websocket(role, 1 << 16, &wire[..first], &[]);
            assert!(whole.0.starts_with(&prefix.0) && prefix.1.is_none(), "seed {seed} to {first}");
            assert_eq!(read_websocket(role, 1 << 16, &wire, &[first]), whole, "seed {seed} at {first}");
        }
    }
}

#[test]
fn made_up_frames_do_not_depend_on_reads() {
    let mut violations = std::collections::HashSet::new();
    for seed in rounds(120_000) {
        let rng = &mut Rng::new(seed);
        let role = *rng.pick(&[Role::Server, Role::Client]);
        let mut wire = if rng.one_in(3) {
            let count = rng.below(40);
            rng.bytes(count)
        } else {
            frames(rng, role)
        };
        for _ in 0..rng.below(3) {
            if !wire.is_empty() {
                let at = rng.below(wire.len().min(20));
                wire[at] ^= 1 << rng.below(8);
            }
        }
        let max = *rng.pick(&[0, 10, 300, usize::MAX]);
        let whole = read_websocket(role, max, &wire, &[]);
        // Where the message that is too long is also bad UTF-8, the same bytes give the same answer however they come.
        assert_eq!(read_websocket(role, max, &wire, &rng.cuts(wire.len())), whole, "seed {seed}: {wire:x?}");
        violations.extend(whole.1);
    }
    assert_eq!(violations.len(), 15, "every violation is met: {violations:?}");
}

/// Everything that a stream of events holds, in words, and whether it was too long.
fn read_events(stream: &[u8], max: usize, cuts: &[usize]) -> (Vec<String>, bool) {
    let (mut decoder, mut found) = (sse::Decoder::new(max), Vec::new());
    let (mut buf, mut from) = (Vec::new(), 0);
    for end in cuts.iter().copied().chain([stream.len()]) {
        buf.extend_from_slice(&stream[from..end]);
        from = end;
        loop {
            let consumed = match decoder.decode(&mut buf) {
                Err(sse::TooLong) => return (found, true),
                Ok(sse::Step::NeedMore) => break,
                Ok(sse::Step::Event { consumed, event, id, data }) => {
                    found.push(format!("{event:?} {id:?} {data:?}"));
                    consumed
                }
                Ok(sse::Step::Id { consumed, id }) => {
                    found.push(format!("{id:?}"));
                    consumed
                }
                Ok(sse::Step::Comment { consumed }) => {
                    found.push("comment".to_owned());
                    consumed
                }
                Ok(sse::Step::Skip { consumed }) => consumed,
            };
            assert!(0 < consumed && consumed <= buf.len());
            buf.drain(..consumed);
        }
    }
    found.push(format!("{:?}", decoder.retry_millis()));
    (found, false)
}

#[test]
fn made_up_events_do_not_depend_on_reads() {
    let pieces: [&[u8]; 26] = [
        b"data: ",
        b"data:",
        b"data",
        b"data: x\n",
        b"event: e\n",
        b"event:",
        b"event",
        b"id: 1\n",
        b"id",
        b"id:",
        b"retry: 5\n",
        b"retry",
        b"\n",
        b"\n",
        b"\n\n",
        b"\r",
        b"\r\n",
        b"\r\n\r\n",
        b"\r\r",
        b":",
        b" ",
        b"\xEF\xBB\xBF",
        b"\0",
        b"\xFF",
        b"longer text",
        b"\xEF",
    ];
    for seed in rounds(120_000) {
        let rng = &mut Rng::new(seed);
        let stream = soup(rng, &pieces, 24);
        let max = *rng.pick(&[0, 5, 20, 1000]);
        let whole = read_events(&stream, max, &[]);
        let cuts = rng.cuts(stream.len());
        assert_eq!(read_events(&stream, max, &cuts), whole, "seed {seed}: {stream:?} at {cuts:?}");
    }
}

#[test]
fn lines_do_not_depend_on_reads() {
    let read = |stream: &[u8], cuts: &[usize]| {
        let (mut found, mut buf, mut scanned, mut from) = (Vec::new(), Vec::new(), 0, 0);
        for end in cuts.iter().copied().chain([stream.len()]) {
            buf.extend_from_slice(&stream[from..end]);
            from = end;
            loop {
                match sse::next_line(&mut buf, &mut scanned, 8) {
                    Err(sse::TooLong) => return (found, true),
                    Ok(None) => break,
                    Ok(Some(line)) => {
                        found.push(line.line.to_vec());
                        let consumed = line.consumed;
                        buf.drain(..consumed);
                    }
                }
            }
        }
        (found, false)
    };
    for seed in rounds(30_000) {
        let rng = &mut Rng::new(seed);
        let stream = soup(rng, &[b"\n", b"\r", b"\r\n", b"x", b"{\"a\":1}"], 12);
        let cuts = rng.cuts(stream.len());
        assert_eq!(read(&stream, &cuts), read(&stream, &[]), "seed {seed}: {stream:?} at {cuts:?}");
    }
}

#[test]
fn text_in_pieces_is_checked_as_std_checks_the_whole() {
    for seed in rounds(60_000) {
        let rng = &mut Rng::new(seed);
        let characters = rng.below(40);
        let mut text = rng.text(characters).into_bytes();
        if rng.one_in(2) && !text.is_empty() {
            let at = rng.below(text.len());
            text[at] = rng.next() as u8;
        }
        let (mut utf8, mut from) = (Utf8::new(), 0);
        for end in rng.cuts(text.len()).into_iter().chain([text.len()]) {
            let expected = match std::str::from_utf8(&text[..end]) {
                Ok(_) => Some(true),
                Err(error) if error.error_len().is_none() => Some(false),
                Err(_) => None,
            };
            assert_eq!(utf8.feed(&text[from..end]).ok(), expected, "seed {seed}: {text:x?} to {end}");
            from = end;
            if expected.is_none() {
                break;
            }
        }
    }
}

/// Whatever a client says, a string that we write is one line of valid JSON: an event's data cannot be broken by it.
#[test]
fn a_written_string_is_one_line() {
    let mut out = Vec::new();
    for seed in rounds(20_000) {
        let rng = &mut Rng::new(seed);
        let characters = rng.below(60);
        let text = rng.text(characters);
        out.clear();
        json::write_str(&mut out, &text);
        assert!(out.iter().all(|byte| 0x20 <= *byte), "seed {seed}");
    }
}
