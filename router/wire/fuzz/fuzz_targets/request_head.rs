//! Heads: no panic, no promise broken, and a head that is refused at some prefix is refused whole.
#![no_main]

use clawgate_wire::http1::{HeadLimits, Length, parse_request, parse_response};
use clawgate_wire::websocket::check_upgrade;
use libfuzzer_sys::fuzz_target;

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 4096, headers_max: 32, target_bytes_max: 512 };

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, buf) = input;
    let prefix = &buf[..buf.len().min(usize::from(cut))];
    let whole = parse_request(buf, &LIMITS);
    match parse_request(prefix, &LIMITS) {
        Ok(None) => {}
        Ok(Some(head)) => assert_eq!(
            whole.as_ref().ok().and_then(|head| head.as_ref()).map(|head| head.bytes),
            Some(head.bytes)
        ),
        Err(_) => assert!(whole.is_err()),
    }
    if let Ok(Some(head)) = whole {
        assert!(head.bytes <= buf.len() && buf[..head.bytes].ends_with(b"\r\n\r\n"));
        assert!(head.target.starts_with('/') || head.target == "*");
        assert!(head.body != Length::UntilClose);
        assert!(head.headers.iter().all(|(name, _)| head.headers.get_bytes(name).is_some()));
        let _ = check_upgrade(&head).map(|upgrade| upgrade.protocols().count());
    }
    if let Ok(Some(head)) = parse_response(buf, &LIMITS, cut & 1 == 1) {
        assert!(head.bytes <= buf.len() && !(head.keep_alive && head.body == Length::UntilClose));
    }
});
