//! What was measured, written down: every round as a row of `raw.csv`, and tables of medians in `README.md`.
//!
//! Owns the two files of a folder of `results/`. A later run adds its rows, and the tables are made anew from all rows;
//! what people, and other tools, wrote around the tables stays.
use super::{Figure, machine};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The first line of `raw.csv`.
const HEADER: &str = "figure,run,setting,server,round,metric,value";
/// The columns in front of the value.
const COLUMNS: usize = 7;
/// What `README.md` holds between these two is made from the rows.
const MARKS: (&str, &str) = ("<!-- figures -->\n", "<!-- /figures -->\n");
/// Others that took more than this share of the machine disturbed a run.
const DISTURBED_PERCENT: f64 = 5.0;

/// One number of one round.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    figure: String,
    /// Which command of the folder made it: its line in `commands.txt`, counted from 1.
    run: usize,
    setting: String,
    server: String,
    round: u32,
    metric: String,
    value: f64,
}

/// The numbers of one command.
#[derive(Debug)]
pub struct Table {
    figure: Figure,
    rows: Vec<Row>,
}

impl Table {
    /// No numbers yet.
    #[must_use]
    pub const fn new(figure: Figure) -> Self {
        Self { figure, rows: Vec::new() }
    }

    /// Adds the numbers of a server's turn, each by its name with its unit at the end.
    pub fn add(&mut self, setting: &str, server: &str, round: u32, numbers: &[(&str, f64)]) {
        for (metric, value) in numbers {
            self.rows.push(Row {
                figure: self.figure.name().to_owned(),
                run: 0,
                setting: setting.to_owned(),
                server: server.to_owned(),
                round,
                metric: (*metric).to_owned(),
                value: *value,
            });
        }
    }

    /// Adds what this metric was, divided by what it was for `base` in the same round and setting.
    pub fn add_ratio(&mut self, metric: &str, base: &str, name: &str) {
        let of = |row: &&Row| row.metric == metric;
        let mut ratios = Vec::new();
        for row in self.rows.iter().filter(of).filter(|row| row.server != base) {
            let same = |other: &&Row| {
                (other.round, &other.setting) == (row.round, &row.setting) && other.server == base
            };
            if let Some(other) = self.rows.iter().filter(of).find(same).filter(|other| 0.0 < other.value) {
                let value = row.value / other.value;
                ratios.push(Row { metric: name.to_owned(), value, ..row.clone() });
            }
        }
        self.rows.append(&mut ratios);
    }

    /// The tables, as they go into `README.md`.
    #[must_use]
    pub fn text(&self) -> String {
        tables(&self.rows, self.figure.name())
    }
}

/// A folder of `results/`.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder of this name below `results`, or the one of today, this machine and this commit.
    #[must_use]
    pub fn named(name: Option<&Path>) -> Self {
        let own = || {
            let name = format!("{}-{}-{}", machine::today(), machine::name(), machine::commit());
            Path::new("results").join(name)
        };
        Self(name.map_or_else(own, Path::to_owned))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Adds the numbers of a command to what is there.
    ///
    /// # Errors
    /// The file that could not be read or written.
    pub fn add(&self, table: &Table, command: &str) -> Result<(), String> {
        let told = |path: &Path, why: io::Error| format!("{}: {why}", path.display());
        fs::create_dir_all(&self.0).map_err(|why| told(&self.0, why))?;
        let (raw, commands, readme) =
            (self.0.join("raw.csv"), self.0.join("commands.txt"), self.0.join("README.md"));
        let read = |path: &Path| match fs::read_to_string(path) {
            Ok(text) => Ok(text),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(why) => Err(told(path, why)),
        };
        let mut lines = read(&commands)?;
        let run = lines.lines().count() + 1;
        let _ = writeln!(lines, "{command}");
        let mut rows = parse(&read(&raw)?)?;
        rows.extend(table.rows.iter().map(|row| Row { run, ..row.clone() }));
        let readme_text = put(&read(&readme)?, &report(&rows, &lines));
        for (path, text) in [(&commands, lines), (&raw, print(&rows)), (&readme, readme_text)] {
            fs::write(path, text).map_err(|why| told(path, why))?;
        }
        Ok(())
    }
}

