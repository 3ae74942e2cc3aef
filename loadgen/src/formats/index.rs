//! The page over all measurements: a folder a day and machine, what it found, and how the figures went from folder to
//! folder. Reads what `run --out` and the figures have written; measures nothing.
//!
//! A change point is where the values before and after differ by more than chance would have it (Mann and Whitney, over all
//! places at once by Bonferroni's correction) and by more than a trifle. Ten values are the least that it is looked for in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::read::{Run, Unreadable};
use super::svg::write_to;
use super::{short, time_text};
use crate::stats::{median, unpaired_shift};

/// Values below which no change is looked for, and values that lie on each side of one.
const VALUES_MIN: usize = 10;
const SIDE_MIN: usize = 4;

/// How probable by chance a change may be, and how large it is at least.
const CHANCE_MAX: f64 = 0.01;
const SHIFT_MIN: f64 = 0.05;

/// Series that are told; one is a line of the page.
const SERIES_MAX: usize = 200;

/// Bytes of a table that are read.
const TABLE_BYTES_MAX: u64 = 64 << 20;

/// The metrics of a table of figures that are told, with their names for people.
const METRICS: [(&str, &str); 8] = [
    ("cpu_ns_per_message", "CPU ns a message"),
    ("cpu_ns_per_token", "CPU ns a token"),
    ("messages_per_core_second", "messages a core and second"),
    ("p50_us", "p50 µs"),
    ("p99_us", "p99 µs"),
    ("added_p99_us", "added p99 µs"),
    ("ready_ms", "ready after ms"),
    ("resident_bytes_each", "bytes each, resident"),
];

/// What the tables call the gateway; behind it may stand what is particular to how it ran.
const GATEWAY: &str = "clawgate";

/// What a figure is of: its name, the setting, the metric.
type Key = (String, String, String);

/// One folder of measurements.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// Its name, which begins with its date.
    pub name: String,
    /// The first heading of its README.
    pub title: String,
    /// The runs of `loadgen`, by name.
    pub runs: Vec<Run>,
    /// The medians of its table of figures, by figure, setting and metric.
    pub figures: BTreeMap<Key, f64>,
}

impl Folder {
    /// Reads a folder.
    ///
    /// # Errors
    /// A result or a table in it cannot be read.
    pub fn read(place: &Path) -> Result<Self, Unreadable> {
        let bad = |path: &Path, why: &dyn std::fmt::Display| Unreadable(format!("{}: {why}", path.display()));
        let mut folder = Self { name: name_of(place), ..Self::default() };
        let readme = fs::read_to_string(place.join("README.md")).unwrap_or_default();
        folder.title = readme.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or_default().to_owned();
        let mut inside: Vec<_> = fs::read_dir(place)
            .map_err(|error| bad(place, &error))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.join("result.json").is_file())
            .collect();
        inside.sort();
        for path in inside {
            folder.runs.push(Run::read(&path)?);
        }
        let table = place.join("raw.csv");
        if let Ok(found) = fs::metadata(&table) {
            if TABLE_BYTES_MAX < found.len() {
                return Err(bad(
                    &table,
                    &format!("it has {} bytes; at most {TABLE_BYTES_MAX} are read", found.len()),
                ));
            }
            let text = fs::read_to_string(&table).map_err(|error| bad(&table, &error))?;
            folder.figures = medians(&text).map_err(|why| bad(&table, &why))?;
        }
        Ok(folder)
    }

    /// What tells its machine from others: what stands in the name between date and commit.
    fn machine(&self) -> &str {
        let rest = self.name.get(11..).unwrap_or_default();
        let is_commit = |word: &str| 7 <= word.len() && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let words: usize =
            rest.split('-').take_while(|word| !is_commit(word)).map(|word| word.len() + 1).sum();
        rest.get(..words.saturating_sub(1)).unwrap_or_default()
    }

    fn date(&self) -> &str {
        self.name.get(..10).unwrap_or_default()
    }
}

