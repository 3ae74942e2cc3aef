//! The shape of the tree: every file is used, says what it is, and stands where such files stand; nothing in it
//! belongs to one machine.
use crate::finding::Finding;
use crate::source::Source;
use crate::tree::{Package, Tree, places};
use std::collections::BTreeSet;

/// What the top folder holds.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE",
    "router",
    "adapters",
    "providers",
    "bench",
    "loadgen",
    "scripts",
    "results",
    ".gitignore",
    ".gitattributes",
    ".ci",
    ".cargo",
    "rustfmt.toml",
    "clippy.toml",
    "deny.toml",
    "rust-toolchain.toml",
];

/// Rust files that no crate reaches.
#[must_use]
pub fn dead_files(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let text = "no `mod` leads here from the crate's first file: name it, or remove it";
    let mut reached = BTreeSet::new();
    for target in packages.iter().flat_map(|package| &package.targets) {
        reach(tree, &target.src_path, &mut reached);
    }
    let mut found = Vec::new();
    for package in packages {
        let folder = package.manifest_path.trim_end_matches("Cargo.toml");
        let owned = |path: &str| {
            ["src/", "tests/", "benches/", "examples/"]
                .iter()
                .any(|part| path.starts_with(&format!("{folder}{part}")))
        };
        let dead =
            tree.sources.iter().filter(|source| owned(&source.path) && !reached.contains(&source.path));
        found.extend(dead.map(|source| Finding::new("dead-files", &source.path, 0, "file", text)));
    }
    found
}

/// Follows the modules of a crate from its first file.
fn reach(tree: &Tree, first: &str, reached: &mut BTreeSet<String>) {
    let mut ahead = vec![(first.to_owned(), true)];
    while let Some((path, first)) = ahead.pop() {
        let Some(source) = tree.source(&path) else { continue };
        reached.insert(path.clone());
        for module in source.modules().iter().filter(|module| module.elsewhere) {
            let new = places(&path, first, module).into_iter().filter(|place| !reached.contains(place));
            ahead.extend(new.map(|place| (place, false)));
        }
    }
}

/// Rust files that do not open with what they own, and scripts without their first lines.
#[must_use]
pub fn openings(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in tree.sources.iter().filter(|source| !source.raw.starts_with("//! ")) {
        let text = "open it with `//! `: what it owns, what it never does, the document it obeys";
        found.push(Finding::new("openings", &source.path, 1, "first line", text));
    }
    let is_script = |path: &str, text: &str| {
        let first = text.lines().next().unwrap_or_default();
        !path.ends_with(".rs") && first.starts_with("#!") && first.ends_with("sh")
    };
    for (path, script) in tree.files.iter().filter(|(path, text)| is_script(path, text)) {
        let mut lines = script.lines();
        let (bash, comment) = (lines.next() == Some("#!/usr/bin/env bash"), lines.next());
        let comment = comment.is_some_and(|line| line.starts_with("# "));
        if !(bash && comment && script.contains("\nset -euo pipefail\n")) {
            let text = "open it with `#!/usr/bin/env bash`, a comment that says what it does, and `set -euo pipefail`";
            found.push(Finding::new("openings", path, 1, "first line", text));
        }
    }
    found
}

/// Names in the top folder that do not belong there.
#[must_use]
pub fn top_level(tree: &Tree) -> Vec<Finding> {
    let names: BTreeSet<&str> = tree.files.keys().filter_map(|path| path.split('/').next()).collect();
    let stray = names.into_iter().filter(|name| !TOP.contains(name));
    stray
        .map(|name| Finding::new("top-level", name, 0, "name", "put it into the folder that it belongs to"))
        .collect()
}

/// Paths of one machine and addresses of package registries.
#[must_use]
pub fn machines(tree: &Tree) -> Vec<Finding> {
    // Written in two parts, so that this file does not hold what it forbids.
    let paths = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/ho", "me/"],
        ["/Us", "ers/"],
        ["/tmp/tar", "get"],
        ["cargo-", "tools"],
    ];
    let registries = [
        ["crates", ".io/"],
        ["index.crates", ".io"],
        ["static.crates", ".io"],
        ["registry.npm", "js"],
        ["pypi", ".org"],
        ["pythonho", "sted"],
        ["deb.deb", "ian"],
        ["ftp.deb", "ian"],
        ["proxy.gol", "ang"],
    ];
    let path_text = "a path of one machine: say it relative to the project, or ask the environment";
    let registry_text = "the address of a registry: leave it to the ordinary client";
    let words: Vec<(String, &str)> = paths.map(|parts| (parts.concat(), path_text)).into_iter().collect();
    let words = words.into_iter().chain(registries.map(|parts| (parts.concat(), registry_text)));
    let words: Vec<(String, &str)> = words.collect();
    let mut found = Vec::new();
    // The lock file is cargo's own, and names where each package came from.
    for (path, text) in tree.files.iter().filter(|(path, _)| !path.ends_with("Cargo.lock")) {
        for (index, line) in text.lines().enumerate() {
            let hits = words.iter().filter(|(word, _)| line.contains(word.as_str()));
            found.extend(hits.map(|(word, text)| Finding::new("machines", path, index + 1, word, *text)));
        }
    }
    found
}

