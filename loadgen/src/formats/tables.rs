//! Results as text for other programs and for pull requests: Markdown and CSV.

use super::read::Run;
use super::svg::write_to;
use super::{short, time_text};

/// A table of the runs for a pull request or a chat.
#[must_use]
pub fn markdown(runs: &[Run]) -> String {
    let mut text = String::from(
        "| run | verdict | answers/s | p50 | p99 | p99.9 | max | lost | doubled | reordered | corrupted | refused | CPU/message |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for run in runs {
        let time = |of: fn(&crate::report::Distribution) -> u64| {
            run.response().map_or("–".to_owned(), |times| time_text(of(times) as f64))
        };
        let account = &run.account.tally;
        write_to(
            &mut text,
            format_args!(
                "| {} | {} | {} of {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
                cell(&run.name),
                cell(&run.verdict.word),
                run.rates.map_or("–".to_owned(), |rates| short(rates.answers_per_second)),
                short(run.asked.rate),
                time(|times| times.p50),
                time(|times| times.p99),
                time(|times| times.p999),
                time(|times| times.max),
                account.lost,
                account.doubled,
                account.reordered,
                account.corrupted,
                account.refused,
                run.gateway.map_or("–".to_owned(), |cost| format!("{} µs", short(cost.cpu_us_per_message))),
            ),
        );
    }
    for run in runs {
        let breached = run.slo.iter().filter(|held| !held.met).map(|held| format!("`{}`", held.objective));
        let breached: Vec<String> = breached.collect();
        if !breached.is_empty() {
            write_to(&mut text, format_args!("\n{}: not met: {}\n", cell(&run.name), breached.join(", ")));
        }
        for reason in &run.verdict.reasons {
            write_to(&mut text, format_args!("\n{}: {}\n", cell(&run.name), cell(reason)));
        }
    }
    if let Some(run) = runs.first() {
        write_to(
            &mut text,
            format_args!(
                "\n{}, {} cores, Linux {}, loadgen {}\n\n```sh\n{}\n```\n",
                run.machine.cpu,
                run.machine.cores,
                run.machine.kernel,
                run.machine.loadgen,
                command_line(&run.command)
            ),
        );
    }
    text
}

/// A text inside a table of Markdown.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

/// A command as it can be typed again.
pub(super) fn command_line(command: &[String]) -> String {
    let plain = |arg: &str| {
        !arg.is_empty()
            && arg.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:=,@+%*".contains(&byte))
    };
    let quote =
        |arg: &String| if plain(arg) { arg.clone() } else { format!("'{}'", arg.replace('\'', "'\\''")) };
    command.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// A field of CSV (RFC 4180).
fn field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// A line for each run and metric.
#[must_use]
pub fn times_csv(runs: &[Run]) -> String {
    let mut text = String::from(
        "run,scenario,verdict,target_per_second,answers_per_second,metric,count,min_ns,mean_ns,stdev_ns,p50_ns,p75_ns,\
         p90_ns,p95_ns,p99_ns,p999_ns,p9999_ns,max_ns\n",
    );
    for run in runs {
        for (metric, times) in &run.times_ns {
            write_to(
                &mut text,
                format_args!(
                    "{},{},{},{},{},{metric},{},{},{:.0},{:.0},{},{},{},{},{},{},{},{}\n",
                    field(&run.name),
                    field(&run.asked.scenario),
                    field(&run.verdict.word),
                    run.asked.rate,
                    run.rates.map_or(0.0, |rates| rates.answers_per_second),
                    times.count,
                    times.min,
                    times.mean,
                    times.stdev,
                    times.p50,
                    times.p75,
                    times.p90,
                    times.p95,
                    times.p99,
                    times.p999,
                    times.p9999,
                    times.max,
                ),
            );
        }
    }
    text
}

/// A line for each run and second.
#[must_use]
pub fn seconds_csv(runs: &[Run]) -> String {
    let mut text =
        String::from("run,second,sent,answered,refused,disconnects,p50_ns,p99_ns,max_ns,lag_p99_ns\n");
    for run in runs {
        let name = field(&run.name);
        for row in &run.seconds {
            write_to(
                &mut text,
                format_args!(
                    "{name},{},{},{},{},{},{},{},{},{}\n",
                    row.second,
                    row.sent,
                    row.answered,
                    row.refused,
                    row.disconnects,
                    row.p50_ns,
                    row.p99_ns,
                    row.max_ns,
                    row.lag_p99_ns,
                ),
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::run;
    use super::*;

    #[test]
    fn every_line_of_a_table_has_all_its_columns() {
        let runs = [run("a,\"b", 1_000.0, 1_000_000), run("two", 2_000.0, 2_000_000)];
        let text = markdown(&runs);
        let table: Vec<&str> = text.lines().take_while(|line| line.starts_with('|')).collect();
        assert_eq!(table.len(), 4);
        assert!(table.iter().all(|line| line.matches('|').count() == 14), "{text}");
        let seconds = seconds_csv(&runs);
        assert_eq!(seconds.lines().count(), 17);
        assert!(
            seconds.lines().nth(1).is_some_and(|line| line.starts_with("\"a,\"\"b\",0,1000,")),
            "{seconds}"
        );
        let times = times_csv(&runs[1..]);
        assert!(times.lines().all(|line| line.split(',').count() == 18), "{times}");
    }

    #[test]
    fn a_command_can_be_typed_again() {
        let command = ["loadgen", "run", "--slo", "p99<45ms", "it's", ""].map(str::to_owned);
        assert_eq!(command_line(&command), r"loadgen run --slo 'p99<45ms' 'it'\''s' ''");
    }
}
