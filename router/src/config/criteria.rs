//! Which failures of a model are tried again or lead elsewhere: `retryOn` and `fallbackOn`.
use super::path::Path;
use super::report::Report;
use clawgate_core::criteria::Criteria;

/// What these words say; `None` where nothing was written.
pub(super) fn criteria(words: Option<&[String]>, at: &Path, report: &mut Report<'_>) -> Option<Criteria> {
    let mut criteria = Criteria::default();
    for (index, word) in words?.iter().enumerate() {
        match (word.as_str(), word.parse()) {
            ("error", _) => criteria.error = true,
            ("timeout", _) => criteria.timeout = true,
            ("truncated", _) => criteria.truncated = true,
            ("4xx", _) => criteria = criteria.with_class(4),
            ("5xx", _) => criteria = criteria.with_class(5),
            (_, Ok(status @ 400..=599)) => criteria = criteria.with_status(status),
            _ => {
                let at = at.index(index);
                let message = format!("{} is no failure of a model", report.quote(&at, word));
                let help =
                    "write \"error\", \"timeout\", \"truncated\", \"4xx\", \"5xx\" or a status as \"429\"";
                report.error(&at, message, help);
            }
        }
    }
    Some(criteria)
}
