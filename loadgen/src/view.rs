//! What a run looks like while it goes on, in a terminal: one frame a second, drawn over the last one. What is seen is a
//! function of what was measured so far and of the size of the terminal; only [`View`] writes.
//!
//! Drawn with the four sequences that every terminal knows, without colours and without another screen: a run that is killed
//! leaves a terminal as it should be, and the last frame stays above the report.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::gauges::Gauges;
use crate::host::{Busy, ProcessUse};
use crate::measure::{Counts, Interval, Metric, Times64, new_histogram};
use crate::run::{Observer, Settings};
use crate::sys;
use crate::verdict;

/// Seconds that are kept to be drawn: as many as the widest terminal has columns.
const COLUMNS_MAX: usize = 400;

/// How often the gateway is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The rows of the heat map: times up to so many nanoseconds, and above.
const STEPS_NS: [u64; 13] = [
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];
const HEAT_ROWS: usize = STEPS_NS.len() + 1;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const SHADES: [char; 5] = [' ', '·', '░', '▒', '█'];

/// Columns before a graph.
const MARGIN: usize = 12;

/// The lines of a frame that are no rows of the heat map.
const OTHER_LINES: usize = 14;

/// One second, as it is drawn.
#[derive(Clone, Debug, Default)]
struct Column {
    answered: u64,
    p99_ns: u64,
    lag_p99_ns: u64,
    heat: [u64; HEAT_ROWS],
}

impl Column {
    fn of(interval: &Interval) -> Self {
        let at =
            |metric, quantile| interval.times(metric).map_or(0, |times| times.value_at_quantile(quantile));
        let mut heat = [0; HEAT_ROWS];
        if let Some(times) = interval.times(Metric::Response) {
            let mut from = 0;
            for (row, to) in heat.iter_mut().zip(STEPS_NS.into_iter().chain([u64::MAX])) {
                *row = times.count_between(from, to - 1);
                from = to;
            }
        }
        Self {
            answered: interval.counts.answered,
            p99_ns: at(Metric::Response, 0.99),
            lag_p99_ns: at(Metric::Lag, 0.99),
            heat,
        }
    }
}

/// What is known at a moment.
#[derive(Clone, Debug)]
pub struct Scene {
    title: String,
    rate: f64,
    warmup_s: f64,
    total_s: f64,
    /// Seconds that are over.
    second: u64,
    counts: Counts,
    response: Times64,
    lag: Times64,
    columns: VecDeque<Column>,
    /// What the gateway says of itself, and what it uses.
    gateway: Vec<String>,
    verdict: verdict::Verdict,
}

