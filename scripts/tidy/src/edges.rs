//! Who may import whom, and which third-party packages the pure packages may use. The source is each package's
//! `Cargo.toml` as cargo reads it, so that a path, a rename or a target table hides nothing.
use crate::finding::Finding;
use crate::tree::{Package, Tree};

/// What a package of ours may depend on.
struct Edges {
    package: &'static str,
    /// Packages of ours.
    ours: &'static [&'static str],
    /// Packages of ours in tests only.
    ours_in_tests: &'static [&'static str],
    /// Third-party packages; `None` where the shell may choose. Tests may choose everywhere.
    others: Option<&'static [&'static str]>,
}

const WIRE: &[&str] = &["base64", "httparse", "itoa", "memchr", "sha1", "simdutf8"];
const CORE: &[&str] = &["aho-corasick", "hashbrown", "regex-automata", "siphasher", "slab", "twox-hash"];
/// Codecs use what `wire` uses, and what simd-json, signatures and `http`'s types need beside it.
const CODEC: &[&str] = &[
    "base64",
    "bytes",
    "form_urlencoded",
    "hmac",
    "http",
    "httparse",
    "itoa",
    "memchr",
    "sha1",
    "sha2",
    "simd-json",
    "simdutf8",
    "subtle",
];

const TABLE: &[Edges] = &[
    Edges { package: "clawgate-wire", ours: &[], ours_in_tests: &[], others: Some(WIRE) },
    Edges { package: "clawgate-core", ours: &[], ours_in_tests: &[], others: Some(CORE) },
    Edges {
        package: "clawgate-adapters",
        ours: &["clawgate-wire", "clawgate-core"],
        ours_in_tests: &[],
        others: Some(CODEC),
    },
    Edges {
        package: "clawgate-providers",
        ours: &["clawgate-wire", "clawgate-core"],
        ours_in_tests: &[],
        others: Some(CODEC),
    },
    Edges {
        package: "clawgate",
        ours: &["clawgate-wire", "clawgate-core", "clawgate-adapters", "clawgate-providers"],
        ours_in_tests: &["loadgen"],
        others: None,
    },
    Edges {
        package: "clawgate-bench",
        ours: &["clawgate-wire", "clawgate-core", "clawgate-adapters", "clawgate-providers"],
        ours_in_tests: &[],
        others: None,
    },
    Edges { package: "loadgen", ours: &["clawgate-wire"], ours_in_tests: &[], others: None },
    Edges { package: "tidy", ours: &[], ours_in_tests: &[], others: Some(&["serde", "serde_json", "toml"]) },
];

/// Which first line of a crate keeps it pure.
const HEADS: &[(&str, &[&str])] = &[
    ("router/wire/src/lib.rs", &["#![no_std]", "#![forbid(unsafe_code)]"]),
    ("router/core/src/lib.rs", &["#![no_std]", "#![forbid(unsafe_code)]"]),
    ("adapters/src/lib.rs", &["#![forbid(unsafe_code)]"]),
    ("providers/src/lib.rs", &["#![forbid(unsafe_code)]"]),
    ("scripts/tidy/src/lib.rs", &["#![forbid(unsafe_code)]"]),
];

/// The edges that are not in the table.
#[must_use]
pub fn edges(packages: &[Package]) -> Vec<Finding> {
    packages.iter().flat_map(|package| edges_of(package, packages)).collect()
}

fn edges_of(package: &Package, packages: &[Package]) -> Vec<Finding> {
    let finding = |item: &str, text: String| Finding::new("edges", &package.manifest_path, 0, item, text);
    let Some(edges) = TABLE.iter().find(|edges| edges.package == package.name) else {
        let text =
            "a new package: say in scripts/tidy/src/edges.rs what it may import, in a commit of its own";
        return vec![finding(&package.name, text.to_owned())];
    };
    let mut found = Vec::new();
    for dependency in &package.dependencies {
        let name = dependency.name.as_str();
        let test = dependency.kind.as_deref() == Some("dev");
        if packages.iter().any(|other| other.name == name) {
            if !(edges.ours.contains(&name) || test && edges.ours_in_tests.contains(&name)) {
                let text = format!(
                    "{} may import of ours only {:?}: move the code, not the edge",
                    package.name, edges.ours
                );
                found.push(finding(name, text));
            }
        } else if let Some(others) = edges.others.filter(|others| !(test || others.contains(&name))) {
            let text = format!(
                "{} stays pure with {others:?}: do without, or move the code to the shell",
                package.name
            );
            found.push(finding(name, text));
        }
    }
    found
}