fn name_of(place: &Path) -> String {
    place.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Whether a folder's name begins with a date, as `2026-11-28`.
fn is_dated(name: &str) -> bool {
    let (date, rest) = name.split_at_checked(10).unwrap_or_default();
    let fits = |(place, byte): (usize, u8)| match place {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    !date.is_empty() && date.bytes().enumerate().all(fits) && rest.starts_with('-')
}

/// All dated folders of a place, the oldest first.
///
/// # Errors
/// The place, or something in it, cannot be read.
pub fn read_all(place: &Path) -> Result<Vec<Folder>, Unreadable> {
    let entries = fs::read_dir(place).map_err(|error| Unreadable(format!("{}: {error}", place.display())))?;
    let mut paths: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    paths.retain(|path| is_dated(&name_of(path)));
    paths.sort();
    if paths.is_empty() {
        return Err(Unreadable(format!(
            "{}: there is no folder whose name begins with a date, as 2026-11-28-machine-commit",
            place.display()
        )));
    }
    paths.iter().map(|path| Folder::read(path)).collect()
}

/// The gateway's medians out of a table with the columns figure, run, setting, server, round, metric, value.
fn medians(text: &str) -> Result<BTreeMap<Key, f64>, String> {
    let mut lines = text.lines().enumerate();
    let heading = lines.next().map(|(_, line)| line).unwrap_or_default();
    if heading != "figure,run,setting,server,round,metric,value" {
        return Err(format!("this is no table of figures: it begins with {heading:?}"));
    }
    let mut found: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
    for (number, line) in lines {
        let fields = fields_of(line);
        let [figure, _, setting, server, _, metric, value] = fields.as_slice() else {
            return Err(format!("line {}: {} columns, not 7", number + 1, fields.len()));
        };
        let Some(manner) = server.strip_prefix(GATEWAY) else { continue };
        if !METRICS.iter().any(|(name, _)| name == metric) {
            continue;
        }
        let value = value.parse().map_err(|_| format!("line {}: {value:?} is no number", number + 1))?;
        let key = (figure.clone(), format!("{setting}{manner}"), metric.clone());
        found.entry(key).or_default().push(value);
    }
    Ok(found.into_iter().map(|(key, values)| (key, median(&values))).collect())
}

/// The columns of a line, of which some stand in quotes.
fn fields_of(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            letter => {
                if let Some(field) = fields.last_mut() {
                    field.push(letter);
                }
            }
        }
    }
    fields
}

/// Where the values of a series change: the place of the first new one, and the share by which they moved. None if that may
/// be chance, or if there are too few.
#[must_use]
pub(super) fn change_point(values: &[f64]) -> Option<(usize, f64)> {
    if values.len() < VALUES_MIN || values.iter().any(|value| *value <= 0.0) {
        return None;
    }
    let logs: Vec<f64> = values.iter().map(|value| value.ln()).collect();
    let places = SIDE_MIN..=values.len() - SIDE_MIN;
    let tries = places.clone().count() as f64;
    let judged = places.map(|at| {
        let (before, after) = logs.split_at(at);
        (at, unpaired_shift(before, after, CHANCE_MAX))
    });
    let (at, found) = judged.min_by(|(_, one), (_, other)| one.p.total_cmp(&other.p))?;
    let shift = found.middle.exp_m1();
    (found.p * tries <= CHANCE_MAX && SHIFT_MIN <= shift.abs()).then_some((at, shift))
}

/// The page, as Markdown.
#[must_use]
pub fn index(folders: &[Folder]) -> String {
    let mut text = String::from(
        "# Measurements\n\nMade by `loadgen index results`; what is measured how stands in each folder. Figures of different \
         machines are not compared.\n\n| folder | machine | what | runs | figures |\n|---|---|---|---|---|\n",
    );
    for folder in folders.iter().rev() {
        let machine = folder.runs.first().map_or_else(
            || folder.machine().to_owned(),
            |run| format!("{}, {} cores, Linux {}", run.machine.cpu, run.machine.cores, run.machine.kernel),
        );
        let figures: std::collections::BTreeSet<&str> =
            folder.figures.keys().map(|(figure, _, _)| figure.as_str()).collect();
        let figures: Vec<&str> = figures.into_iter().collect();
        write_to(
            &mut text,
            format_args!(
                "| [{0}]({0}) | {machine} | {1} | {2} | {3} |\n",
                folder.name,
                folder.title,
                folder.runs.len(),
                figures.join(" ")
            ),
        );
    }
    write_runs(&mut text, folders);
    write_history(&mut text, folders);
    text
}

/// The runs of `loadgen`, with what they are worth.
fn write_runs(text: &mut String, folders: &[Folder]) {
    text.push_str(
        "\n## Runs\n\n| date | run | scenario | answers/s | p50 | p99 | CPU a message | not exact | verdict |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for folder in folders.iter().rev() {
        for run in &folder.runs {
            let time = |of: fn(&crate::report::Distribution) -> u64| {
                run.response().map_or("–".to_owned(), |times| time_text(of(times) as f64))
            };
            let tally = &run.account.tally;
            write_to(
                text,
                format_args!(
                    "| {} | [{}]({}/{}) | {} | {} of {} | {} | {} | {} | {} | {} |\n",
                    folder.date(),
                    run.name,
                    folder.name,
                    run.name,
                    run.asked.scenario,
                    run.rates.map_or("–".to_owned(), |rates| short(rates.answers_per_second)),
                    short(run.asked.rate),
                    time(|times| times.p50),
                    time(|times| times.p99),
                    run.gateway
                        .map_or("–".to_owned(), |cost| format!("{} µs", short(cost.cpu_us_per_message))),
                    tally.lost + tally.wrong(),
                    run.verdict.word,
                ),
            );
        }
    }
}