impl Scene {
    /// At the beginning of a run.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            title: format!("{} to {}", settings.scenario, settings.target),
            rate: settings.rate,
            warmup_s: settings.warmup_ns as f64 / 1e9,
            total_s: settings.window().end as f64 / 1e9,
            second: 0,
            counts: Counts::default(),
            response: new_histogram(),
            lag: new_histogram(),
            columns: VecDeque::new(),
            gateway: Vec::new(),
            verdict: verdict::Verdict { word: verdict::Word::Valid, reasons: Vec::new() },
        }
    }

    /// A second is over.
    pub fn add(&mut self, second: u64, interval: &Interval) {
        self.second = second + 1;
        self.counts.add(&interval.counts);
        for (sum, metric) in [(&mut self.response, Metric::Response), (&mut self.lag, Metric::Lag)] {
            if let Some(times) = interval.times(metric) {
                let added = sum.add(times);
                debug_assert!(added.is_ok(), "both have the same bounds: {added:?}");
            }
        }
        if COLUMNS_MAX <= self.columns.len() {
            self.columns.pop_front();
        }
        self.columns.push_back(Column::of(interval));
    }

    /// The frame for a terminal of so many columns and rows: lines that fit, at most one fewer than there are rows.
    #[must_use]
    pub fn draw(&self, width: usize, height: usize) -> Vec<String> {
        let graph = width.saturating_sub(MARGIN + 24).clamp(1, COLUMNS_MAX);
        let shown: Vec<&Column> =
            self.columns.iter().skip(self.columns.len().saturating_sub(graph)).collect();
        let last = shown.last().copied().cloned().unwrap_or_default();
        let bars =
            |value: fn(&Column) -> u64| bars(&shown.iter().map(|one| value(one)).collect::<Vec<_>>(), graph);
        let row = |name: &str, graph: &str, words: String| format!("  {name:<9} {graph} {words}");
        let ms = |nanos: u64| format!("{:.3} ms", nanos as f64 / 1e6);
        let at = |quantile| self.response.value_at_quantile(quantile);
        let mut lines = vec![format!("  {}", self.title), self.progress(width), String::new()];
        lines.push(row(
            "rate",
            &bars(|one| one.answered),
            format!("{} of {:.0}/s", last.answered, self.rate),
        ));
        lines.push(row("p99", &bars(|one| one.p99_ns), ms(last.p99_ns)));
        lines.push(row("lag p99", &bars(|one| one.lag_p99_ns), ms(last.lag_p99_ns)));
        if self.response.is_empty() {
            lines.push("  so far    nothing is timed before the warm-up is over".to_owned());
        } else {
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| ms(at(quantile)));
            let lag = ms(self.lag.value_at_quantile(0.99));
            lines.push(format!("  so far    p50 {p50}   p99 {p99}   p99.9 {p999}   lag p99 {lag}"));
        }
        lines.push(String::new());
        let heat_max = height.saturating_sub(OTHER_LINES + 1);
        lines.extend(heat(&shown, graph, heat_max));
        lines.push(String::new());
        let Counts { sent, answered, refused, wrong, shed, disconnects, .. } = self.counts;
        let open = sent.saturating_sub(answered + refused);
        lines.push(format!(
            "  ledger    sent {sent}   answered {answered}   unanswered {open}   refused {refused}   wrong {wrong}   shed \
             {shed}   disconnects {disconnects}"
        ));
        let gateway =
            if self.gateway.is_empty() { "says nothing".to_owned() } else { self.gateway.join("   ") };
        lines.push(format!("  gateway   {gateway}"));
        let reasons: Vec<&str> = self.verdict.reasons.iter().map(String::as_str).collect();
        let because = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
        lines.push(format!("  verdict   {} so far{because}", self.verdict.word.name()));
        lines.push("  Ctrl-C ends the run with its report".to_owned());
        lines.truncate(height.saturating_sub(1).max(1));
        lines.iter().map(|line| line.chars().take(width).collect()).collect()
    }

    /// How far it has come, and what is left.
    fn progress(&self, width: usize) -> String {
        let (done, total) = (self.second as f64, self.total_s);
        let left = (total - done).max(0.0);
        let phase = match done {
            done if done < self.warmup_s => "warming up",
            done if done < total => "measuring",
            _ => "waiting for the last answers",
        };
        let words = format!("{done:.0} s of {total:.0} s, {left:.0} s left, {phase}");
        let room = width.saturating_sub(words.chars().count() + 6).min(60);
        let filled = ((done / total.max(1e-9)).min(1.0) * room as f64) as usize;
        format!("  {}{} {words}", "━".repeat(filled), "─".repeat(room - filled))
    }
}

/// A bar a second, the highest as high as the line; on the right the newest.
fn bars(values: &[u64], width: usize) -> String {
    let top = values.iter().copied().max().unwrap_or(0).max(1);
    let bar = |value: &u64| match value {
        0 => ' ',
        value => {
            BARS[((u128::from(*value) * BARS.len() as u128).div_ceil(u128::from(top)) as usize).clamp(1, 8)
                - 1]
        }
    };
    let drawn: String = values.iter().map(bar).collect();
    format!("{}{drawn}", " ".repeat(width.saturating_sub(values.len())))
}

