//! Results as JUnit's XML, which every CI system shows: a suite for each run; exactness, the verdict and each objective
//! are its cases.

use super::escape;
use super::read::Run;
use super::svg::write_to;

/// How a case went.
enum Case {
    Passed,
    /// With what was found.
    Failed(String),
    /// It could not be judged, and why.
    Skipped(String),
}

/// The document.
#[must_use]
pub fn junit(runs: &[Run]) -> String {
    let mut text =
        String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"loadgen\">\n");
    for run in runs {
        let cases = cases(run);
        let failed = cases.iter().filter(|(_, case)| matches!(case, Case::Failed(_))).count();
        let skipped = cases.iter().filter(|(_, case)| matches!(case, Case::Skipped(_))).count();
        let seconds = (run.asked.warmup_ns + run.asked.duration_ns) as f64 / 1e9;
        let name = escape(&run.name);
        write_to(
            &mut text,
            format_args!(
                "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{failed}\" errors=\"0\" skipped=\"{skipped}\" \
                 time=\"{seconds:.3}\">\n",
                cases.len()
            ),
        );
        for (title, case) in cases {
            let open = format!("    <testcase classname=\"loadgen.{name}\" name=\"{}\"", escape(&title));
            match case {
                Case::Passed => write_to(&mut text, format_args!("{open}/>\n")),
                Case::Failed(why) => {
                    write_to(
                        &mut text,
                        format_args!("{open}><failure message=\"{}\"/></testcase>\n", escape(&why)),
                    );
                }
                Case::Skipped(why) => {
                    write_to(
                        &mut text,
                        format_args!("{open}><skipped message=\"{}\"/></testcase>\n", escape(&why)),
                    );
                }
            }
        }
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

fn cases(run: &Run) -> Vec<(String, Case)> {
    let account = &run.account.tally;
    let exact = if run.exact {
        Case::Passed
    } else {
        Case::Failed(format!(
            "lost {} / doubled {} / reordered {} / corrupted {} of {}",
            account.lost, account.doubled, account.reordered, account.corrupted, account.opened
        ))
    };
    let valid = run.verdict.word == "VALID";
    let why = format!("{}: {}", run.verdict.word, run.verdict.reasons.join("; "));
    let verdict = match run.verdict.word.as_str() {
        "VALID" => Case::Passed,
        // The machine's fault: nothing is known, which is no failure of what was tested.
        "NOISY" => Case::Skipped(why.clone()),
        _ => Case::Failed(why.clone()),
    };
    let mut cases = vec![
        ("every message is answered once, in order, unchanged".to_owned(), exact),
        ("the run is valid".to_owned(), verdict),
    ];
    for held in &run.slo {
        let case = match held.met {
            _ if !valid => Case::Skipped(why.clone()),
            true => Case::Passed,
            false => Case::Failed(held.found.map_or("no value".to_owned(), |found| format!("found {found}"))),
        };
        cases.push((held.objective.clone(), case));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::super::read::{RunObjective, RunVerdict, tests::run};
    use super::*;

    #[test]
    fn what_failed_is_a_failure_and_what_could_not_be_judged_is_skipped() {
        let mut one = run("a \"run\"", 1_000.0, 1_000_000);
        one.slo = vec![RunObjective { objective: "p99<1ms".to_owned(), found: Some(2e6), met: false }];
        let text = junit(std::slice::from_ref(&one));
        assert!(text.contains("tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"0\""), "{text}");
        assert!(text.contains("name=\"p99&lt;1ms\"") && text.contains("a &quot;run&quot;"), "{text}");
        one.verdict = RunVerdict { word: "NOISY".to_owned(), reasons: vec!["busy".to_owned()] };
        one.exact = false;
        let text = junit(&[one]);
        assert!(
            text.contains("failures=\"1\" errors=\"0\" skipped=\"2\"") && text.contains("lost 0"),
            "{text}"
        );
    }
}