/// Each figure over the folders of one machine: the newest value, the one before, and where it changed.
fn write_history(text: &mut String, folders: &[Folder]) {
    let mut series: BTreeMap<(&str, &Key), Vec<(&str, f64)>> = BTreeMap::new();
    for folder in folders {
        for (key, value) in &folder.figures {
            series.entry((folder.machine(), key)).or_default().push((folder.date(), *value));
        }
    }
    text.push_str(
        "\n## History\n\n| figure | machine | | newest | before | change point |\n|---|---|---|---|---|---|\n",
    );
    let count = series.len();
    for ((machine, (figure, setting, metric)), values) in series.into_iter().take(SERIES_MAX) {
        let name =
            METRICS.iter().find(|(known, _)| known == metric).map_or(metric.as_str(), |(_, name)| name);
        let newest =
            values.last().map_or("–".to_owned(), |(date, value)| format!("{} ({date})", short(*value)));
        let before = values.iter().rev().nth(1).map_or("–".to_owned(), |(_, value)| short(*value));
        let numbers: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
        let changed = match change_point(&numbers) {
            Some((at, shift)) => {
                let date = values.get(at).map_or("", |(date, _)| date);
                format!("{date}: {:+.0} %", shift * 100.0)
            }
            None if values.len() < VALUES_MIN => format!("{} of {VALUES_MIN} values", values.len()),
            None => "none".to_owned(),
        };
        write_to(
            text,
            format_args!("| {figure} {setting} | {machine} | {name} | {newest} | {before} | {changed} |\n"),
        );
    }
    if SERIES_MAX < count {
        write_to(text, format_args!("\n{} more series are not shown.\n", count - SERIES_MAX));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rng::{Rng, mix};
    use crate::stats::draw_normal;

    fn series(seed: u64, levels: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut rng = Rng::new(mix(seed));
        levels.map(|level| level * (draw_normal(&mut rng) * 0.03).exp()).collect()
    }

    #[test]
    fn a_change_is_found_where_it_is_and_of_a_thousand_even_histories_few_have_one() {
        let step = || (0..20).map(|at| if at < 12 { 100.0 } else { 120.0 });
        let found = (0..200).filter_map(|seed| change_point(&series(seed, step()))).collect::<Vec<_>>();
        let near = found.iter().filter(|(at, shift)| (11..=13).contains(at) && (0.1..0.3).contains(shift));
        assert!(190 <= near.count(), "{found:?}");
        let even = |seed: &u64| change_point(&series(*seed, std::iter::repeat_n(100.0, 20))).is_some();
        assert!((0..1000).filter(even).count() < 10);
        assert_eq!(change_point(&[1.0; VALUES_MIN - 1]), None);
    }

    #[test]
    fn tables_are_read_with_their_quotes_and_only_the_gateways_lines_count() {
        let text = "figure,run,setting,server,round,metric,value\n\
                    p1,1,\"64, pinned\",clawgate,0,p50_us,10\n\
                    p1,1,\"64, pinned\",clawgate,1,p50_us,12\n\
                    p1,1,\"64, pinned\",clawgate,2,p50_us,30\n\
                    p1,1,\"64, pinned\",\"clawgate, idle\",0,p50_us,5\n\
                    p1,1,\"64, pinned\",nginx,0,p50_us,1\n\
                    p1,1,\"64, pinned\",clawgate,0,unknown,1\n";
        let found = medians(text).unwrap();
        let key = |setting: &str| ("p1".to_owned(), setting.to_owned(), "p50_us".to_owned());
        let expected = [(key("64, pinned"), 12.0), (key("64, pinned, idle"), 5.0)];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
        for (bad, why) in
            [("a,b\n", "no table"), ("figure,run,setting,server,round,metric,value\na,b\n", "line 2")]
        {
            assert!(medians(bad).unwrap_err().contains(why));
        }
    }

    #[test]
    fn a_folder_is_one_that_begins_with_a_date() {
        for (name, holds) in [
            ("2026-11-28-amd-epyc-2c-65b3912", true),
            ("2026-11-28", false),
            ("notes", false),
            ("2026-1x-28-a", false),
            ("", false),
        ] {
            assert_eq!(is_dated(name), holds, "{name}");
        }
    }

    #[test]
    fn the_page_has_folders_and_their_history_and_the_newest_is_first() {
        let folder = |name: &str, value| Folder {
            name: name.to_owned(),
            title: "Figures".to_owned(),
            figures: [(("p1".to_owned(), "64".to_owned(), "p50_us".to_owned()), value)].into(),
            ..Folder::default()
        };
        let folders =
            [folder("2026-11-21-amd-2c-596911d-calm", 10.0), folder("2026-11-28-amd-2c-65b3912", 20.0)];
        assert_eq!(folders.each_ref().map(Folder::machine), ["amd-2c"; 2]);
        let page = index(&folders);
        assert!(page.find("2026-11-28").unwrap() < page.find("2026-11-21").unwrap(), "{page}");
        assert!(
            page.contains("| p1 64 | amd-2c | p50 µs | 20 (2026-11-28) | 10 | 2 of 10 values |"),
            "{page}"
        );
    }
}
