//! One page for people: everything in one file, drawn in SVG, without a script and without the network. Light and dark
//! follow the reader; on paper it is black on white.

use super::charts::{self, Curve, LOAD_LINES, series};
use super::read::Run;
use super::svg::write_to;
use super::tables::command_line;
use super::{escape, short, time_text};
use crate::measure::Metric;
use crate::report::Account;

/// No page is longer, however long and however many the runs.
pub const PAGE_BYTES_MAX: usize = 300_000;

/// Runs that are drawn one by one; more than these are lines of the table and points of the load.
const RUNS_DRAWN_MAX: usize = 4;
/// Lines of the spectrum.
const CURVES_MAX: usize = 16;
/// Runs in the table.
const RUNS_LISTED_MAX: usize = 200;
/// Columns that the heat maps of a page share.
const HEAT_COLUMNS: usize = 150;
/// Codes of refusals that are listed of a run.
const CODES_LISTED_MAX: usize = 20;
/// Letters of a command that are shown.
const COMMAND_LETTERS_MAX: usize = 4_000;

const STYLE: &str = include_str!("page.css");

/// The page of these runs.
#[must_use]
pub fn page(runs: &[Run]) -> String {
    let title = match runs {
        [run] => format!("{} · {}", run.asked.scenario, run.name),
        _ => format!("{} runs", runs.len()),
    };
    let title = escape(&title);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>{title} · loadgen</title><style>{STYLE}</style></head><body><main>\n\
         <header><h1>{title}</h1><p class=\"sub\">Load report, made by loadgen {}</p></header>\n",
        env!("CARGO_PKG_VERSION")
    );
    if let [run] = runs {
        write_tiles(&mut html, run);
    }
    write_runs(&mut html, runs);
    write_spectrum(&mut html, runs);
    write_load(&mut html, runs);
    let drawn = &runs[..runs.len().min(RUNS_DRAWN_MAX)];
    for run in drawn {
        write_run(&mut html, run, runs.len() == 1, HEAT_COLUMNS / drawn.len());
    }
    if drawn.len() < runs.len() {
        write_to(
            &mut html,
            format_args!(
                "<p class=\"sub\">The other {} runs are in the table and in the curves only: make a report of \
                 each for its heat map.</p>",
                runs.len() - drawn.len()
            ),
        );
    }
    html.push_str("</main></body></html>\n");
    html
}

/// The class of a verdict's light, and its sign, so that colour is not needed to read it.
fn light(run: &Run) -> (&'static str, &'static str) {
    match run.verdict.word.as_str() {
        _ if !run.exact => ("bad", "✕"),
        _ if run.slo.iter().any(|held| !held.met) => ("bad", "✕"),
        "VALID" => ("good", "✓"),
        "NOISY" | "NOT-STEADY" => ("warn", "!"),
        _ => ("bad", "✕"),
    }
}

fn badge(run: &Run) -> String {
    let (class, sign) = light(run);
    format!("<span class=\"badge {class}\">{sign} {}</span>", escape(&run.verdict.word))
}

/// The figures that are looked for first.
fn write_tiles(html: &mut String, run: &Run) {
    html.push_str("<section class=\"tiles\">");
    let mut tile = |name: &str, value: &str, beside: &str| {
        write_to(
            html,
            format_args!("<div><span>{name}</span><b>{value}</b><small>{}</small></div>", escape(beside)),
        );
    };
    let account = &run.account.tally;
    let told = run.verdict.reasons.first().cloned().unwrap_or_default();
    tile("verdict", &badge(run), &told);
    let bad = account.lost + account.doubled + account.reordered + account.corrupted;
    let exactness = if run.exact { "exact".to_owned() } else { format!("{} wrong", short(bad as f64)) };
    tile("account", &exactness, &format!("of {} messages", short(account.opened as f64)));
    if let Some(rates) = run.rates {
        let beside = format!("answers/s, of {}", short(rates.target));
        tile("rate", &short(rates.answers_per_second), &beside);
    }
    if let Some(times) = run.response() {
        for (name, nanos) in [("p50", times.p50), ("p99", times.p99), ("p99.9", times.p999)] {
            tile(name, &time_text(nanos as f64), "response");
        }
    }
    if let Some(cost) = run.gateway {
        tile("gateway", &format!("{} µs", short(cost.cpu_us_per_message)), "CPU a message");
    }
    html.push_str("</section>\n");
}

