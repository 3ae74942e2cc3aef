//! The four drawings of a report: the whole distribution, its course over time, the traffic, and load against latency.

use super::fold::{Heat, nines_of};
use super::read::Run;
use super::svg::{Plot, Scale, write_to};
use super::{short, time_text};
use crate::measure::Metric;

/// Colours that are told apart; what is beyond them begins again, with a broken line.
pub(super) const COLOURS: usize = 8;

/// The class of the nth line.
pub(super) fn series(at: usize) -> String {
    let dash = if (at / COLOURS).is_multiple_of(2) { "" } else { " dash" };
    format!("s{}{dash}", at % COLOURS)
}

/// One line of the spectrum.
#[derive(Debug)]
pub(super) struct Curve {
    pub(super) name: String,
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// From a run's log, or from the percentiles of its result if it has no log.
    pub(super) fn of(run: &Run, metric: Metric, name: String) -> Option<Self> {
        let points = match run.log.curves.get(metric.name()) {
            Some(points) => without_level(points),
            None => {
                let times = run.times_ns.get(metric.name())?;
                let known = [
                    (0.0, times.min),
                    (0.5, times.p50),
                    (0.75, times.p75),
                    (0.9, times.p90),
                    (0.95, times.p95),
                    (0.99, times.p99),
                    (0.999, times.p999),
                    (0.9999, times.p9999),
                ];
                let seen = nines_of(1.0 - 1.0 / times.count.max(1) as f64);
                let known = known.into_iter().map(|(quantile, nanos)| (nines_of(quantile), nanos as f64));
                known.filter(|(nines, _)| *nines <= seen).collect()
            }
        };
        Some(Self { name, points })
    }
}

/// The middle of a level stretch adds nothing.
fn without_level(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let same = |one: usize, other: usize| points[one].1.to_bits() == points[other].1.to_bits();
    let is_bend = |at: usize| at == 0 || at + 1 == points.len() || !same(at - 1, at) || !same(at, at + 1);
    (0..points.len()).filter(|at| is_bend(*at)).map(|at| points[at]).collect()
}

/// The whole distribution: each nine has as much room as the one before.
pub(super) fn spectrum(curves: &[Curve]) -> Option<String> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let most_nines = points().map(|(nines, _)| *nines).fold(2.0, f64::max);
    let least = points().map(|(_, nanos)| *nanos).fold(f64::INFINITY, f64::min);
    let most = points().map(|(_, nanos)| *nanos).fold(0.0, f64::max);
    if !least.is_finite() || most <= 0.0 {
        return None;
    }
    let x = Scale::Linear { from: 0.0, to: most_nines };
    let mut plot = Plot::new("Percentile spectrum of the times", 380.0, x, Scale::decades(least, most));
    let ticks = [
        (0.0, "0 %"),
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
        (0.99999, "99.999 %"),
        (0.999_999, "99.9999 %"),
    ];
    let ticks: Vec<(f64, String)> = ticks
        .into_iter()
        .map(|(quantile, text)| (nines_of(quantile), text.to_owned()))
        .filter(|(nines, _)| *nines <= most_nines)
        .collect();
    plot.x_axis("of the messages took at most so long", &ticks);
    plot.y_axis("time", time_text);
    for (at, curve) in curves.iter().enumerate() {
        plot.line(&series(at), &curve.name, &curve.points);
    }
    Some(plot.finish())
}

/// Most rows of a heat map, and its levels of darkness.
const HEAT_ROWS_MAX: u16 = 36;
const HEAT_LEVELS: usize = 7;