/// The heat map: a row a range of times, from the longest that came to the shortest, a column a second. What is darker had
/// more of its second's answers. Of more rows than fit, the longest times stay.
fn heat(columns: &[&Column], width: usize, height: usize) -> Vec<String> {
    let is_used = |row: &usize| columns.iter().any(|column| column.heat[*row] != 0);
    let (Some(low), Some(high)) = ((0..HEAT_ROWS).find(is_used), (0..HEAT_ROWS).rev().find(is_used)) else {
        return Vec::new();
    };
    let shade = |column: &&Column, row: usize| {
        let (all, here) = (column.heat.iter().sum::<u64>().max(1), column.heat[row]);
        match here as f64 / all as f64 {
            _ if here == 0 => SHADES[0],
            share if share < 0.01 => SHADES[1],
            share if share < 0.1 => SHADES[2],
            share if share < 0.4 => SHADES[3],
            _ => SHADES[4],
        }
    };
    let line = |row: usize| {
        let name = match STEPS_NS.get(row) {
            Some(to) => format!("< {} ms", *to as f64 / 1e6),
            None => "more".to_owned(),
        };
        let drawn: String = columns.iter().map(|column| shade(column, row)).collect();
        format!("  {name:>9} {}{drawn}", " ".repeat(width.saturating_sub(columns.len())))
    };
    (low..=high).rev().take(height).map(line).collect()
}

/// Draws a run into a terminal.
#[derive(Debug)]
pub struct View {
    scene: Scene,
    busy: Busy,
    watch: Watch,
    gateway_pid: Option<u32>,
    used: Option<ProcessUse>,
    /// Lines of the last frame.
    drawn: usize,
}

impl View {
    /// Of a run that begins.
    ///
    /// # Errors
    /// There is no thread to ask the gateway from.
    pub fn new(settings: &Settings) -> io::Result<Self> {
        let (target, host, key) = (settings.target, settings.to.host.clone(), settings.to.key.clone());
        Ok(Self {
            scene: Scene::new(settings),
            busy: Busy::read(),
            watch: Watch::start(target, host, key)?,
            gateway_pid: settings.gateway_pid,
            used: settings.gateway_pid.and_then(ProcessUse::read),
            drawn: 0,
        })
    }

    /// What the gateway uses, and what it says.
    fn look(&mut self) {
        let mut told = Vec::new();
        let now = self.gateway_pid.and_then(ProcessUse::read);
        if let (Some(from), Some(to)) = (self.used, now) {
            let cores = to.cpu_ns.saturating_sub(from.cpu_ns) as f64
                / to.at_ns.saturating_sub(from.at_ns).max(1) as f64;
            told.push(format!("{cores:.2} cores"));
            told.push(format!("{:.0} MB", to.resident_kib as f64 / 1024.0));
        }
        self.used = now;
        told.extend(self.watch.told());
        self.scene.gateway = told;
    }
}

impl Observer for View {
    fn on_second(&mut self, second: u64, interval: &Interval) {
        self.scene.add(second, interval);
        self.look();
        let Scene { response, lag, counts, .. } = &self.scene;
        self.scene.verdict = verdict::so_far(response, lag, counts.shed, [&self.busy, &Busy::read()]);
        let (width, height) = sys::terminal_size().unwrap_or((80, 24));
        let lines = self.scene.draw(usize::from(width), usize::from(height));
        let mut out = String::new();
        if self.drawn != 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        out.push('\r');
        for line in &lines {
            out.push_str(line);
            out.push_str("\x1b[K\r\n");
        }
        out.push_str("\x1b[J");
        self.drawn = lines.len();
        let mut terminal = io::stdout().lock();
        // Nobody has to look.
        terminal.write_all(out.as_bytes()).and_then(|()| terminal.flush()).ok();
    }
}

