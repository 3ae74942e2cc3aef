//! A small HTTP/1.1 server for simulated upstreams: a thread a connection, one handler. The handler writes what it
//! likes, right or wrong.
use super::certificates;
use super::http::Duplex;
use rustls::ServerConfig;
use serde_json::Value;
use std::fmt;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Which connection it came by, counted from 0.
    pub(crate) connection: u32,
    /// Which request of the server it is, counted from 0.
    pub(crate) number: u32,
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    pub(crate) bytes: Vec<u8>,
}

impl Asked {
    /// A field of its head.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Its body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It takes the next request.
    Keep,
    /// It closes.
    Close,
    /// It closes as the next request begins to arrive, without a word: a peer whose patience ended just then.
    CloseOnNext,
}

/// The server's end of a connection.
pub(crate) struct Line {
    stream: Box<dyn Duplex>,
    tcp: TcpStream,
}

impl Line {
    /// Writes bytes; false if the other side is gone.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).and_then(|()| self.stream.flush()).is_ok()
    }

    /// Answers with JSON, or whatever else `body` is.
    pub(crate) fn answer(&mut self, status: u16, headers: &[(&str, &str)], body: &str) -> bool {
        let mut head = format!("HTTP/1.1 {status} Because\r\ncontent-type: application/json\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.send(format!("{head}content-length: {}\r\n\r\n{body}", body.len()))
    }

    /// Waits until the other side closes: true, or false if it says something.
    pub(crate) fn await_leaving(&mut self) -> bool {
        // An upstream waits for its callers as long as they like; the test's own bounds end it.
        self.tcp.set_read_timeout(None).unwrap();
        !matches!(self.stream.read(&mut [0; 1]), Ok(1))
    }

    /// Ends the connection so that the other side sees a reset.
    pub(crate) fn reset(&mut self) {
        rustix::net::sockopt::set_socket_linger(&self.tcp, Some(std::time::Duration::ZERO)).unwrap();
    }
}

type Handler = dyn Fn(&Asked, &mut Line) -> After + Send + Sync;

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicU32>,
    requests: Arc<AtomicU32>,
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Server({})", self.address)
    }
}

impl Server {
    /// Starts one on a free port; with `tls` it speaks that.
    pub(crate) fn start(
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(&Asked, &mut Line) -> After + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            stop: Arc::default(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let handler: Arc<Handler> = Arc::new(handler);
        let (stop, connections) = (server.stop.clone(), server.connections.clone());
        let requests = server.requests.clone();
        std::thread::spawn(move || {
            for tcp in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let Ok(tcp) = tcp else { return };
                let connection = connections.fetch_add(1, Ordering::AcqRel);
                let (handler, requests, tls) = (handler.clone(), requests.clone(), tls.clone());
                std::thread::spawn(move || serve(connection, tcp, tls.as_ref(), &requests, &*handler));
            }
        });
        server
    }

    /// How many connections it took.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Acquire)
    }

    /// How many requests it took.
    pub(crate) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Acquire)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accepting thread, which then ends; if it has ended already there is nothing to wake.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    connection: u32,
    tcp: TcpStream,
    tls: Option<&Arc<ServerConfig>>,
    requests: &AtomicU32,
    handler: &Handler,
) {
    tcp.set_nodelay(true).unwrap();
    let stream: Box<dyn Duplex> = match tls {
        Some(config) => certificates::accept(config, tcp.try_clone().unwrap()),
        None => Box::new(tcp.try_clone().unwrap()),
    };
    let mut line = Line { stream, tcp };
    while let Some(mut asked) = read_request(&mut line) {
        asked.connection = connection;
        asked.number = requests.fetch_add(1, Ordering::AcqRel);
        match handler(&asked, &mut line) {
            After::Keep => {}
            After::Close => return,
            After::CloseOnNext => {
                // One byte of the next request, so that the other side took the connection for good.
                let _ = line.stream.read(&mut [0; 1]);
                return;
            }
        }
    }
}

fn read_request(line: &mut Line) -> Option<Asked> {
    let mut inbox = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let mut fill = |inbox: &mut Vec<u8>| {
        let bytes = line.stream.read(&mut buffer).ok().filter(|bytes| 0 < *bytes)?;
        inbox.extend_from_slice(&buffer[..bytes]);
        Some(())
    };
    let end = loop {
        if let Some(at) = inbox.windows(4).position(|part| part == b"\r\n\r\n") {
            break at + 4;
        }
        fill(&mut inbox)?;
    };
    let head = String::from_utf8(inbox[..end].to_vec()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let target = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut asked = Asked { connection: 0, number: 0, target, headers, bytes: inbox.split_off(end) };
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    while asked.bytes.len() < length {
        fill(&mut asked.bytes)?;
    }
    Some(asked)
}