/// Puts the report between the marks, which a text that has none gets.
fn put(readme: &str, report: &str) -> String {
    let marked =
        readme.split_once(MARKS.0).and_then(|(before, rest)| Some((before, rest.split_once(MARKS.1)?.1)));
    let (before, after) = marked.unwrap_or((readme, ""));
    let begin = if readme.is_empty() { "# Figures\n\n" } else { before };
    format!("{begin}{}{report}{}{after}", MARKS.0, MARKS.1)
}

fn print(rows: &[Row]) -> String {
    let mut text = format!("{HEADER}\n");
    for row in rows {
        let Row { figure, run, setting, server, round, metric, value } = row;
        let (setting, server) = (cell(setting), cell(server));
        let _ = writeln!(text, "{figure},{run},{setting},{server},{round},{metric},{value}");
    }
    text
}

/// A cell as RFC 4180 has it; no name of ours has a quote in it.
fn cell(name: &str) -> Cow<'_, str> {
    if name.contains(',') { format!("\"{name}\"").into() } else { name.into() }
}

fn cells(line: &str) -> Vec<&str> {
    let mut is_quoted = false;
    let ends = |c: char| {
        is_quoted ^= c == '"';
        c == ',' && !is_quoted
    };
    line.split(ends).map(|cell| cell.trim_matches('"')).collect()
}

fn parse(text: &str) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (number, line) in text.lines().enumerate().skip(1) {
        let bad = || format!("raw.csv: line {} is no row of `{HEADER}`", number + 1);
        let Ok([figure, run, setting, server, round, metric, value]) =
            <[&str; COLUMNS]>::try_from(cells(line))
        else {
            return Err(bad());
        };
        rows.push(Row {
            figure: figure.to_owned(),
            run: run.parse().map_err(|_| bad())?,
            setting: setting.to_owned(),
            server: server.to_owned(),
            round: round.parse().map_err(|_| bad())?,
            metric: metric.to_owned(),
            value: value.parse().map_err(|_| bad())?,
        });
    }
    Ok(rows)
}

/// Everything between the marks.
fn report(rows: &[Row], commands: &str) -> String {
    let mut text = String::from("| machine | |\n|---|---|\n");
    for (name, value) in machine::facts() {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    let disturbed = median(rows.iter().filter(|row| row.metric == "others_percent").map(|row| row.value));
    if let Some((low, middle, high)) = disturbed {
        let word = if DISTURBED_PERCENT < middle { "DISTURBED" } else { "quiet" };
        let _ = writeln!(
            text,
            "| taken by others while measured | {middle:.1} % of all processors ({low:.1} to {high:.1}): {word} |"
        );
    }
    text.push_str(
        "\nMedians of all rounds, in brackets the least and the greatest. In every round each server has its turn, so \
         ratios are of servers measured within seconds of one another; absolute times hold for this machine on that \
         day. CPU is the scheduler's account of the server's threads.\n",
    );
    let runs = commands.lines().enumerate();
    for figure in Figure::ALL {
        let mut begun = false;
        for (at, command) in runs.clone() {
            let of: Vec<Row> =
                rows.iter().filter(|row| row.figure == figure.name() && row.run == at + 1).cloned().collect();
            if of.is_empty() {
                continue;
            }
            if !std::mem::replace(&mut begun, true) {
                let _ = write!(text, "\n## {}\n", figure.title());
            }
            let _ = write!(text, "\n`{command}`\n\n{}", tables(&of, figure.name()));
        }
    }
    text
}

/// The rows of a figure: a line for each server and setting, a column for each metric.
fn tables(rows: &[Row], figure: &str) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.figure == figure).collect();
    let mut metrics: Vec<&str> = Vec::new();
    let mut lines: Vec<(&str, &str)> = Vec::new();
    for row in &rows {
        if !metrics.contains(&row.metric.as_str()) {
            metrics.push(&row.metric);
        }
        if !lines.contains(&(row.setting.as_str(), row.server.as_str())) {
            lines.push((&row.setting, &row.server));
        }
    }
    let mut text = String::from("| setting | server | rounds |");
    metrics.iter().for_each(|metric| text += &format!(" {} |", metric.replace('_', " ")));
    text += &format!("\n|{}\n", "---|".repeat(metrics.len() + 3));
    for (setting, server) in lines {
        let of = |row: &&&Row| row.setting == setting && row.server == server;
        let rounds = rows.iter().filter(of).map(|row| row.round).max().map_or(0, |last| last + 1);
        text += &format!("| {setting} | {server} | {rounds} |");
        for metric in &metrics {
            let values = rows.iter().filter(of).filter(|row| row.metric == *metric).map(|row| row.value);
            text += &match median(values) {
                Some((low, middle, high)) => {
                    format!(" {} ({} to {}) |", short(middle), short(low), short(high))
                }
                None => " |".to_owned(),
            };
        }
        text.push('\n');
    }
    text
}