fn write_runs(html: &mut String, runs: &[Run]) {
    html.push_str("<h2>Runs</h2>\n<div class=\"wide\"><table><thead><tr><th>run<th>verdict<th>scenario");
    for name in [
        "target/s",
        "answers/s",
        "p50",
        "p99",
        "p99.9",
        "max",
        "lost",
        "doubled",
        "reordered",
        "corrupted",
        "refused",
        "µs CPU",
    ] {
        write_to(html, format_args!("<th class=\"r\">{name}"));
    }
    html.push_str("</thead><tbody>");
    for run in runs.iter().take(RUNS_LISTED_MAX) {
        write_to(
            html,
            format_args!(
                "<tr><td>{}<td>{}<td>{}",
                escape(&run.name),
                badge(run),
                escape(&run.asked.scenario)
            ),
        );
        let mut figures = vec![short(run.asked.rate)];
        figures.push(run.rates.map_or("–".to_owned(), |rates| short(rates.answers_per_second)));
        for nanos in
            run.response().map_or([None; 4], |times| [times.p50, times.p99, times.p999, times.max].map(Some))
        {
            figures.push(nanos.map_or("–".to_owned(), |nanos| time_text(nanos as f64)));
        }
        let account = &run.account.tally;
        let counts = [account.lost, account.doubled, account.reordered, account.corrupted, account.refused];
        figures.extend(counts.map(|count| short(count as f64)));
        figures.push(run.gateway.map_or("–".to_owned(), |cost| short(cost.cpu_us_per_message)));
        for figure in figures {
            write_to(html, format_args!("<td class=\"r\">{figure}"));
        }
    }
    html.push_str("</tbody></table></div>\n");
    if RUNS_LISTED_MAX < runs.len() {
        write_to(html, format_args!("<p class=\"sub\">and {} more</p>", runs.len() - RUNS_LISTED_MAX));
    }
}

/// One run: all its metrics. Several: the response of each.
fn write_spectrum(html: &mut String, runs: &[Run]) {
    let curves: Vec<Curve> = match runs {
        [run] => Metric::ALL
            .into_iter()
            .filter_map(|metric| Curve::of(run, metric, metric.name().to_owned()))
            .collect(),
        _ => runs
            .iter()
            .take(CURVES_MAX)
            .filter_map(|run| Curve::of(run, Metric::Response, run.name.clone()))
            .collect(),
    };
    let Some(svg) = charts::spectrum(&curves) else { return };
    let names: Vec<(String, &str)> =
        curves.iter().enumerate().map(|(at, curve)| (series(at), curve.name.as_str())).collect();
    let told = "All of the distribution: each nine to the right has as much room as the one before. Response runs from \
                when a message was due; service from when it was sent; lag is the generator's own delay.";
    write_figure(html, "Percentile spectrum", told, &names, &svg);
}

fn write_load(html: &mut String, runs: &[Run]) {
    let Some(svg) = charts::load(runs) else { return };
    let names: Vec<(String, &str)> =
        LOAD_LINES.into_iter().enumerate().map(|(at, name)| (series(at), name)).collect();
    write_figure(html, "Load against latency", "Each point is a run.", &names, &svg);
}

fn write_figure(html: &mut String, title: &str, told: &str, names: &[(String, &str)], svg: &str) {
    write_to(html, format_args!("<figure><h3>{title}</h3>"));
    if !names.is_empty() {
        html.push_str("<ul class=\"legend\">");
        for (class, name) in names {
            write_to(
                html,
                format_args!(
                    "<li><svg viewBox=\"0 0 24 8\"><path class=\"l {class}\" d=\"M0 4H24\"/></svg>{}</li>",
                    escape(name)
                ),
            );
        }
        html.push_str("</ul>");
    }
    write_to(html, format_args!("{svg}<figcaption>{}</figcaption></figure>\n", escape(told)));
}

fn write_run(html: &mut String, run: &Run, alone: bool, heat_columns: usize) {
    let id = escape(&run.name);
    if alone {
        html.push_str("<section class=\"run\">\n");
    } else {
        write_to(html, format_args!("<section class=\"run\"><h2>{id} {}</h2>\n", badge(run)));
    }
    for reason in &run.verdict.reasons {
        write_to(html, format_args!("<p class=\"reason\">{}</p>", escape(reason)));
    }
    if let Some(svg) = charts::heat(run, heat_columns) {
        let told =
            "How many answers took how long: the stronger, the more. The line is the p99 of each second.";
        write_figure(html, "Response over time", told, &[], &svg);
    }
    if let Some(svg) = charts::traffic(run) {
        let mut names = vec![("s0".to_owned(), "sent"), ("s1 dash".to_owned(), "answered")];
        if run.seconds.iter().any(|row| row.refused != 0) {
            names.push(("s3".to_owned(), "refused"));
        }
        if run.seconds.iter().any(|row| row.disconnects != 0) {
            names.push(("s4".to_owned(), "disconnects"));
        }
        write_figure(html, "Traffic", "Messages in each second.", &names, &svg);
    }
    write_times(html, run);
    html.push_str("<div class=\"pair\">");
    write_account(html, run);
    write_objectives(html, run);
    html.push_str("</div>");
    write_facts(html, run);
    let command = command_line(&run.command);
    let command: String = command.chars().take(COMMAND_LETTERS_MAX).collect();
    write_to(html, format_args!("<h3>The command</h3><pre>{}</pre></section>\n", escape(&command)));
}

