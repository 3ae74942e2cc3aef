//! P5, P6 and P7: calls of a model through the gateway, through proxies that only pass bytes, and without either. And what a
//! client that leaves costs, and what streams leave behind in memory.
use super::calls::{Calls, now_ns, request};
use super::chat::{WARM, order, setting};
use super::load::{Load, Pace, connect};
use super::machine::Busy;
use super::proxy::{self, HYPER, NGINX};
use super::record::Table;
use super::server::{Server, pause};
use super::talk::Talk;
use super::{Setup, ask};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Tokens of a stream, and between two of them, where it is paced.
const TOKENS: u32 = 50;
const GAP_MILLIS: u32 = 20;

/// A provider, and all that stands before it. The first is the provider itself.
struct Row {
    servers: [Server; 4],
}

impl Row {
    fn of(setup: &Setup, provider: Server) -> Result<Self, String> {
        let address = provider.address;
        let (nginx, hyper) = (proxy::nginx(setup, address)?, proxy::hyper(setup, address)?);
        Ok(Self { servers: [provider, nginx, hyper, proxy::gateway(setup, address)?] })
    }

    /// What these have used: the server, and the provider behind it, which is none of the others' doing.
    fn cpu_ns(&self, at: usize) -> Result<(u64, u64), String> {
        let behind = if at == 0 { 0 } else { self.servers[0].usage()?.cpu_ns };
        Ok((self.servers[at].usage()?.cpu_ns, behind))
    }

    /// A server's turn: a little to warm up, then what is measured.
    /// Its connections are opened for it: servers close those that wait long for their first request.
    fn turn(&self, setup: &Setup, at: usize, streamed: bool) -> Result<Vec<(&'static str, f64)>, String> {
        let within = |why: String| self.servers[at].blame(&why);
        let mut load = calls(self.servers[at].address, setup.connections, streamed)?;
        load.run(setup.pace(1), WARM).map_err(within)?;
        let (before, busy) = (self.cpu_ns(at)?, Busy::read());
        let measured = load.run(setup.pace(1), setup.turn).map_err(within)?;
        let now = self.cpu_ns(at)?;
        let (cpu_ns, behind_ns) = (now.0 - before.0, now.1 - before.1);
        Ok(super::chat::numbers(&measured, cpu_ns, &busy.since(cpu_ns + behind_ns)))
    }

    /// The same of streams at a pace: how old tokens are when they come, and what one costs.
    fn pace(&self, setup: &Setup, at: usize) -> Result<Vec<(&'static str, f64)>, String> {
        let within = |why: String| self.servers[at].blame(&why);
        let mut load = calls(self.servers[at].address, setup.connections, true)?;
        load.run(setup.pace(1), WARM).map_err(within)?;
        load.calls().for_each(Calls::forget);
        let (before, busy) = (self.cpu_ns(at)?, Busy::read());
        let measured = load.run(setup.pace(1), setup.turn).map_err(within)?;
        let now = self.cpu_ns(at)?;
        let (cpu_ns, behind_ns) = (now.0 - before.0, now.1 - before.1);
        let disturbance = busy.since(cpu_ns + behind_ns);
        let (tokens, transit, first) = heard(&mut load)?;
        let micros = |times: &Times, quantile| times.value_at_quantile(quantile) as f64 / 1_000.0;
        Ok(vec![
            ("cpu_ns_per_token", cpu_ns as f64 / tokens.max(1) as f64),
            ("transit_p50_us", micros(&transit, 0.5)),
            ("transit_p99_us", micros(&transit, 0.99)),
            ("first_p50_us", micros(&first, 0.5)),
            ("first_p99_us", micros(&first, 0.99)),
            ("tokens_per_second", tokens as f64 / measured.took.as_secs_f64()),
            ("others_percent", disturbance.others_percent),
            ("stolen_percent", disturbance.stolen_percent),
        ])
    }
}

fn calls(address: SocketAddr, connections: usize, streamed: bool) -> Result<Load, String> {
    Load::of(connections, |_| {
        let calls = Talk::Calls(Box::new(Calls::of("main", streamed)?));
        Ok((connect(address)?, calls))
    })
}