/// The pure crates that do not say so in their first lines, and the packages without the workspace's lints.
#[must_use]
pub fn heads(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, heads) in HEADS {
        let code = tree.source(path).map(|source| source.code.as_str()).unwrap_or_default();
        for head in heads.iter().filter(|head| !code.contains(**head)) {
            found.push(Finding::new(
                "heads",
                path,
                1,
                head,
                "write it: the compiler then keeps the crate pure",
            ));
        }
    }
    let manifests =
        tree.files.iter().filter(|(path, _)| path.ends_with("/Cargo.toml") && !path.contains("/fuzz/"));
    for (path, text) in manifests {
        if !text.replace([' ', '\r'], "").contains("[lints]\nworkspace=true") {
            found.push(Finding::new("heads", path, 0, "[lints]", "write `workspace = true` under it"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Dependency;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let dependency = |(name, kind): &(&str, Option<&str>)| Dependency {
            name: (*name).to_owned(),
            kind: kind.map(str::to_owned),
        };
        Package {
            name: name.to_owned(),
            manifest_path: "Cargo.toml".to_owned(),
            dependencies: dependencies.iter().map(dependency).collect(),
            targets: Vec::new(),
        }
    }

    #[test]
    fn a_forbidden_edge_is_found() {
        let names = ["clawgate-wire", "clawgate-core", "clawgate", "loadgen"];
        let table: &[(&str, &str, Option<&str>, usize)] = &[
            ("clawgate-core", "clawgate-wire", None, 1),
            ("clawgate-core", "clawgate-wire", Some("dev"), 1),
            ("clawgate-wire", "tokio", None, 1),
            ("clawgate-wire", "tokio", Some("build"), 1),
            ("clawgate-wire", "tungstenite", Some("dev"), 0),
            ("clawgate-core", "slab", None, 0),
            ("clawgate", "monoio", None, 0),
            ("clawgate", "clawgate-core", None, 0),
            ("clawgate", "loadgen", Some("dev"), 0),
            ("clawgate", "loadgen", None, 1),
            ("loadgen", "clawgate-wire", None, 0),
            ("loadgen", "clawgate-core", None, 1),
            ("loadgen", "clawgate", Some("dev"), 1),
        ];
        for (from, to, kind, count) in table {
            let edge = [(*to, *kind)];
            let all = names.map(|name| package(name, if name == *from { &edge } else { &[] }));
            assert_eq!(edges(&all).len(), *count, "{from} -> {to} ({kind:?})");
        }
        assert_eq!(edges(&[package("unheard-of", &[])]).len(), 1);
    }

    #[test]
    fn an_impure_head_is_found() {
        let pure = "//! x\n#![no_std]\n#![forbid(unsafe_code)]\n";
        let files: Vec<_> = HEADS.iter().map(|(path, _)| (*path, pure)).collect();
        let tree = |change: &str, text: &str| {
            let with = files.iter().map(|(path, pure)| (*path, if *path == change { text } else { *pure }));
            heads(&Tree::planted(&with.collect::<Vec<_>>())).len()
        };
        assert_eq!(tree("", ""), 0);
        assert_eq!(
            tree("router/core/src/lib.rs", "//! #![no_std]\n#![forbid(unsafe_code)]\n"),
            1,
            "in a comment"
        );
        assert_eq!(tree("adapters/src/lib.rs", "//! x\n"), 1);
        assert_eq!(heads(&Tree::planted(&[("a/Cargo.toml", "[lints]\n")])).len(), 1 + 2 + 2 + 3);
    }
}