fn write_times(html: &mut String, run: &Run) {
    html.push_str("<h3>Times</h3><div class=\"wide\"><table><thead><tr><th>metric");
    for name in ["count", "min", "mean", "p50", "p75", "p90", "p95", "p99", "p99.9", "p99.99", "max"] {
        write_to(html, format_args!("<th class=\"r\">{name}"));
    }
    html.push_str("</thead><tbody>");
    for metric in Metric::ALL {
        let Some(times) = run.times_ns.get(metric.name()) else { continue };
        write_to(
            html,
            format_args!("<tr><td>{}<td class=\"r\">{}", metric.name(), short(times.count as f64)),
        );
        write_to(html, format_args!("<td class=\"r\">{}", time_text(times.min as f64)));
        write_to(html, format_args!("<td class=\"r\">{}", time_text(times.mean)));
        let quantiles =
            [times.p50, times.p75, times.p90, times.p95, times.p99, times.p999, times.p9999, times.max];
        for nanos in quantiles {
            write_to(html, format_args!("<td class=\"r\">{}", time_text(nanos as f64)));
        }
    }
    html.push_str("</tbody></table></div>\n");
}

fn write_account(html: &mut String, run: &Run) {
    html.push_str("<div><h3>What became of the messages</h3><table><thead><tr><th>");
    let parts: Vec<&Account> = if run.parts.len() < 2 {
        vec![&run.account]
    } else {
        std::iter::once(&run.account).chain(&run.parts).collect()
    };
    for (at, part) in parts.iter().enumerate() {
        let name = if at == 0 { "all" } else { &part.scenario };
        write_to(html, format_args!("<th class=\"r\">{}", escape(name)));
    }
    html.push_str("</thead><tbody>");
    type Count = fn(&Account) -> u64;
    let rows: [(&str, Count, bool); 12] = [
        ("opened", |account| account.tally.opened, false),
        ("answered", |account| account.tally.answered, false),
        ("lost", |account| account.tally.lost, true),
        ("doubled", |account| account.tally.doubled, true),
        ("reordered", |account| account.tally.reordered, true),
        ("corrupted", |account| account.tally.corrupted, true),
        ("unfinished", |account| account.tally.unfinished, false),
        ("refused", |account| account.tally.refused, false),
        ("failed by their model", |account| account.tally.failed, false),
        ("given up with slow clients", |account| account.tally.given_up, false),
        ("late", |account| account.tally.late, false),
        ("strays", |account| account.tally.strays, false),
    ];
    for (name, count, is_fault) in rows {
        write_to(html, format_args!("<tr><td>{name}"));
        for part in &parts {
            let count = count(part);
            let class = if is_fault && count != 0 { "r fault" } else { "r" };
            write_to(html, format_args!("<td class=\"{class}\">{}", short(count as f64)));
        }
    }
    for (code, count) in run.account.tally.codes.iter().take(CODES_LISTED_MAX) {
        write_to(
            html,
            format_args!("<tr><td><code>{}</code><td class=\"r\">{}", escape(code), short(*count as f64)),
        );
    }
    html.push_str("</tbody></table></div>");
}

fn write_objectives(html: &mut String, run: &Run) {
    if run.slo.is_empty() {
        return;
    }
    html.push_str("<div><h3>Objectives</h3><table><thead><tr><th>objective<th>found<th></thead><tbody>");
    for held in &run.slo {
        let is_time = held.objective.ends_with('s') && !held.objective.starts_with("loss");
        let found = match held.found {
            None => "no value".to_owned(),
            Some(found) if is_time => time_text(found),
            Some(found) => short(found),
        };
        let (class, word) = if held.met { ("good", "✓ met") } else { ("bad", "✕ not met") };
        write_to(
            html,
            format_args!(
                "<tr><td><code>{}</code><td>{found}<td><span class=\"badge {class}\">{word}</span>",
                escape(&held.objective)
            ),
        );
    }
    html.push_str("</tbody></table></div>");
}

