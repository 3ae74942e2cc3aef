//! The files of the project, read once: those that git knows or would take, and what cargo says of the packages.
use crate::source::{Module, Source};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of the project.
#[derive(Debug, Default)]
pub struct Tree {
    /// Each file's text by its path from the root; empty for what is not UTF-8.
    pub files: BTreeMap<String, String>,
    /// The Rust among them, by path.
    pub sources: Vec<Source>,
}

/// One package of the workspace, as `cargo metadata` tells it.
#[derive(Clone, Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Where its `Cargo.toml` is.
    pub manifest_path: String,
    /// What it names as dependencies.
    pub dependencies: Vec<Dependency>,
    /// Its library, binaries, tests and benches.
    pub targets: Vec<Target>,
}

/// One dependency of a package.
#[derive(Clone, Debug, Deserialize)]
pub struct Dependency {
    /// Its name in the registry.
    pub name: String,
    /// `dev`, `build`, or nothing.
    pub kind: Option<String>,
}

/// One thing that cargo builds from a package.
#[derive(Clone, Debug, Deserialize)]
pub struct Target {
    /// Its first file.
    pub src_path: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

impl Tree {
    /// The tree that this package is part of.
    ///
    /// # Panics
    /// If a file cannot be read.
    #[must_use]
    pub fn here() -> Self {
        let root = root();
        let paths = listed_by_git(&root).unwrap_or_else(|| walked(&root));
        let read = |path: String| {
            let bytes = std::fs::read(root.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            (path, String::from_utf8(bytes).unwrap_or_default())
        };
        Self::of(paths.into_iter().filter(|path| root.join(path).is_file()).map(read))
    }

    /// A tree of these files.
    pub fn of(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let files: BTreeMap<String, String> = files.into_iter().collect();
        let rust = files.iter().filter(|(path, _)| path.ends_with(".rs"));
        let mut sources: Vec<Source> = rust.map(|(path, text)| Source::new(path, text)).collect();
        let tests: BTreeSet<String> = sources.iter().flat_map(test_files).collect();
        for source in &mut sources {
            if tests.iter().any(|test| source.path == *test || source.path.starts_with(&folder_of(test))) {
                source.mark_as_test();
            }
        }
        Self { files, sources }
    }

    /// A tree for a test of a rule.
    #[must_use]
    pub fn planted(files: &[(&str, &str)]) -> Self {
        Self::of(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())))
    }

    /// The Rust file of this path.
    #[must_use]
    pub fn source(&self, path: &str) -> Option<&Source> {
        let index = self.sources.binary_search_by(|source| source.path.as_str().cmp(path)).ok()?;
        self.sources.get(index)
    }

    /// Is there a file of this path, or a folder with a file in it?
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        let inside = self.files.range(folder.clone()..).next();
        self.files.contains_key(path) || inside.is_some_and(|(file, _)| file.starts_with(&folder))
    }
}

/// The packages of the workspace. Asks cargo, without the network.
///
/// # Panics
/// If cargo does not answer, with its words.
#[must_use]
pub fn packages() -> Vec<Package> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let root = format!("{}/", root().display());
    let relative = |path: &str| path.strip_prefix(&root).unwrap_or(path).to_owned();
    let mut packages = metadata.packages;
    for package in &mut packages {
        package.manifest_path = relative(&package.manifest_path);
        for target in &mut package.targets {
            target.src_path = relative(&target.src_path);
        }
    }
    packages
}

/// Where a module's file may be, from the root of the tree: Rust's own two places, or what `#[path]` says.
/// `first` says that the file that declares it is a crate's first one.
#[must_use]
pub fn places(declared_in: &str, first: bool, module: &Module) -> Vec<String> {
    let (folder, file) = declared_in.rsplit_once('/').unwrap_or(("", declared_in));
    if let Some(path) = &module.path {
        return vec![plain(&format!("{folder}/{path}"))];
    }
    let stem = file.trim_end_matches(".rs");
    let own = if first || stem == "mod" { folder.to_owned() } else { format!("{folder}/{stem}") };
    let inside = module.around.iter().fold(own, |path, name| format!("{path}/{name}"));
    let name = &module.name;
    vec![plain(&format!("{inside}/{name}.rs")), plain(&format!("{inside}/{name}/mod.rs"))]
}

/// The root of the tree: two folders above this package.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().nth(2).unwrap_or(here);
    root.canonicalize().unwrap_or_else(|_| root.to_owned())
}

/// The files that a file's `#[cfg(test)] mod name;` may mean.
fn test_files(source: &Source) -> Vec<String> {
    let first = ["/lib.rs", "/main.rs"].iter().any(|name| source.path.ends_with(name));
    let tests = source.modules().into_iter().filter(|module| module.test && module.elsewhere);
    tests.flat_map(|module| places(&source.path, first, &module)).collect()
}

/// The folder that holds a module's own modules.
fn folder_of(path: &str) -> String {
    path.strip_suffix("mod.rs").map_or_else(|| path.trim_end_matches(".rs").to_owned() + "/", str::to_owned)
}

/// A path without `.` and `..`.
fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// What git tracks or would take; none where there is no git or no repository.
fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(arguments).current_dir(root).output().ok()?;
    let names = output.status.success().then_some(output.stdout)?;
    let names = String::from_utf8_lossy(&names).into_owned();
    let names: Vec<String> = names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    names.iter().any(|name| name == "Cargo.toml").then_some(names)
}

/// All files but what is built: for a copy of the tree without its history.
fn walked(root: &Path) -> Vec<String> {
    let mut folders = vec![root.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            let name = relative.rsplit('/').next().unwrap_or_default();
            match name {
                "target" | ".git" | ".venv" | "bench-smoke" => {}
                _ if path.is_symlink() => {}
                _ if path.is_dir() => folders.push(path),
                _ => found.push(relative),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_named_by_a_test_module_is_a_test() {
        let tree = Tree::planted(&[
            ("router/src/lib.rs", "mod a;\n"),
            ("router/src/a.rs", "#[cfg(test)]\nmod checks;\nfn f() {}\n"),
            ("router/src/a/checks.rs", "mod deep;\nfn g() {}\n"),
            ("router/src/a/checks/deep.rs", "fn h() {}\n"),
        ]);
        let test = |path: &str| tree.source(path).expect("planted").functions()[0].test;
        assert!(!test("router/src/a.rs"));
        assert!(test("router/src/a/checks.rs"));
        assert!(test("router/src/a/checks/deep.rs"));
    }

    #[test]
    fn folders_count_as_there() {
        let tree = Tree::planted(&[("router/docs/errors.md", ""), ("router/docs-old.md", "")]);
        assert!(tree.has("router/docs") && tree.has("router/docs/") && tree.has("router/docs/errors.md"));
        assert!(!tree.has("router/doc") && !tree.has("router/docs/errors"));
    }

    #[test]
    fn this_tree_is_found_with_and_without_git() {
        let root = root();
        for paths in [listed_by_git(&root).unwrap_or_else(|| walked(&root)), walked(&root)] {
            assert!(paths.iter().any(|path| path == "scripts/tidy/src/tree.rs"));
            assert!(!paths.iter().any(|path| path.starts_with("target/")));
        }
    }
}
