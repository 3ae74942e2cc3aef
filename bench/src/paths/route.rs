//! The way of a WebSocket message through all pure packages: a frame unmasked, its JSON read, the message through the
//! shard, the answer written and framed. What is missing to the gateway is the socket and the shell.
use super::adapters::JSON_LIMITS;
use super::shard::{Message, Routing};
use super::{Operation, Path};
use crate::inputs::{client_message, filling_text, masked_frame};
use clawgate_adapters::Json;
use clawgate_adapters::websocket::{ClientMessage, decode, write_chunk, write_done};
use clawgate_core::event::{Mode, Usage};
use clawgate_wire::websocket::{Decoder, Item, Opcode, Role, Step, begin_frame, end_frame};
use std::hint::black_box;

pub(super) const PATHS: &[Path] = &[Path::new(
    "route/ws-message",
    "a WebSocket message of 128 bytes from its frame to the frames of its answer",
    prepare,
)];

const MESSAGE: Message = Message { mode: Mode::Stream, with_id: false };

fn prepare() -> Operation {
    let text = filling_text(5);
    let input = masked_frame(&client_message("s0001", &text));
    let mut buffer = input.clone();
    let mut decoder = Decoder::new(Role::Server, 1 << 20);
    let mut json = Json::new(JSON_LIMITS);
    let mut routing = Routing::new(1_000, MESSAGE);
    let mut out = Vec::with_capacity(4_096);
    Box::new(move || {
        buffer.copy_from_slice(black_box(&input));
        let Ok(Step::Frame { item: Item::Text(payload), .. }) = decoder.decode(&mut buffer) else {
            panic!("a whole frame of text was there");
        };
        let Ok(ClientMessage::Message { content, session_id, .. }) = decode(payload, &mut json) else {
            panic!("it is a message");
        };
        black_box(session_id);
        // The sessions take turns, so that the shard's memory is walked as it is with many clients.
        routing.message(MESSAGE);
        out.clear();
        let frame = begin_frame(&mut out);
        write_chunk(&mut out, content, "s0001", "", 1);
        end_frame(&mut out, frame, Opcode::Text);
        let frame = begin_frame(&mut out);
        write_done(&mut out, "s0001", &Usage::default(), "", "echo", 2);
        end_frame(&mut out, frame, Opcode::Text);
        black_box(&out);
    })
}