/// What has to be known to repeat it.
fn circumstances(run: &Run) -> Vec<(&'static str, String)> {
    let (asked, machine) = (&run.asked, &run.machine);
    vec![
        (
            "load",
            format!(
                "{} msg/s {}, {} sessions, {} connections, {} threads, {} bytes, {} after {} of warm-up, seed {}",
                short(asked.rate),
                asked.arrivals,
                short(f64::from(asked.sessions)),
                short(f64::from(asked.connections)),
                asked.threads,
                asked.payload_bytes,
                time_text(asked.duration_ns as f64),
                time_text(asked.warmup_ns as f64),
                asked.seed
            ),
        ),
        ("started", format!("{} (seconds since 1970)", run.started_unix_seconds)),
        ("schedule", run.schedule_digest.clone()),
        (
            "machine",
            format!(
                "{}, {} cores, {} GB, Linux {}, clock {}, load average {}",
                machine.cpu,
                machine.cores,
                short(machine.memory_kib as f64 / 1024.0 / 1024.0),
                machine.kernel,
                machine.clocksource,
                machine.load_average
            ),
        ),
        (
            "generator",
            format!(
                "loadgen {}{}, {}, {} ns CPU a message, {} of a core",
                machine.loadgen,
                if machine.optimised { "" } else { " (debug build)" },
                run.generator.backend,
                short(run.generator.cpu_ns_per_message),
                run.generator
                    .thread_shares
                    .iter()
                    .map(|share| format!("{:.0} %", share * 100.0))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        ),
    ]
}

/// What has to be known to repeat it, and what it cost.
fn write_facts(html: &mut String, run: &Run) {
    let mut facts = circumstances(run);
    if let Some(cost) = run.gateway {
        facts.push((
            "gateway",
            format!(
                "{} µs CPU a message, {:.1} % of a core, {} threads, {} MB before, {} MB after",
                short(cost.cpu_us_per_message),
                cost.cores * 100.0,
                cost.threads,
                short(cost.resident_kib_before as f64 / 1024.0),
                short(cost.resident_kib_after as f64 / 1024.0)
            ),
        ));
    }
    if let Some(noise) = run.noise {
        let pressure =
            noise.pressure_share.map_or("unknown".to_owned(), |share| format!("{:.0} %", share * 100.0));
        facts.push(("noise", format!("CPU pressure {pressure}, steal {:.1} %", noise.steal_share * 100.0)));
    }
    if let Some(commit) = &run.commit {
        facts.push(("commit", commit.clone()));
    }
    html.push_str("<h3>How it was made</h3><dl>");
    for (name, text) in facts {
        write_to(html, format_args!("<dt>{name}<dd>{}", escape(&text)));
    }
    html.push_str("</dl>");
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::run;
    use super::*;
    use crate::report::Row;

    #[test]
    fn a_page_needs_nothing_but_itself_and_escapes_what_it_tells() {
        let mut one = run("<script>alert(1)</script>", 1_000.0, 1_000_000);
        one.account.tally.codes.insert("<b>".to_owned(), 3);
        let page = page(&[one]);
        assert!(!page.contains("<script") && !page.contains("<b>3") && page.contains("&lt;b&gt;"));
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        for part in ["Percentile spectrum", "Response over time", "Traffic", "loadgen run ws-chat --key ***"]
        {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn several_runs_are_laid_over_each_other_and_held_against_their_load() {
        let runs: Vec<Run> = (1..=3_u32)
            .map(|at| run(&format!("run {at}"), f64::from(at) * 1e3, u64::from(at) * 1_000_000))
            .collect();
        let page = page(&runs);
        assert!(page.contains("Load against latency"));
        assert!(page.matches("Response over time").count() >= 3);
    }

    /// However long the runs and however many: noise of two days at each second, in every row of the heat map.
    #[test]
    fn a_page_has_a_bound() {
        let mut rng = crate::rng::Rng::new(1);
        let mut long = run("long", 1_000.0, 1_000_000);
        long.seconds.clear();
        long.log.heat.stretches.clear();
        for second in 0..600_u64 {
            let p99_ns = rng.below(1 << 30);
            let row =
                Row { second, sent: rng.below(9_999), answered: 1, refused: 3, p99_ns, ..Row::default() };
            long.seconds.push(row);
        }
        for _ in 0..300 {
            let noise = (60..200).step_by(3).map(|band| (band, 1 << rng.below(20)));
            long.log.heat.stretches.push(noise.collect());
        }
        for metric in Metric::ALL {
            long.times_ns.insert(metric.name().to_owned(), long.times_ns["response"]);
            let points = (0..90_u32).map(|at| (f64::from(at) / 15.0, f64::from(at) * 1e4 + 1e3));
            long.log.curves.insert(metric.name(), points.collect());
        }
        for code in 0..64 {
            long.account.tally.codes.insert(format!("CODE_{code}"), code);
        }
        long.command = vec!["a".repeat(100); 1_000];
        let runs: Vec<Run> = (0..250).map(|at| Run { name: format!("run {at}"), ..long.clone() }).collect();
        for count in [1, 4, 250] {
            let bytes = page(&runs[..count]).len();
            assert!(bytes <= PAGE_BYTES_MAX, "{count} runs: {bytes} bytes");
        }
    }
}
