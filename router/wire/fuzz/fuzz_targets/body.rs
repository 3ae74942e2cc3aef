//! Bodies: the same data and the same end, whether the bytes come at once or cut in two.
#![no_main]

use clawgate_wire::http1::{BodyDecoder, Length, Refusal};
use libfuzzer_sys::fuzz_target;

fn read(length: Length, max: u64, pieces: [&[u8]; 2]) -> (Vec<u8>, Result<bool, Refusal>) {
    let (mut decoder, mut data, mut buf) = (BodyDecoder::new(length, max), Vec::new(), Vec::new());
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            let consumed = match decoder.decode(&buf) {
                Err(refusal) => return (data, Err(refusal)),
                Ok(body) => {
                    data.extend_from_slice(body.data);
                    if body.done || body.consumed == 0 {
                        break;
                    }
                    body.consumed
                }
            };
            buf.drain(..consumed);
        }
    }
    assert!(data.len() as u64 <= max);
    (data, Ok(decoder.is_done()))
}

fuzz_target!(|input: (u8, u16, u16, &[u8])| {
    let (kind, max, cut, wire) = input;
    let length = match kind % 3 {
        0 => Length::Exact(u64::from(cut)),
        1 => Length::UntilClose,
        _ => Length::Chunked,
    };
    let (front, back) = wire.split_at(wire.len().min(usize::from(cut)));
    assert_eq!(read(length, u64::from(max), [front, back]), read(length, u64::from(max), [wire, &[]]));
});
