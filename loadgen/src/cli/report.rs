//! `loadgen report`: stored results, shown again in other forms.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, print};
use crate::formats::{self, Forms, Run};

/// Options of `loadgen report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// What runs have written: folders of --out, or single result.json
    #[arg(required = true, value_name = "FOLDER")]
    places: Vec<PathBuf>,
    /// Write one page with all runs: it needs no network, and is readable in light, dark and on paper
    #[arg(long)]
    html: Option<PathBuf>,
    /// Write a Markdown table, for a pull request
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Write a line a run and metric as CSV
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Write a line a run and second as CSV
    #[arg(long)]
    seconds_csv: Option<PathBuf>,
    /// Write JUnit's XML, for CI
    #[arg(long)]
    junit: Option<PathBuf>,
}

/// Options of `loadgen index`.
#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// Where the folders are, whose names begin with their dates
    #[arg(default_value = "results")]
    place: PathBuf,
    /// Where the page goes; by default README.md beside the folders
    #[arg(long)]
    out: Option<PathBuf>,
    /// Write nothing, and fail if the page is not what would be written
    #[arg(long)]
    check: bool,
}

/// Writes the page over all measurements.
pub(crate) fn index(args: &IndexArgs) -> Result<u8, Failure> {
    let folders = formats::read_all(&args.place).map_err(|error| Failure::usage(error.to_string()))?;
    let page = formats::index(&folders);
    let out = args.out.clone().unwrap_or_else(|| args.place.join("README.md"));
    if args.check {
        let is_same = std::fs::read_to_string(&out).is_ok_and(|stored| stored == page);
        let stale =
            || Failure::invalid(format!("{} is not what `loadgen index` writes: run it", out.display()));
        return if is_same { Ok(0) } else { Err(stale()) };
    }
    let failed = |error| Failure::invalid(format!("{}: {error}", out.display()));
    std::fs::write(&out, page).map_err(failed)?;
    print(&format!("{}: {} folders", out.display(), folders.len()));
    Ok(0)
}

/// Makes the forms that were asked for; without any, prints the Markdown table.
pub(crate) fn run(args: ReportArgs) -> Result<u8, Failure> {
    let runs = args.places.iter().map(|place| Run::read(place));
    let mut runs =
        runs.collect::<Result<Vec<Run>, _>>().map_err(|error| Failure::usage(error.to_string()))?;
    name_apart(&mut runs);
    let forms = Forms {
        html: args.html,
        markdown: args.markdown,
        times: args.csv,
        seconds: args.seconds_csv,
        junit: args.junit,
    };
    if forms.is_empty() {
        print(formats::markdown(&runs).trim_end());
        return Ok(0);
    }
    forms.write(&runs).map_err(|error| Failure::invalid(format!("a report cannot be written: {error}")))?;
    Ok(0)
}

/// Runs out of folders of the same name are numbered.
fn name_apart(runs: &mut [Run]) {
    for at in 1..runs.len() {
        let (before, rest) = runs.split_at_mut(at);
        let Some(run) = rest.first_mut() else { return };
        let name = run.name.clone();
        let mut number = 2;
        while before.iter().any(|other| other.name == run.name) {
            run.name = format!("{name} ({number})");
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_name_are_told_apart() {
        let mut runs = ["a", "b", "a", "a"].map(|name| Run { name: name.to_owned(), ..Run::default() });
        name_apart(&mut runs);
        assert_eq!(runs.map(|run| run.name), ["a", "b", "a (2)", "a (3)"]);
    }
}