/// The least, the middle and the greatest.
fn median(values: impl Iterator<Item = f64>) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = match (values.len() / 2, values.len() % 2) {
        (half, 1) => *values.get(half)?,
        (half, _) => f64::midpoint(*values.get(half.checked_sub(1)?)?, *values.get(half)?),
    };
    Some((*values.first()?, middle, *values.last()?))
}

/// Three digits that mean something, and all of those before the point.
fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(Figure::P1);
        for (round, (floor, gateway)) in
            [(1_000.0, 1_300.0), (2_000.0, 2_000.0), (1_500.0, 1_800.0)].iter().enumerate()
        {
            let round = u32::try_from(round).unwrap();
            table.add("closed", "floor-epoll", round, &[("cpu_ns", *floor), ("others_percent", 1.0)]);
            table.add("closed", "clawgate", round, &[("cpu_ns", *gateway)]);
        }
        table.add_ratio("cpu_ns", "floor-epoll", "cpu_ratio");
        table
    }

    #[test]
    fn medians_and_ratios_are_by_round() {
        let text = table().text();
        assert!(
            text.contains("| closed | floor-epoll | 3 | 1500 (1000 to 2000) | 1.00 (1.00 to 1.00) | |"),
            "{text}"
        );
        assert!(
            text.contains("| closed | clawgate | 3 | 1800 (1300 to 2000) | | 1.20 (1.00 to 1.30) |"),
            "{text}"
        );
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), Some((1.0, 2.5, 4.0)));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn rows_come_back_as_they_were_written() {
        let mut table = table();
        table.add("closed", "clawgate, alone", 0, &[("cpu_ns", 1.0)]);
        let rows = table.rows;
        assert_eq!(parse(&print(&rows)).unwrap(), rows);
        assert!(parse(&format!("{HEADER}\np1,1,closed\n")).unwrap_err().contains("line 2"));
    }

    #[test]
    fn a_folder_grows_and_keeps_what_others_wrote() {
        let folder = std::env::temp_dir().join(format!("clawgate-record-{}", std::process::id()));
        let folder = Folder::named(Some(&folder));
        folder.add(&table(), "figures p1").unwrap();
        let readme = folder.path().join("README.md");
        let first = fs::read_to_string(&readme).unwrap();
        assert!(first.contains("`figures p1`") && first.contains("quiet"), "{first}");
        fs::write(
            &readme,
            format!("# Ours\n\nBefore.\n\n{}\nAfter.\n", &first[first.find(MARKS.0).unwrap()..]),
        )
        .unwrap();
        folder.add(&table(), "figures p1 --rate 5").unwrap();
        let second = fs::read_to_string(&readme).unwrap();
        assert!(
            second.starts_with("# Ours\n\nBefore.\n\n<!-- figures -->\n") && second.ends_with("\nAfter.\n")
        );
        assert!(second.contains("`figures p1`") && second.contains("`figures p1 --rate 5`"), "{second}");
        assert_eq!(second.matches("## P1").count(), 1);
        fs::remove_dir_all(folder.path()).unwrap();
    }
}