/// Public fields of the structs of limits without a line that says what they bound.
#[must_use]
pub fn limits(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut documented = false;
    for line in source.raw.lines().map(str::trim) {
        let doc = line.strip_prefix("///").is_some_and(|doc| 10 <= doc.trim().len());
        let field = line.strip_prefix("pub ").and_then(|rest| rest.split_once(':')).map(|(name, _)| name);
        let name = field.filter(|name| name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()));
        if let (Some(name), false) = (name, documented) {
            let line = source.find(name).first().map_or(0, |at| source.line(*at));
            let text = "say above it, after `///`, what it bounds and in what unit";
            found.push(Finding::new("limits", &source.path, line, name, text));
        }
        documented = doc || documented && (line.starts_with("#[") || line.starts_with("///"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Target;

    #[test]
    fn a_dead_file_is_found() {
        let tree = Tree::planted(&[
            ("router/src/main.rs", "mod a;\nmod b;\nmod c {\n    mod d;\n}\n// mod dead;\n"),
            ("router/src/a.rs", "mod e;\n#[path = \"odd.rs\"]\nmod f;\n"),
            ("router/src/a/e.rs", ""),
            ("router/src/odd.rs", ""),
            ("router/src/b/mod.rs", "mod g;\n"),
            ("router/src/b/g.rs", ""),
            ("router/src/c/d.rs", ""),
            ("router/src/dead.rs", ""),
            ("router/src/e.rs", ""),
            ("router/tests/deep/dead.rs", ""),
            ("elsewhere/src/a.rs", ""),
        ]);
        let package = Package {
            name: "clawgate".to_owned(),
            manifest_path: "router/Cargo.toml".to_owned(),
            dependencies: Vec::new(),
            targets: vec![Target { src_path: "router/src/main.rs".to_owned() }],
        };
        let dead: Vec<String> =
            dead_files(&tree, &[package]).into_iter().map(|finding| finding.path).collect();
        assert_eq!(dead, ["router/src/dead.rs", "router/src/e.rs", "router/tests/deep/dead.rs"]);
    }

    #[test]
    fn a_silent_opening_is_found() {
        let count = |path: &str, text: &str| openings(&Tree::planted(&[(path, text)])).len();
        assert_eq!(count("a.rs", "//! Owns x.\n"), 0);
        assert_eq!(count("a.rs", "use x;\n//! Owns x.\n"), 1);
        assert_eq!(count("a.rs", ""), 1);
        assert_eq!(count("scripts/a", "#!/usr/bin/env bash\n# Does x.\nset -euo pipefail\n"), 0);
        assert_eq!(count("scripts/a", "#!/bin/bash\n# Does x.\nset -euo pipefail\n"), 1);
        assert_eq!(count("scripts/a", "#!/usr/bin/env bash\n# Does x.\nset -e\n"), 1);
    }

    #[test]
    fn a_stray_name_is_found() {
        let tree =
            Tree::planted(&[("Cargo.toml", ""), ("router/src/a.rs", ""), ("notes.md", ""), ("src/a.rs", "")]);
        let stray: Vec<String> = top_level(&tree).into_iter().map(|finding| finding.path).collect();
        assert_eq!(stray, ["notes.md", "src"]);
    }

    #[test]
    fn a_path_of_a_machine_is_found() {
        let word = |parts: [&str; 2]| parts.concat();
        let table = [
            (format!("see {}main/x", word(["/wo", "rk/"])), 1),
            (format!("source = https://{}y", word(["index.crates", ".io"])), 1),
            ("works/home, crates and pypi".to_owned(), 0),
        ];
        for (text, count) in table {
            assert_eq!(machines(&Tree::planted(&[("a.md", &text)])).len(), count, "{text}");
            assert_eq!(machines(&Tree::planted(&[("Cargo.lock", &text)])).len(), 0, "{text}");
        }
    }

    #[test]
    fn a_limit_without_words_is_found() {
        let text = "/// Bounds of all.\npub struct Limits {\n    /// Sessions in memory.\n    pub sessions_max: u32,\n    \
                    pub turns_max: u32,\n    /// .\n    pub texts_max: u32,\n    /// Bytes of one text.\n    #[x]\n    \
                    pub text_bytes_max: u32,\n}\n";
        let found = limits(&Source::new("router/core/src/limits.rs", text));
        let items: Vec<(&str, usize)> =
            found.iter().map(|finding| (finding.item.as_str(), finding.line)).collect();
        assert_eq!(items, [("turns_max", 5), ("texts_max", 7)]);
    }
}
