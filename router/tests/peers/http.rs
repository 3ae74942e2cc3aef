//! An HTTP/1.1 client of our own for tests: blocking, and raw enough to send what no library would. Written from RFC
//! 9112, and shares no code with the gateway.
use super::PATIENCE;
use serde_json::Value;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Bytes both ways: a TCP stream, or TLS over one.
pub(crate) trait Duplex: Read + Write + Send {}

impl<T: Read + Write + Send> Duplex for T {}

/// A connection to the gateway.
pub(crate) struct Client {
    stream: Box<dyn Duplex>,
    tcp: TcpStream,
    inbox: Vec<u8>,
    body: Framing,
    host: String,
    /// How often the socket gave us bytes.
    pub(crate) reads: usize,
}

/// How the body that is being read ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Exact(usize),
    Chunked,
    UntilClose,
    Done,
}

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {:?} {}", self.status, self.headers, String::from_utf8_lossy(&self.body))
    }
}

fn header_of<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

impl Head {
    /// A field of it.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header_of(&self.headers, name)
    }
}

impl Answer {
    /// A field of its head.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header_of(&self.headers, name)
    }

    /// A field that is a number.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> u64 {
        let value = self.header(name).unwrap_or_else(|| panic!("no {name}: {self:?}"));
        value.parse().unwrap_or_else(|_| panic!("{name} is no number: {self:?}"))
    }

    /// Its body as text.
    #[track_caller]
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Its body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }

    /// The status and the public code of a refusal, whose envelope is checked.
    #[track_caller]
    pub(crate) fn refusal(&self) -> (u16, String) {
        let json = self.json();
        assert_eq!(json["success"], false, "{self:?}");
        assert!(json["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        let waits = json["error"]["retryAfter"].as_u64().map(|seconds| seconds.to_string());
        assert_eq!(waits.as_deref(), self.header("retry-after"), "{self:?}");
        (self.status, json["error"]["code"].as_str().unwrap().to_owned())
    }
}

impl Client {
    /// Connects.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        let stream = Box::new(tcp.try_clone().unwrap());
        Self::over(stream, tcp, &address.to_string())
    }

    /// Speaks over a stream that is there, whose socket is `tcp`.
    pub(crate) fn over(stream: Box<dyn Duplex>, tcp: TcpStream, host: &str) -> Self {
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_write_timeout(Some(PATIENCE)).unwrap();
        tcp.set_nodelay(true).unwrap();
        Self { stream, tcp, inbox: Vec::new(), body: Framing::Done, host: host.to_owned(), reads: 0 }
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self.stream.flush().unwrap();
    }

    /// Sends bytes as far as the other side takes them: it may have closed already, and that is all right.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).and_then(|()| self.stream.flush()).is_ok()
    }

    /// Sends a whole request. `headers` come after `Host`; a length is added where there is a body or a POST.
    #[track_caller]
    pub(crate) fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {}\r\n", self.host);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || method == "POST" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        self.send([head.as_bytes(), body].concat());
    }

    /// Sends a POST of JSON.
    #[track_caller]
    pub(crate) fn post(&mut self, target: &str, headers: &[(&str, &str)], body: &Value) {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.request("POST", target, &all, body.to_string().as_bytes());
    }

    /// Adds to the inbox; 0 at the end.
    #[track_caller]
    fn fill(&mut self) -> usize {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(bytes) => {
                    self.inbox.extend_from_slice(&buffer[..bytes]);
                    self.reads += usize::from(bytes != 0);
                    return bytes;
                }
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if matches!(why.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    return 0;
                }
                // TLS that ends without its goodbye.
                Err(why) if why.kind() == ErrorKind::UnexpectedEof => return 0,
                Err(why) => panic!("nothing came: {why}; so far: {}", String::from_utf8_lossy(&self.inbox)),
            }
        }
    }

    /// Takes bytes off the inbox up to and with `end`; `None` if the connection ends before.
    #[track_caller]
    fn take_to(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            let found = self.inbox.windows(end.len()).position(|part| part == end);
            if let Some(at) = found {
                return Some(self.inbox.drain(..at + end.len()).collect());
            }
            if self.fill() == 0 {
                return None;
            }
        }
    }

    /// Reads the head of the next answer.
    #[track_caller]
    pub(crate) fn head(&mut self) -> Head {
        self.try_head().expect("the connection ended before an answer")
    }

    /// As [`Self::head`]; `None` if the connection ends first.
    #[track_caller]
    pub(crate) fn try_head(&mut self) -> Option<Head> {
        assert_eq!(self.body, Framing::Done, "the answer before is not read");
        let head = String::from_utf8(self.take_to(b"\r\n\r\n")?).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().unwrap();
        assert!(status_line.starts_with("HTTP/1.1 "), "{status_line:?}");
        let status = status_line[9..12].parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line:?}")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let head = Head { status, headers };
        let length = head.header("content-length").map(|length| length.parse().unwrap());
        self.body = match (status, length, head.header("transfer-encoding")) {
            (100..200 | 204 | 304, ..) => Framing::Done,
            (_, None, Some("chunked")) => Framing::Chunked,
            (_, Some(0), None) => Framing::Done,
            (_, Some(length), None) => Framing::Exact(length),
            (_, None, None) => Framing::UntilClose,
            _ => panic!("an ambiguous head: {head:?}"),
        };
        Some(head)
    }

    /// Reads the next bytes of the body: a chunk, or what came; `None` at its end.
    #[track_caller]
    pub(crate) fn piece(&mut self) -> Option<Vec<u8>> {
        match self.body {
            Framing::Done => None,
            Framing::UntilClose => {
                if self.inbox.is_empty() && self.fill() == 0 {
                    self.body = Framing::Done;
                    return None;
                }
                Some(std::mem::take(&mut self.inbox))
            }
            Framing::Exact(left) => {
                while self.inbox.is_empty() {
                    assert_ne!(self.fill(), 0, "the answer broke off");
                }
                let bytes = left.min(self.inbox.len());
                self.body = if left == bytes { Framing::Done } else { Framing::Exact(left - bytes) };
                Some(self.inbox.drain(..bytes).collect())
            }
            Framing::Chunked => {
                let line = self.take_to(b"\r\n").expect("the answer broke off");
                let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim_end(), 16).unwrap();
                while self.inbox.len() < size + 2 {
                    assert_ne!(self.fill(), 0, "the answer broke off");
                }
                let chunk: Vec<u8> = self.inbox.drain(..size).collect();
                assert_eq!(self.inbox.drain(..2).collect::<Vec<_>>(), b"\r\n");
                if size == 0 {
                    self.body = Framing::Done;
                    return None;
                }
                Some(chunk)
            }
        }
    }

    /// Says that the answer that is being read has no body: it answers a HEAD.
    pub(crate) fn no_body(&mut self) {
        self.body = Framing::Done;
    }

    /// Reads the next answer whole.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().expect("the connection ended before an answer")
    }

    /// As [`Self::answer`]; `None` if the connection ends first.
    #[track_caller]
    pub(crate) fn try_answer(&mut self) -> Option<Answer> {
        let Head { status, headers } = self.try_head()?;
        let mut body = Vec::new();
        while let Some(piece) = self.piece() {
            body.extend_from_slice(&piece);
        }
        Some(Answer { status, headers, body })
    }

    /// Waits until the other side closes, and fails if it says anything more.
    #[track_caller]
    pub(crate) fn assert_closed(&mut self) {
        let bytes = if self.inbox.is_empty() { self.fill() } else { self.inbox.len() };
        assert_eq!(bytes, 0, "more came: {}", String::from_utf8_lossy(&self.inbox));
    }

    /// Leaves at once.
    pub(crate) fn leave(self) {
        drop(self);
    }

    /// The socket below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The stream, for another protocol, and what was read of it already.
    pub(crate) fn into_stream(self) -> (Box<dyn Duplex>, TcpStream, Vec<u8>) {
        (self.stream, self.tcp, self.inbox)
    }
}
