//! Paths of `adapters`: what a platform or a client sends, read; what we answer, written.
use super::{Operation, Path};
use crate::inputs::{
    WEBHOOK_HEAD, WEBHOOK_SECRET, client_message, filling_text, message_text, telegram_update,
};
use clawgate_adapters::telegram::{API_ROOT, Settings, Telegram};
use clawgate_adapters::websocket::{ClientMessage, decode, write_chunk, write_done};
use clawgate_adapters::{Destination, Json, JsonLimits, Platform, Request};
use clawgate_core::event::Usage;
use clawgate_core::id::ChannelId;
use clawgate_wire::http1::{HeadLimits, parse_request};
use std::hint::black_box;

pub(super) const PATHS: &[Path] = &[
    Path::new("adapters/telegram-update", "a Telegram update of 901 bytes, its secret checked", telegram),
    Path::new("adapters/telegram-reply", "a `sendMessage` of 70 bytes of text written", telegram_reply)
        .allocating(2),
    Path::new("adapters/ws-message", "a client's message of 128 bytes", ws_message),
    Path::new("adapters/ws-chunk", "a chunk of 70 bytes of text written", ws_chunk),
    Path::new("adapters/ws-done", "the end of an answer written", ws_done),
];

/// The bounds of the gateway without a configuration.
pub(super) const JSON_LIMITS: JsonLimits = JsonLimits { bytes_max: 1 << 20, depth_max: 64, keys_max: 10_000 };

fn bot() -> Platform {
    let settings = Settings {
        token: "99:TEST".to_owned(),
        secret: Some(WEBHOOK_SECRET.to_owned()),
        bot_username: "parcels_bot".to_owned(),
        bot_id: None,
        api_root: API_ROOT.to_owned(),
    };
    Platform::Telegram(Box::new(Telegram::new(settings).expect("the settings are good")))
}

fn telegram() -> Operation {
    let platform = bot();
    let limits = HeadLimits { head_bytes_max: 16_384, headers_max: 64, target_bytes_max: 8_192 };
    let head = parse_request(WEBHOOK_HEAD, &limits).ok().flatten().expect("the head is good");
    let input = telegram_update(0, 0);
    let mut body = input.clone();
    let mut json = Json::new(JSON_LIMITS);
    Box::new(move || {
        // Decoding resolves escapes in the buffer: each time it is what a read brings.
        body.copy_from_slice(black_box(&input));
        let request = Request {
            method: "POST",
            path_rest: "",
            query: "",
            headers: &head.headers,
            unix_seconds: 1_795_255_200,
        };
        assert!(platform.adapter().verify(&request, &body).is_ok(), "the secret is right");
        let mut count = 0;
        let ack = platform.adapter().decode(&request, &mut body, &mut json, ChannelId(0), &mut |inbound| {
            count += 1;
            black_box(inbound);
        });
        assert!(count == 1 && ack.is_ok(), "the update holds one message");
        let _ = black_box(ack);
    })
}

fn telegram_reply() -> Operation {
    let platform = bot();
    let text = message_text(70);
    let mut body = Vec::with_capacity(1_024);
    Box::new(move || {
        let to = Destination { chat: "100000000", peer: "100000000", ..Destination::default() };
        let request = platform.encode(&to, black_box(&text), 0, 1_795_255_200, &mut body);
        assert!(request.is_ok(), "the destination is good");
        let _ = black_box(request);
        black_box(&body);
    })
}

fn ws_message() -> Operation {
    let input = client_message("s0001", &filling_text(5));
    let mut payload = input.clone();
    let mut json = Json::new(JSON_LIMITS);
    Box::new(move || {
        payload.copy_from_slice(black_box(&input));
        let message = decode(&mut payload, &mut json);
        assert!(matches!(message, Ok(ClientMessage::Message { .. })), "it is a message");
        let _ = black_box(message);
    })
}

fn ws_chunk() -> Operation {
    let text = message_text(70);
    let mut out = Vec::with_capacity(1_024);
    Box::new(move || {
        out.clear();
        write_chunk(&mut out, black_box(&text), "s0001", "", black_box(1));
        black_box(&out);
    })
}

fn ws_done() -> Operation {
    let mut out = Vec::with_capacity(1_024);
    let usage = Usage { prompt: 14, completion: 18, estimated: true };
    Box::new(move || {
        out.clear();
        write_done(&mut out, "s0001", black_box(&usage), "", "echo", black_box(2));
        black_box(&out);
    })
}