/// Asks the gateway for its metrics from a thread of its own: it may take its time, and the run does not wait.
#[derive(Debug)]
struct Watch {
    told: Arc<Mutex<Vec<String>>>,
    /// Nothing is sent: when it goes, the thread ends.
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(target: SocketAddr, host: String, key: String) -> io::Result<Self> {
        let told = Arc::<Mutex<Vec<String>>>::default();
        let (over, is_over) = channel::<()>();
        let tell = Arc::clone(&told);
        let work = move || {
            loop {
                let found = Gauges::ask(target, &host, &key).map(|gauges| words(&gauges)).unwrap_or_default();
                *tell.lock().unwrap_or_else(PoisonError::into_inner) = found;
                if is_over.recv_timeout(ASK_EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("gauges".to_owned()).spawn(work)?;
        Ok(Self { told, over: Some(over), thread: Some(thread) })
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            // Had it panicked, the view would have been without gauges, and nothing else.
            thread.join().ok();
        }
    }
}

/// The gauges that tell how a gateway fares. One that names them otherwise is not asked for more.
fn words(gauges: &Gauges) -> Vec<String> {
    let shown = [
        ("agent_running", "running"),
        ("agent_waiting", "waiting"),
        ("journal_buffered_bytes", "journal bytes buffered"),
        ("hottest_shard_percent", "% on the busiest shard"),
    ];
    shown.iter().filter_map(|(name, words)| Some(format!("{:.0} {words}", gauges.sum(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Times;
    use crate::measure::Recorder;

    fn scene(seconds: u64) -> Scene {
        let mut scene = Scene {
            title: "ws-chat to 127.0.0.1:8787".to_owned(),
            rate: 100.0,
            warmup_s: 2.0,
            total_s: 10.0,
            second: 0,
            counts: Counts::default(),
            response: new_histogram(),
            lag: new_histogram(),
            columns: VecDeque::new(),
            gateway: vec!["0.50 cores".to_owned()],
            verdict: verdict::Verdict { word: verdict::Word::Noisy, reasons: vec!["busy".to_owned()] },
        };
        for second in 0..seconds {
            let mut recorder = Recorder::new(0..u64::MAX);
            for number in 0..100 {
                recorder.on_sent(0, 0, 10_000);
                let nanos = if number == 0 { 30_000_000 } else { 300_000 * (second + 1) };
                recorder.on_done(Times { due_ns: 0, sent_ns: 0 }, nanos);
            }
            scene.add(second, &recorder.take(Interval::default()));
        }
        scene
    }

    #[test]
    fn a_frame_tells_the_run_and_fits_the_terminal() {
        let scene = scene(5);
        let frame = scene.draw(100, 30);
        let text = frame.join("\n");
        for told in [
            "ws-chat to 127.0.0.1:8787",
            "5 s of 10 s, 5 s left, measuring",
            "100 of 100/s",
            "sent 500   answered 500   unanswered 0   refused 0   wrong 0",
            "0.50 cores",
            "NOISY so far: busy",
        ] {
            assert!(text.contains(told), "{told}\n{text}");
        }
        // The times grew from second to second, and one of a hundred was slow all the time.
        assert!(text.contains("< 0.5 ms") && text.contains("< 2 ms") && text.contains("< 50 ms"), "{text}");
        let rare = frame.iter().find(|line| line.contains("< 50 ms")).map(|line| line.matches('░').count());
        assert_eq!(rare, Some(5), "{text}");
        for (width, height) in [(100, 30), (40, 12), (10, 3), (1, 1)] {
            let frame = scene.draw(width, height);
            assert!(frame.len() < height.max(2), "{width}x{height}: {} lines", frame.len());
            assert!(frame.iter().all(|line| line.chars().count() <= width), "{width}x{height}");
        }
    }

    #[test]
    fn before_anything_is_timed_and_after_all_was_sent_it_says_so() {
        assert!(scene(0).draw(100, 30).join("\n").contains("nothing is timed"));
        assert!(scene(1).draw(100, 30).join("\n").contains("warming up"));
        assert!(scene(11).draw(100, 30).join("\n").contains("waiting for the last answers"));
    }

    #[test]
    fn bars_are_as_high_as_their_values_and_end_at_the_right() {
        assert_eq!(bars(&[0, 1, 4, 8], 6), "   ▁▄█");
        assert_eq!(bars(&[], 3), "   ");
    }

    #[test]
    fn more_seconds_than_are_kept_leave_the_newest() {
        let mut scene = scene(1);
        for second in 1..2 * COLUMNS_MAX as u64 {
            scene.add(second, &Interval::default());
        }
        assert_eq!(scene.columns.len(), COLUMNS_MAX);
    }
}
