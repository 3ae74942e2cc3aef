//! Questions to a server over HTTP, each on a connection of its own: is it well, what does it list, what has it counted.
use super::load::connect;
use super::talk::response_end;
use memchr::memmem;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

/// The key that figures have where a server wants one.
pub const KEY: &str = "figures-0123456789abcdef";

/// How long an answer may take, where nobody says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is at this path.
///
/// # Errors
/// If there is no answer, or one that is not 200.
pub fn get(server: SocketAddr, path: &str) -> Result<Vec<u8>, String> {
    get_within(server, path, PATIENCE)
}

/// Hears that it is well.
///
/// # Errors
/// If it is not, or does not say so in this time.
pub fn is_well(server: SocketAddr, patience: Duration) -> Result<(), String> {
    get_within(server, "/health", patience).map(drop)
}

fn get_within(server: SocketAddr, path: &str, patience: Duration) -> Result<Vec<u8>, String> {
    let failed = |why: io::Error| format!("{path}: {why}");
    let mut socket = connect(server)?;
    socket.set_read_timeout(Some(patience)).map_err(failed)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    socket.write_all(request.as_bytes()).map_err(failed)?;
    let mut heard = Vec::new();
    let mut part = [0; 16_384];
    let status = loop {
        if let Some((_, status)) = response_end(&heard)? {
            break status;
        }
        match socket.read(&mut part).map_err(failed)? {
            0 => return Err(format!("{path}: the server closes")),
            came => heard.extend_from_slice(&part[..came]),
        }
    };
    let body = memmem::find(&heard, b"\r\n\r\n").map_or(0, |end| end + 4);
    if status == 200 {
        Ok(heard.split_off(body))
    } else {
        Err(format!("{path}: {}", String::from_utf8_lossy(&heard)))
    }
}

/// What a gateway has counted: each series without its prefix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(Vec<(String, f64)>);

impl Metrics {
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (series, value) = line.strip_prefix("clawgate_")?.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// The sum over all labels; 0 for what is not counted.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_of(name, "")
    }

    /// The sum of the series whose labels have this, as `outcome="ok"`.
    #[must_use]
    pub fn sum_of(&self, name: &str, label: &str) -> f64 {
        let of = |series: &str| series.split('{').next() == Some(name) && series.contains(label);
        // Not `sum`: of nothing that is a negative zero.
        self.0.iter().filter(|(series, _)| of(series)).fold(0.0, |sum, (_, value)| sum + value)
    }
}

/// What the gateway has counted.
///
/// # Errors
/// If it does not say.
pub fn metrics(gateway: SocketAddr) -> Result<Metrics, String> {
    get(gateway, "/metrics").map(|text| Metrics::parse(&String::from_utf8_lossy(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_name_are_summed() {
        let text = "# TYPE clawgate_sessions gauge\nclawgate_sessions{shard=\"0\"} 3\nclawgate_sessions{shard=\"1\"} 4.5\n\
                    clawgate_store_rows_total 7\nother 1\nclawgate_bad x\n# EOF\n";
        let metrics = Metrics::parse(text);
        assert_eq!((metrics.sum("sessions"), metrics.sum_of("sessions", "shard=\"1\"")), (7.5, 4.5));
        assert_eq!(
            (metrics.sum("store_rows_total"), metrics.sum("bad"), metrics.sum("none")),
            (7.0, 0.0, 0.0)
        );
    }
}