/// P5: calls that are not streamed: what they cost with many at once, and what they add to one alone.
///
/// # Errors
/// What stood in the way.
pub fn whole(setup: &Setup, table: &mut Table) -> Result<(), String> {
    let row = Row::of(setup, proxy::fixed(setup, false)?)?;
    let one = Setup { connections: 1, ..setup.clone() };
    for round in 0..setup.rounds {
        for setup in [setup, &one] {
            let mut direct = None;
            let mut turns = Vec::new();
            for at in order(row.servers.len(), round) {
                let server = &row.servers[at];
                let numbers = row.turn(setup, at, false)?;
                if at == 0 {
                    direct = Some(numbers.clone());
                }
                turns.push((server.name, numbers));
            }
            for (name, mut numbers) in turns {
                add_difference(&mut numbers, direct.as_deref(), "p50_us", "added_p50_us");
                add_difference(&mut numbers, direct.as_deref(), "p99_us", "added_p99_us");
                table.add(&setting(setup, 1), name, round, &numbers);
            }
        }
    }
    table.add_ratio("cpu_ns_per_message", NGINX, "cpu_ratio_to_nginx");
    table.add_ratio("cpu_ns_per_message", HYPER, "cpu_ratio_to_hyper");
    Ok(())
}

/// What a number is more than it was without anything in between.
fn add_difference(
    numbers: &mut Vec<(&'static str, f64)>,
    direct: Option<&[(&'static str, f64)]>,
    metric: &str,
    name: &'static str,
) {
    let of = |numbers: &[(&'static str, f64)]| {
        numbers.iter().find(|(known, _)| *known == metric).map(|(_, value)| *value)
    };
    if let (Some(value), Some(base)) = (of(numbers), direct.and_then(of)) {
        numbers.push((name, value - base));
    }
}

/// P6: streams of fifty tokens at once, and at a pace.
///
/// # Errors
/// What stood in the way.
pub fn streamed(setup: &Setup, table: &mut Table) -> Result<(), String> {
    let burst = Row::of(setup, proxy::fixed(setup, true)?)?;
    let script = format!("reply=stamps,tokens={TOKENS},gap={GAP_MILLIS}ms");
    let paced = Row::of(setup, proxy::paced(setup, &script)?)?;
    let name = setting(setup, 1);
    for round in 0..setup.rounds {
        for at in order(burst.servers.len(), round) {
            let server = &burst.servers[at];
            let numbers = burst.turn(setup, at, true)?;
            let renamed: Vec<_> =
                numbers.into_iter().map(|(name, value)| (of_streams(name), value)).collect();
            table.add(&format!("burst of {TOKENS}; {name}"), server.name, round, &renamed);
        }
        for at in order(paced.servers.len(), round) {
            let numbers = paced.pace(setup, at)?;
            table.add(&format!("{GAP_MILLIS} ms a token; {name}"), paced.servers[at].name, round, &numbers);
        }
    }
    for (metric, to_nginx, to_hyper) in [
        ("cpu_ns_per_stream", "cpu_ratio_to_nginx", "cpu_ratio_to_hyper"),
        ("cpu_ns_per_token", "token_ratio_to_nginx", "token_ratio_to_hyper"),
    ] {
        table.add_ratio(metric, NGINX, to_nginx);
        table.add_ratio(metric, HYPER, to_hyper);
    }
    Ok(())
}

fn of_streams(name: &'static str) -> &'static str {
    match name {
        "cpu_ns_per_message" => "cpu_ns_per_stream",
        "messages_per_core_second" => "streams_per_core_second",
        "messages_per_second" => "streams_per_second",
        "load_cpu_ns_per_message" => "load_cpu_ns_per_stream",
        other => other,
    }
}

type Times = hdrhistogram::Histogram<u64>;

fn heard(load: &mut Load) -> Result<(u64, Times, Times), String> {
    let (mut tokens, mut transit, mut first) = (0, super::load::histogram()?, super::load::histogram()?);
    for calls in load.calls() {
        tokens += calls.tokens;
        transit.add(&calls.transit).map_err(|why| why.to_string())?;
        first.add(&calls.first).map_err(|why| why.to_string())?;
    }
    if tokens == 0 {
        return Err("no token came".to_owned());
    }
    Ok((tokens, transit, first))
}

/// P7: what is added to the time until the first token of a stream.
///
/// # Errors
/// What stood in the way.
pub fn first(setup: &Setup, table: &mut Table) -> Result<(), String> {
    let row = Row::of(setup, proxy::paced(setup, "reply=stamps,tokens=5")?)?;
    for round in 0..setup.rounds {
        let (mut direct, mut turns) = (None, Vec::new());
        for at in order(row.servers.len(), round) {
            let numbers = row.pace(setup, at)?;
            if at == 0 {
                direct = Some(numbers.clone());
            }
            turns.push((row.servers[at].name, numbers));
        }
        for (name, mut numbers) in turns {
            add_difference(&mut numbers, direct.as_deref(), "first_p50_us", "added_first_p50_us");
            add_difference(&mut numbers, direct.as_deref(), "first_p99_us", "added_first_p99_us");
            table.add(&setting(setup, 1), name, round, &numbers);
        }
    }
    Ok(())
}

/// After which token a client leaves.
const LEAVES_AFTER: usize = 5;
/// How long the provider may take to notice the last of them.
const NOTICED_MAX: Duration = Duration::from_secs(10);

/// Tokens that the provider wrote after its reader's client had left.
///
/// # Errors
/// What stood in the way.
pub fn leave(setup: &Setup, table: &mut Table) -> Result<(), String> {
    for round in 0..setup.rounds {
        for at in order(3, round) {
            // A provider of its own for each: what it counted is of this one alone.
            let provider = proxy::paced(setup, &format!("reply=stamps,tokens=500,gap={GAP_MILLIS}ms"))?;
            let server = match at {
                0 => proxy::nginx(setup, provider.address)?,
                1 => proxy::hyper(setup, provider.address)?,
                _ => proxy::gateway(setup, provider.address)?,
            };
            let mut left_ns = Vec::new();
            for _ in 0..setup.connections {
                left_ns.push(leave_one(server.address).map_err(|why| server.blame(&why))?);
            }
            let numbers = after_leaving(provider.address, &left_ns)?;
            let name =
                format!("after token {LEAVES_AFTER}; {GAP_MILLIS} ms a token; {} clients", left_ns.len());
            table.add(&name, server.name, round, &numbers);
        }
    }
    Ok(())
}

/// Asks for a stream, hears some tokens, and hangs up; when that was.
fn leave_one(address: SocketAddr) -> Result<u64, String> {
    let mut socket = connect(address)?;
    let failed = |why: std::io::Error| format!("a stream to leave: {why}");
    socket.write_all(&request("main", true)).map_err(failed)?;
    let (mut heard, mut part) = (Vec::new(), [0; 4096]);
    while heard.iter().filter(|byte| **byte == b'@').count() < LEAVES_AFTER {
        match socket.read(&mut part).map_err(failed)? {
            0 => return Err(format!("it ended: {}", String::from_utf8_lossy(&heard))),
            came => heard.extend_from_slice(&part[..came]),
        }
    }
    drop(socket);
    Ok(now_ns())
}

/// Holds what the provider says it wrote against the times when the clients left, one after the other.
fn after_leaving(provider: SocketAddr, left_ns: &[u64]) -> Result<Vec<(&'static str, f64)>, String> {
    let began = Instant::now();
    let streams = loop {
        let stats: Value =
            serde_json::from_slice(&ask::get(provider, "/stats")?).map_err(|why| why.to_string())?;
        let left = stats["left"].as_array().cloned().unwrap_or_default();
        if left.len() == left_ns.len() {
            break left;
        }
        if NOTICED_MAX < began.elapsed() {
            return Err(format!(
                "of {} clients that left, the provider noticed {}",
                left_ns.len(),
                left.len()
            ));
        }
        pause(Duration::from_millis(20))?;
    };
    let (mut after, mut noticed_ms) = (Vec::new(), 0_f64);
    for stream in &streams {
        let number = stream["number"].as_u64().unwrap_or(0);
        let at = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let left = at.and_then(|at| left_ns.get(at)).ok_or("a stream that nobody asked for")?;
        let stamps = stream["stamps_ns"].as_array().into_iter().flatten().filter_map(Value::as_u64);
        after.push(stamps.filter(|stamp| left < stamp).count() as f64);
        let noticed = stream["noticed_ns"].as_u64().unwrap_or(0).saturating_sub(*left);
        noticed_ms = noticed_ms.max(noticed as f64 / 1e6);
    }
    let mean = after.iter().sum::<f64>() / after.len().max(1) as f64;
    let most = after.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        ("tokens_after_leaving_mean", mean),
        ("tokens_after_leaving_max", most),
        ("noticed_after_ms_max", noticed_ms),
    ])
}

/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Streams run before it is, at most.
const STEADY: Duration = Duration::from_secs(120);

/// Resident memory of the gateway over many streams, and its slope: what each leaves behind.
///
/// # Errors
/// What stood in the way.
pub fn memory(setup: &Setup, table: &mut Table) -> Result<(), String> {
    let provider = proxy::paced(setup, &format!("reply=words,tokens={TOKENS},gap=1ms"))?;
    for round in 0..setup.rounds {
        // The accounts take a row for each stream up to their bound, which is to be reached before anything is measured.
        let limits = json!({ "usageRowsMax": 1_000 });
        let server = proxy::gateway_within(setup, provider.address, limits)?;
        let mut load = calls(server.address, setup.connections, true)?;
        let within = |why: String| server.blame(&why);
        // What the first streams make it take, it keeps: buffers, pools, tables.
        load.run(Pace::Closed { burst: 1 }, STEADY.min(setup.turn / 5)).map_err(within)?;
        let began = Instant::now();
        let (mut samples, mut streams) = (Vec::new(), 0);
        while samples.len() < 3 || began.elapsed() < setup.turn {
            streams +=
                load.run(Pace::Closed { burst: 1 }, LOOK.min(setup.turn / 3)).map_err(within)?.messages;
            samples.push((began.elapsed().as_secs_f64(), server.usage()?.resident_kib as f64));
        }
        let (begin, end) = (samples[0].1, samples[samples.len() - 1].1);
        let most = samples.iter().map(|sample| sample.1).fold(0.0, f64::max);
        let Slope { each, error } = Slope::of(&samples);
        let streams_per_second = streams as f64 / began.elapsed().as_secs_f64();
        let numbers = [
            ("resident_mib_at_begin", begin / 1024.0),
            ("resident_mib_at_end", end / 1024.0),
            ("resident_mib_max", most / 1024.0),
            ("slope_kib_per_hour", each * 3_600.0),
            ("slope_low_kib_per_hour", (each - error) * 3_600.0),
            ("slope_high_kib_per_hour", (each + error) * 3_600.0),
            ("slope_bytes_per_stream", each * 1024.0 / streams_per_second.max(1.0)),
            ("streams", streams as f64),
        ];
        table.add(
            &format!("streams for {} s; {}", setup.turn.as_secs(), setting(setup, 1)),
            server.name,
            round,
            &numbers,
        );
    }
    Ok(())
}

/// Means that a line is drawn through. What one look has in common with the next, and memory has much, is in them once: so
/// the interval is not narrower than what is known.
const BLOCKS: usize = 20;
/// Below these lie 97.5 of a hundred of Student's distribution, from one degree of freedom on.
const STUDENT: [f64; BLOCKS - 2] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101,
];

/// How much a line rises with each of `x`, and by how much that may be wrong, in 95 of a hundred cases.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Slope {
    each: f64,
    error: f64,
}

impl Slope {
    /// Of the line that misses the means of these least.
    fn of(samples: &[(f64, f64)]) -> Self {
        let block = samples.len().div_ceil(BLOCKS).max(1);
        let mean = |of: &[(f64, f64)], part: fn(&(f64, f64)) -> f64| {
            of.iter().map(part).sum::<f64>() / of.len().max(1) as f64
        };
        let point = |of: &[(f64, f64)]| (mean(of, |sample| sample.0), mean(of, |sample| sample.1));
        let points: Vec<_> = samples.chunks(block).map(point).collect();
        let (x, y) = point(&points);
        let square: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
        if square <= 0.0 {
            return Self { each: 0.0, error: f64::INFINITY };
        }
        let each = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / square;
        let missed: f64 = points.iter().map(|point| (point.1 - y - each * (point.0 - x)).powi(2)).sum();
        let error = match points.len().checked_sub(2).filter(|freedom| 0 < *freedom) {
            Some(freedom) => STUDENT[freedom - 1] * (missed / freedom as f64 / square).sqrt(),
            None => f64::INFINITY,
        };
        Self { each, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_that_of_the_line_and_says_how_sure_it_is() {
        let line: Vec<(f64, f64)> = (0..400).map(|x| (f64::from(x), 5.0 + 3.0 * f64::from(x))).collect();
        let Slope { each, error } = Slope::of(&line);
        assert!((each - 3.0).abs() < 1e-9 && error < 1e-9);
        // Up and down by turns of seven: a slope of nearly nothing, and nothing is within the error.
        let waves: Vec<(f64, f64)> = (0..400).map(|x| (f64::from(x), f64::from(x / 7 % 2))).collect();
        let Slope { each, error } = Slope::of(&waves);
        assert!(each.abs() < 1e-3 && each.abs() < error && error < 1e-2, "{each} {error}");
        // The formula by hand: the slope of 0, 1, 1 is a half; it misses by 1/6, 1/3, 1/6.
        let Slope { each, error } = Slope::of(&[(0.0, 0.0), (1.0, 1.0), (2.0, 1.0)]);
        assert!((each - 0.5).abs() < 1e-9 && (error - 12.706 * (1.0_f64 / 12.0).sqrt()).abs() < 1e-9);
        for few in [&[][..], &[(1.0, 2.0)], &[(1.0, 2.0), (2.0, 2.0)]] {
            assert_eq!(Slope::of(few), Slope { each: 0.0, error: f64::INFINITY });
        }
    }

    #[test]
    fn a_difference_is_to_what_was_direct() {
        let mut numbers = vec![("p50_us", 30.0)];
        add_difference(&mut numbers, Some(&[("p50_us", 10.0)]), "p50_us", "added");
        add_difference(&mut numbers, None, "p50_us", "not");
        assert_eq!(numbers, [("p50_us", 30.0), ("added", 20.0)]);
    }
}