/// The distribution over time: how many answers took how long in each second, dark where many did.
pub(super) fn heat(run: &Run, columns_max: usize) -> Option<String> {
    let mut heat = run.log.heat.clone();
    while columns_max.max(1) < heat.stretches.len() {
        heat.halve();
    }
    let bands = || heat.stretches.iter().flat_map(|stretch| stretch.keys().copied());
    let (least, most) = (bands().min()?, bands().max()?);
    let per_row = (most - least + 1).div_ceil(HEAT_ROWS_MAX);
    let rows = (most - least + 1).div_ceil(per_row).max(4);
    let mut counts = vec![vec![0_u64; usize::from(rows)]; heat.stretches.len()];
    for (column, stretch) in counts.iter_mut().zip(&heat.stretches) {
        for (band, count) in stretch {
            column[usize::from((band - least) / per_row)] += count;
        }
    }
    let y = Scale::Log { from: Heat::begin(least), to: Heat::begin(least + rows * per_row) };
    let x = Scale::Linear { from: 0.0, to: (counts.len() as u64 * heat.seconds) as f64 };
    let mut plot = Plot::new("Response times over the run", 300.0, x, y);
    for (level, path) in heat_paths(&plot, &counts, heat.seconds).into_iter().enumerate() {
        plot.path(&format!("h h{level}"), &path);
    }
    plot.x_axis("seconds after the start", &second_ticks(x));
    plot.y_axis("response", time_text);
    plot.line("over", "p99 of each second", &p99_line(run));
    Some(plot.finish())
}

/// The p99 of each second, or the worst of several where there are more than are drawn.
fn p99_line(run: &Run) -> Vec<(f64, f64)> {
    let step = run.seconds.len().div_ceil(TRAFFIC_POINTS).max(1);
    let stretches = run.seconds.chunks(step).filter_map(|rows| {
        let worst = rows.iter().map(|row| row.p99_ns).max().filter(|nanos| *nanos != 0)?;
        Some((rows[0].second as f64 + rows.len() as f64 / 2.0, worst as f64))
    });
    stretches.collect()
}

fn second_ticks(x: Scale) -> Vec<(f64, String)> {
    x.ticks().into_iter().filter(|tick| tick.fract() == 0.0).map(|tick| (tick, short(tick))).collect()
}

/// A path for each level of darkness; neighbours of the same level are one stroke.
fn heat_paths(plot: &Plot, counts: &[Vec<u64>], seconds: u64) -> [String; HEAT_LEVELS] {
    let most = counts.iter().flatten().copied().max().unwrap_or(1).max(2) as f64;
    let level = |count: u64| {
        // One answer shows; a thousand are not a thousand times as dark.
        let share = (count as f64 + 1.0).ln() / (most + 1.0).ln();
        ((share * HEAT_LEVELS as f64) as usize).min(HEAT_LEVELS - 1)
    };
    let mut paths: [String; HEAT_LEVELS] = Default::default();
    let (Scale::Log { from, to } | Scale::Linear { from, to }) = plot.y;
    let rows = counts.first().map_or(0, Vec::len);
    let row_at = |row: usize| plot.y_at(from * (to / from).powf(row as f64 / rows as f64));
    for row in 0..rows {
        let (y, height) = (row_at(row + 1), row_at(row) - row_at(row + 1));
        let mut column = 0;
        while column < counts.len() {
            let (start, count) = (column, counts[column][row]);
            let same = |other: u64| other != 0 && level(other) == level(count);
            column += 1;
            if count == 0 {
                continue;
            }
            while column < counts.len() && same(counts[column][row]) {
                column += 1;
            }
            let left = plot.x_at((start as u64 * seconds) as f64);
            let width = plot.x_at((column as u64 * seconds) as f64) - left;
            let path = &mut paths[level(count)];
            write_to(path, format_args!("M{left:.1} {y:.1}h{width:.1}v{height:.1}h-{width:.1}z"));
        }
    }
    paths
}

/// Points of a line over time.
const TRAFFIC_POINTS: usize = 240;

