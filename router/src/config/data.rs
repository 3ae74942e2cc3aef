//! What outlives the process: section `data`.
use super::path::Path;
use super::report::Report;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path as FilePath, PathBuf};

/// What outlives the process.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Data {
    /// The data directory; `None` for a gateway that keeps nothing.
    pub(crate) folder: Option<PathBuf>,
}

/// What outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct DataSection {
    /// The data directory, relative to the configuration; made where it is missing, and used by one process at a time. Left
    /// out: `$STATE_DIRECTORY` (which systemd sets), else `data` beside the configuration; a gateway without a file keeps
    /// nothing. Empty: nothing is kept, and what is acknowledged is lost when the process ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) folder: Option<String>,
}

impl DataSection {
    /// Checks and resolves. `folder` is where relative paths begin; `has_file` if there is a configuration at all.
    pub(super) fn resolve(&self, folder: &FilePath, has_file: bool, report: &mut Report<'_>) -> Data {
        let Some(name) = &self.folder else {
            let given = std::env::var_os("STATE_DIRECTORY").filter(|path| !path.is_empty());
            let path = given.map_or_else(|| folder.join("data"), PathBuf::from);
            return Data { folder: has_file.then_some(path) };
        };
        if name.is_empty() {
            return Data::default();
        }
        let at = Path::of("data").key("folder");
        let path = folder.join(name);
        if path.exists() && !path.is_dir() {
            let message = format!("{} is no directory", report.quote(&at, name));
            report.error(&at, message, "name a directory, or one that can be made");
        }
        Data { folder: Some(path) }
    }
}
