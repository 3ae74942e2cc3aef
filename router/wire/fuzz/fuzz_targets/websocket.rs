//! Frames: the same items and the same violation, whether the bytes come at once or cut in two; text is UTF-8.
#![no_main]

use clawgate_wire::websocket::{Decoder, Item, Role, Step, Violation};
use libfuzzer_sys::fuzz_target;

fn read(role: Role, max: usize, pieces: [&[u8]; 2]) -> (Vec<String>, Option<Violation>) {
    let (mut decoder, mut items, mut text, mut buf) =
        (Decoder::new(role, max), Vec::new(), Vec::new(), Vec::new());
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            let (consumed, item) = match decoder.decode(&mut buf) {
                Err(violation) => return (items, Some(violation)),
                Ok(Step::NeedMore(missing)) => {
                    assert!(missing > 0);
                    break;
                }
                Ok(Step::Frame { consumed, item }) => (consumed, item),
            };
            items.push(format!("{item:?}"));
            match item {
                Item::Text(whole) => assert!(std::str::from_utf8(whole).is_ok()),
                Item::Fragment { text: true, payload, last, .. } => {
                    text.extend_from_slice(payload);
                    if last {
                        assert!(std::str::from_utf8(&text).is_ok() && text.len() <= max);
                        text.clear();
                    }
                }
                Item::Fragment { .. }
                | Item::Binary(_)
                | Item::Ping(_)
                | Item::Pong(_)
                | Item::Close { .. } => {}
            }
            buf.drain(..consumed);
        }
    }
    (items, None)
}

fuzz_target!(|input: (bool, u16, u16, &[u8])| {
    let (server, max, cut, wire) = input;
    let role = if server { Role::Server } else { Role::Client };
    let (front, back) = wire.split_at(wire.len().min(usize::from(cut)));
    assert_eq!(read(role, usize::from(max), [front, back]), read(role, usize::from(max), [wire, &[]]));
});