/// What was sent and what was answered in each second.
pub(super) fn traffic(run: &Run) -> Option<String> {
    // The last row is what was left when the run ended: less than a second.
    let rows = run.seconds.split_last().map_or(&run.seconds[..], |(_, rows)| rows);
    let step = rows.len().div_ceil(TRAFFIC_POINTS).max(1);
    let mean = |of: fn(&crate::report::Row) -> u64| -> Vec<(f64, f64)> {
        let chunks = rows.chunks(step);
        chunks
            .map(|rows| {
                let sum: u64 = rows.iter().map(of).sum();
                (rows[0].second as f64 + rows.len() as f64 / 2.0, sum as f64 / rows.len() as f64)
            })
            .collect()
    };
    let lines = [
        ("sent", mean(|row| row.sent)),
        ("answered", mean(|row| row.answered)),
        ("refused", mean(|row| row.refused)),
        ("disconnects", mean(|row| row.disconnects)),
    ];
    let most = lines.iter().flat_map(|(_, line)| line).map(|(_, count)| *count).fold(0.0, f64::max);
    if most <= 0.0 || rows.len() < 2 {
        return None;
    }
    let x = Scale::Linear { from: 0.0, to: rows.last()?.second as f64 + 1.0 };
    let mut plot = Plot::new("Messages sent and answered in each second", 220.0, x, Scale::up_to(most));
    plot.x_axis("seconds after the start", &second_ticks(x));
    plot.y_axis("a second", short);
    let classes = ["s0", "s1 dash", "s3", "s4"];
    for ((name, line), class) in lines.iter().zip(classes) {
        if line.iter().any(|(_, count)| *count != 0.0) {
            plot.line(class, name, line);
        }
    }
    Some(plot.finish())
}

/// The percentiles of load against latency: a class and a name each.
pub(super) const LOAD_LINES: [&str; 3] = ["p50", "p99", "p99.9"];

/// What latency was at what load; nothing unless there are runs of at least two loads.
pub(super) fn load(runs: &[Run]) -> Option<String> {
    let mut points: Vec<(f64, [f64; 3], &str)> = runs
        .iter()
        .filter_map(|run| {
            let (rates, times) = (run.rates?, run.response()?);
            let times = [times.p50, times.p99, times.p999].map(|nanos| nanos as f64);
            Some((rates.answers_per_second, times, run.name.as_str()))
        })
        .collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (first, last) = (points.first()?.0, points.last()?.0);
    if last <= first * 1.02 {
        return None;
    }
    let nanos = || points.iter().flat_map(|(_, nanos, _)| nanos.iter().copied());
    let (least, most) = (nanos().fold(f64::INFINITY, f64::min), nanos().fold(0.0, f64::max));
    let mut plot = Plot::new("Load against latency", 320.0, Scale::up_to(last), Scale::decades(least, most));
    let ticks: Vec<(f64, String)> = plot.x.ticks().into_iter().map(|tick| (tick, short(tick))).collect();
    plot.x_axis("answers a second", &ticks);
    plot.y_axis("response", time_text);
    for (at, name) in LOAD_LINES.into_iter().enumerate() {
        let line: Vec<(f64, f64)> = points.iter().map(|(rate, nanos, _)| (*rate, nanos[at])).collect();
        plot.line(&series(at), name, &line);
        for (rate, nanos, run) in &points {
            let told = format!("{run}: {name} {} at {}/s", time_text(nanos[at]), short(*rate));
            plot.dot(&series(at), &told, *rate, nanos[at]);
        }
    }
    Some(plot.finish())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fold::Folded;
    use super::super::read::tests::run;
    use super::*;

    #[test]
    fn a_run_without_a_log_is_drawn_from_its_percentiles() {
        let mut run = run("one", 1_000.0, 1_000_000);
        let whole = Curve::of(&run, Metric::Response, String::new()).unwrap();
        run.log = Folded::default();
        let few = Curve::of(&run, Metric::Response, String::new()).unwrap();
        assert!(few.points.len() < whole.points.len() && 5 <= few.points.len());
        assert!(spectrum(&[few]).is_some() && heat(&run, 100).is_none());
    }

    #[test]
    fn load_is_drawn_against_latency_only_for_runs_of_different_loads() {
        let one = run("one", 1_000.0, 1_000_000);
        assert!(load(std::slice::from_ref(&one)).is_none());
        assert!(load(&[one.clone(), run("again", 1_000.0, 1_100_000)]).is_none());
        let drawn = load(&[one, run("two", 2_000.0, 3_000_000)]).unwrap();
        assert_eq!(drawn.matches("<circle").count(), 6);
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let empty = Run::default();
        assert!(heat(&empty, 100).is_none() && traffic(&empty).is_none() && load(&[empty]).is_none());
        assert!(spectrum(&[]).is_none());
    }
}
