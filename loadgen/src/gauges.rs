//! What a gateway tells about itself at `/metrics`, in Prometheus' text or OpenMetrics: asked for with one blocking
//! request, read into samples. A gateway without it is no error to anybody here.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::answer::parse_answer;

/// How long the gateway may be silent.
const SILENCE: Duration = Duration::from_millis(500);

/// One line of the page.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// All of it, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gauges {
    samples: Vec<Sample>,
}

impl Gauges {
    /// Asks for it.
    ///
    /// # Errors
    /// The gateway does not answer, or with something else.
    pub fn ask(target: SocketAddr, host: &str, key: &str) -> io::Result<Self> {
        let mut socket = TcpStream::connect_timeout(&target, SILENCE)?;
        socket.set_read_timeout(Some(SILENCE))?;
        let authorization =
            if key.is_empty() { String::new() } else { format!("Authorization: Bearer {key}\r\n") };
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n{authorization}Connection: close\r\n\r\n");
        socket.write_all(request.as_bytes())?;
        let mut input = Vec::new();
        let mut chunk = vec![0; 65_536];
        loop {
            if let Some(page) = whole(&input)? {
                return Ok(Self::read(&page));
            }
            match socket.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => input.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// Reads a page. What is no sample is left out.
    #[must_use]
    pub fn read(page: &str) -> Self {
        Self { samples: page.lines().filter_map(read_line).collect() }
    }

    /// The sum of a metric over all its labels, by the end of its name: what stands before it is the gateway's prefix.
    #[must_use]
    pub fn sum(&self, name: &str) -> Option<f64> {
        self.sum_where(name, |_| true)
    }

    /// The same over the samples whose labels `holds` likes.
    #[must_use]
    pub fn sum_where(&self, name: &str, holds: impl Fn(&BTreeMap<String, String>) -> bool) -> Option<f64> {
        let found: Vec<f64> = self.named(name).filter(|s| holds(&s.labels)).map(|s| s.value).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// The largest of a metric.
    #[must_use]
    pub fn max(&self, name: &str) -> Option<f64> {
        self.named(name).map(|sample| sample.value).reduce(f64::max)
    }

    /// A metric's sums by the value of one label, where another label, if it is there, has a certain value.
    #[must_use]
    pub fn by(&self, name: &str, label: &str, only: Option<(&str, &str)>) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        let wanted = |sample: &&Sample| {
            only.is_none_or(|(name, value)| sample.labels.get(name).is_none_or(|found| found == value))
        };
        for sample in self.named(name).filter(wanted) {
            if let Some(value) = sample.labels.get(label) {
                *sums.entry(value.clone()).or_insert(0.0) += sample.value;
            }
        }
        sums
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        let ends = move |sample: &&Sample| {
            let before = sample.name.strip_suffix(name);
            before.is_some_and(|before| before.is_empty() || before.ends_with('_'))
        };
        self.samples.iter().filter(ends)
    }
}

/// The page, once it is whole.
fn whole(input: &[u8]) -> io::Result<Option<String>> {
    let Some((answered, _)) = parse_answer(input)? else { return Ok(None) };
    if answered.status != 200 {
        return Err(io::Error::other(format!("/metrics: {}", answered.status)));
    }
    Ok(Some(String::from_utf8_lossy(&answered.body).into_owned()))
}

/// `name{label="value",…} 1.5`, with or without labels, a time or an exemplar behind it.
fn read_line(line: &str) -> Option<Sample> {
    let line = line.trim();
    let end = line.find(['{', ' '])?;
    let name = line.get(..end).filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let (labels, rest) = match line[end..].strip_prefix('{') {
        Some(rest) => read_labels(rest)?,
        None => (BTreeMap::new(), &line[end..]),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

fn read_labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut letters = quoted.char_indices();
        let end = loop {
            match letters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match letters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, letter) => value.push(letter),
            }
        };
        labels.insert(name.to_owned(), value);
        rest = &quoted[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PAGE: &str = "# HELP clawgate_sessions Sessions in memory.\n# TYPE clawgate_sessions gauge\n\
        clawgate_sessions{shard=\"0\"} 10\nclawgate_sessions{shard=\"1\"} 32\n\
        clawgate_stage_messages_total{shard=\"0\",stage=\"ingest\"} 100\n\
        clawgate_stage_messages_total{shard=\"1\",stage=\"ingest\"} 300 1700000000\n\
        clawgate_stage_messages_total{shard=\"1\",stage=\"route\"} 299\n\
        clawgate_odd{a=\"b\\\"},\\\\\"} 1.5e3\nclawgate_load_percent 7\nnonsense\n{} 1\nx{y=\"z\n# EOF\n";

    #[test]
    fn a_page_is_read_and_added_up() {
        let gauges = Gauges::read(PAGE);
        assert_eq!(gauges.sum("sessions"), Some(42.0));
        assert_eq!(gauges.max("sessions"), Some(32.0));
        assert_eq!(gauges.sum("load_percent"), Some(7.0));
        assert_eq!(gauges.sum("percent"), Some(7.0), "the end of a name that begins with a word");
        assert_eq!(gauges.sum("ssions"), None);
        let ingest = gauges.by("stage_messages_total", "shard", Some(("stage", "ingest")));
        assert_eq!(ingest.values().copied().collect::<Vec<_>>(), [100.0, 300.0]);
        assert_eq!(gauges.sum_where("odd", |labels| labels["a"] == "b\"},\\"), Some(1500.0));
    }

    #[test]
    fn an_answer_is_whole_with_its_last_byte_and_good_only_with_200() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n";
        for end in 0..answer.len() {
            assert_eq!(whole(&answer[..end]).unwrap(), None, "cut at {end}");
        }
        assert_eq!(whole(answer).unwrap().as_deref(), Some("a 1\n"));
        assert!(whole(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
