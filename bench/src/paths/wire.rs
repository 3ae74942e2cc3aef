//! Paths of `wire`: heads, bodies, frames, events, texts. Where decoding changes its buffer, the input is copied afresh,
//! and the copy is part of what is counted.
use super::{Operation, Path};
use crate::inputs::{STREAM_HEAD, UPGRADE_HEAD, WEBHOOK_HEAD, masked_frame, message_text, openai_stream};
use clawgate_wire::http1::{
    BodyDecoder, HeadLimits, Length, parse_request, parse_response, write_chunk, write_last_chunk,
    write_response_head,
};
use clawgate_wire::json::write_str;
use clawgate_wire::sse;
use clawgate_wire::websocket::{Decoder, Item, Opcode, Role, Step, begin_frame, end_frame, unmask};
use std::hint::black_box;

pub(super) const PATHS: &[Path] = &[
    Path::new("wire/http-head", "the head of a Telegram webhook, 7 fields", || request_head(WEBHOOK_HEAD)),
    Path::new("wire/http-head-upgrade", "the head by which a browser opens a WebSocket, 12 fields", || {
        request_head(UPGRADE_HEAD)
    }),
    Path::new("wire/http-response-head", "the head of a model's streamed answer, 7 fields", response_head),
    Path::new("wire/http-write-head", "the head of a JSON answer written", write_head),
    Path::new("wire/body-chunked", "a body of 16 chunks of 64 bytes", body_chunked),
    Path::new("wire/ws-decode-128", "a masked frame of 128 bytes of text", || ws_decode(1)),
    Path::new("wire/ws-decode-128x16", "16 masked frames of 128 bytes of text from one buffer", || {
        ws_decode(16)
    }),
    Path::new("wire/ws-unmask-128", "128 bytes unmasked", || ws_unmask(128)),
    Path::new("wire/ws-unmask-4096", "4,096 bytes unmasked", || ws_unmask(4_096)),
    Path::new("wire/ws-write-128", "a frame of 128 bytes written in place", ws_write),
    Path::new("wire/sse-decode", "a stream of 50 tokens split into its events", sse_decode).long(),
    Path::new("wire/json-escape-ascii", "128 bytes of plain text", || json_escape(&message_text(128))),
    Path::new("wire/json-escape-mixed", "126 bytes of quotes, line ends, and two scripts", || {
        json_escape(&"She said \"no\"\n\tand 没有 ещё ".repeat(3))
    }),
];

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 16_384, headers_max: 64, target_bytes_max: 8_192 };

fn request_head(head: &'static [u8]) -> Operation {
    Box::new(move || {
        let parsed = parse_request(black_box(head), &LIMITS);
        assert!(matches!(&parsed, Ok(Some(parsed)) if parsed.bytes == head.len()));
        let _ = black_box(parsed);
    })
}

fn response_head() -> Operation {
    Box::new(|| {
        let parsed = parse_response(black_box(STREAM_HEAD), &LIMITS, false);
        assert!(matches!(&parsed, Ok(Some(parsed)) if parsed.body == Length::Chunked));
        let _ = black_box(parsed);
    })
}

fn write_head() -> Operation {
    let mut out = Vec::with_capacity(1_024);
    Box::new(move || {
        out.clear();
        let fields = [("Content-Type", "application/json"), ("X-RateLimit-Remaining", "99")];
        write_response_head(&mut out, black_box(200), &fields, Length::Exact(217), true);
        black_box(&out);
    })
}

fn body_chunked() -> Operation {
    let mut bytes = Vec::new();
    let text = message_text(64);
    (0..16).for_each(|_| write_chunk(&mut bytes, text.as_bytes()));
    write_last_chunk(&mut bytes);
    Box::new(move || {
        let mut decoder = BodyDecoder::new(Length::Chunked, 65_536);
        let mut at = 0;
        loop {
            let body = decoder.decode(black_box(&bytes[at..])).expect("the chunks are well-formed");
            black_box(body.data);
            at += body.consumed;
            if body.done {
                break;
            }
        }
        assert_eq!(at, bytes.len());
    })
}

fn ws_decode(frames: usize) -> Operation {
    let input = masked_frame(message_text(128).as_bytes()).repeat(frames);
    let mut buffer = input.clone();
    let mut decoder = Decoder::new(Role::Server, 65_536);
    Box::new(move || {
        // Decoding unmasks in the buffer: each time it is what a read brings.
        buffer.copy_from_slice(black_box(&input));
        let mut at = 0;
        for _ in 0..frames {
            let Ok(Step::Frame { consumed, item: Item::Text(text) }) = decoder.decode(&mut buffer[at..])
            else {
                panic!("a whole frame of text was there");
            };
            black_box(text);
            at += consumed;
        }
    })
}

fn ws_unmask(bytes: usize) -> Operation {
    let mut payload = message_text(bytes).into_bytes();
    Box::new(move || {
        unmask(black_box(&mut payload), black_box([0x37, 0xFA, 0x21, 0x3D]), 0);
    })
}

fn ws_write() -> Operation {
    let text = message_text(128).into_bytes();
    let mut out = Vec::with_capacity(1_024);
    Box::new(move || {
        out.clear();
        let frame = begin_frame(&mut out);
        out.extend_from_slice(black_box(&text));
        end_frame(&mut out, frame, Opcode::Text);
        black_box(&out);
    })
}

fn sse_decode() -> Operation {
    let input = openai_stream(50);
    let mut buffer = input.clone();
    Box::new(move || {
        buffer.copy_from_slice(black_box(&input));
        let mut decoder = sse::Decoder::new(65_536);
        let (mut at, mut events) = (0, 0);
        loop {
            match decoder.decode(&mut buffer[at..]).expect("no event is too long") {
                sse::Step::NeedMore => break,
                sse::Step::Event { consumed, data, .. } => {
                    black_box(data);
                    events += 1;
                    at += consumed;
                }
                sse::Step::Id { consumed, .. } => at += consumed,
                sse::Step::Comment { consumed } | sse::Step::Skip { consumed } => at += consumed,
            }
        }
        assert_eq!(events, 54);
    })
}

fn json_escape(text: &str) -> Operation {
    let text = text.to_owned();
    let mut out = Vec::with_capacity(1_024);
    Box::new(move || {
        out.clear();
        write_str(&mut out, black_box(&text));
        black_box(&out);
    })
}
