//! A WebSocket client: tungstenite, which shares no code with the gateway, over any stream.
use super::PATIENCE;
use super::http::{Client, Duplex};
use serde_json::{Value, json};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{ClientRequestBuilder, Error, HandshakeError, Message, WebSocket};

/// An open WebSocket.
pub(crate) struct Socket {
    inner: WebSocket<Box<dyn Duplex>>,
    tcp: TcpStream,
    /// The subprotocol that the gateway chose.
    pub(crate) protocol: Option<String>,
}

/// What came.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    /// A message of the client protocol.
    Said(Value),
    Ping,
    Pong(Vec<u8>),
    /// The close handshake: code and reason.
    Closed(u16, String),
    /// The connection ended without one.
    Gone,
}

/// An answer to one message, as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reply {
    /// The pieces, in order.
    pub(crate) chunks: Vec<String>,
    /// What ended it: `done` or `error`.
    pub(crate) end: Value,
}

impl Reply {
    /// All of its text.
    pub(crate) fn text(&self) -> String {
        self.chunks.concat()
    }
}

impl Socket {
    /// Opens one; `headers` are added to the request. The status of the answer if it is refused.
    pub(crate) fn open(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<Self, u16> {
        let tcp = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_write_timeout(Some(PATIENCE)).unwrap();
        tcp.set_nodelay(true).unwrap();
        let stream = Box::new(tcp.try_clone().unwrap());
        Self::open_over(stream, tcp, &format!("ws://{address}{target}"), headers)
    }

    /// As [`Self::open`], over a stream that is there.
    pub(crate) fn open_over(
        stream: Box<dyn Duplex>,
        tcp: TcpStream,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, u16> {
        let mut request = ClientRequestBuilder::new(url.parse().unwrap());
        for (name, value) in headers {
            request = match *name {
                "sec-websocket-protocol" => {
                    value.split(", ").fold(request, |request, name| request.with_sub_protocol(name))
                }
                _ => request.with_header(*name, *value),
            };
        }
        let config = WebSocketConfig::default().read_buffer_size(4_096);
        match tungstenite::client::client_with_config(request, stream, Some(config)) {
            Ok((inner, response)) => {
                let protocol = response.headers().get("sec-websocket-protocol");
                let protocol = protocol.map(|name| name.to_str().unwrap().to_owned());
                Ok(Self { inner, tcp, protocol })
            }
            Err(HandshakeError::Failure(Error::Http(response))) => Err(response.status().as_u16()),
            Err(other) => panic!("no WebSocket: {other}"),
        }
    }

    /// Says it as a text frame.
    #[track_caller]
    pub(crate) fn say(&mut self, message: Value) {
        self.send(Message::text(message.to_string()));
    }

    /// Sends a message as it is.
    #[track_caller]
    pub(crate) fn send(&mut self, message: Message) {
        self.inner.send(message).unwrap();
    }

    /// Sends a message, if the other side still takes it.
    pub(crate) fn try_send(&mut self, message: Message) -> bool {
        self.inner.send(message).is_ok()
    }

    /// Writes a message without sending it yet; many then leave in one write.
    #[track_caller]
    pub(crate) fn write(&mut self, message: Value) {
        self.inner.write(Message::text(message.to_string())).unwrap();
    }

    /// Sends what was written.
    #[track_caller]
    pub(crate) fn flush(&mut self) {
        self.inner.flush().unwrap();
    }

    /// What comes next, whatever it is.
    #[track_caller]
    pub(crate) fn hear(&mut self) -> Heard {
        match self.inner.read() {
            Ok(Message::Text(text)) => Heard::Said(serde_json::from_str(&text).unwrap()),
            Ok(Message::Ping(_)) => Heard::Ping,
            Ok(Message::Pong(payload)) => Heard::Pong(payload.to_vec()),
            Ok(Message::Close(Some(frame))) => Heard::Closed(frame.code.into(), frame.reason.to_string()),
            Ok(Message::Close(None)) => Heard::Closed(1005, String::new()),
            Ok(other @ (Message::Binary(_) | Message::Frame(_))) => {
                panic!("the gateway never sends this: {other:?}")
            }
            Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_)) => Heard::Gone,
            Err(Error::Io(why)) if why.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("nothing came within {PATIENCE:?}")
            }
            Err(Error::Io(_)) => Heard::Gone,
            Err(other) => panic!("{other}"),
        }
    }

    /// The next message of the client protocol, but for the word that something waits.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        loop {
            match self.next_of_all() {
                message if message["type"] == "queued" => {}
                message => return message,
            }
        }
    }

    /// The next message of the client protocol.
    #[track_caller]
    pub(crate) fn next_of_all(&mut self) -> Value {
        loop {
            match self.hear() {
                Heard::Said(message) => return message,
                Heard::Ping | Heard::Pong(_) => {}
                other @ (Heard::Closed(..) | Heard::Gone) => panic!("a message was due: {other:?}"),
            }
        }
    }

    /// Reads until the connection ends: the code and the reason, or `None` if it ended without.
    #[track_caller]
    pub(crate) fn closed(&mut self) -> Option<(u16, String)> {
        loop {
            match self.hear() {
                Heard::Closed(code, reason) => return Some((code, reason)),
                Heard::Gone => return None,
                Heard::Said(_) | Heard::Ping | Heard::Pong(_) => {}
            }
        }
    }

    /// Authenticates by the first message.
    #[track_caller]
    pub(crate) fn authenticate(&mut self, token: &str) -> Value {
        self.say(json!({ "type": "auth", "token": token }));
        self.next()
    }

    /// Reads one streamed answer: its chunks in order, each with the fields and numbers that it must have, and its end.
    #[track_caller]
    pub(crate) fn reply(&mut self, session: &str, id: &str) -> Reply {
        let mut reply = Reply::default();
        loop {
            let message = self.next();
            if !id.is_empty() {
                assert_eq!(message["id"], id, "{message}");
            }
            assert_eq!(message["sessionId"], session, "{message}");
            match message["type"].as_str() {
                Some("chunk") => {
                    assert_eq!(message["seq"], reply.chunks.len() + 1, "{message}");
                    reply.chunks.push(message["content"].as_str().unwrap().to_owned());
                }
                Some("done" | "error") => {
                    reply.end = message;
                    return reply;
                }
                _ => panic!("no part of an answer: {message}"),
            }
        }
    }

    /// Says something in a session and reads the whole streamed answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, session: &str, content: &str) -> Reply {
        self.say(json!({ "type": "message", "channel": "api", "content": content, "sessionId": session }));
        self.reply(session, "")
    }

    /// The socket below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

/// Upgrades a raw connection, so that a test can send frames that no library would.
#[track_caller]
pub(crate) fn upgrade_raw(client: &mut Client) {
    let headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    client.request("GET", "/ws", &headers, b"");
    let head = client.head();
    assert_eq!(head.status, 101, "{head:?}");
    // The example of RFC 6455 1.3.
    assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
}

/// A frame of a client: masked, with these first bits and this payload.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | u8::try_from(short).unwrap()),
        medium @ 126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&u64::try_from(long).unwrap().to_be_bytes());
        }
    }
    frame.extend_from_slice(&key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// Reads one frame of the gateway off a raw connection: its first byte and its payload; `None` at the end.
pub(crate) fn read_frame(stream: &mut dyn Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    let mut length = [0; 8];
    let length = match head[1] {
        126 => {
            stream.read_exact(&mut length[6..]).ok()?;
            u64::from_be_bytes(length)
        }
        127 => {
            stream.read_exact(&mut length).ok()?;
            u64::from_be_bytes(length)
        }
        short => u64::from(short),
    };
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).ok()?;
    Some((head[0], payload))
}
