//! The rules of `tidy`, held against the tree that it is part of.
use std::sync::OnceLock;
use tidy::finding::{Exceptions, Finding};
use tidy::tree::{Tree, packages};
use tidy::{bans, documents, edges, layout, sizes};

const EXCEPTIONS: &str = include_str!("../allow.toml");

fn tree() -> &'static Tree {
    static TREE: OnceLock<Tree> = OnceLock::new();
    TREE.get_or_init(Tree::here)
}

/// Fails with everything that a rule found, and with what to do when the rule is wrong.
fn hold(rule: &'static str, findings: Vec<Finding>) {
    let exceptions =
        Exceptions::read(EXCEPTIONS).unwrap_or_else(|error| panic!("scripts/tidy/allow.toml: {error}"));
    let left = exceptions.apply(rule, findings);
    let lines: Vec<String> = left.iter().map(Finding::to_string).collect();
    assert!(
        lines.is_empty(),
        "\n{}\n\nWhere the rule is wrong and the code is right, say so in scripts/tidy/allow.toml:\n\
         [[allow]]\nrule = \"{rule}\"\npath = \"…\"\nitem = \"…\"   # the word after its line's place\n\
         max = …      # how many, or how large\nreason = \"…\"\n",
        lines.join("\n")
    );
}

#[test]
fn packages_import_only_what_they_may() {
    hold("edges", edges::edges(&packages()));
}

#[test]
fn pure_crates_say_so() {
    hold("heads", edges::heads(tree()));
}

#[test]
fn nothing_banned_is_called() {
    hold("bans", bans::banned(tree()));
}

#[test]
fn no_read_is_dropped() {
    hold("dropped-reads", bans::dropped_reads(tree()));
}

#[test]
fn the_core_loops_over_nothing_unordered() {
    hold("unordered-loops", bans::unordered_loops(tree()));
}

#[test]
fn the_load_generator_has_one_driver() {
    hold("second-drivers", bans::second_drivers(tree()));
}

#[test]
fn names_say_something() {
    hold("names", bans::empty_names(tree()));
}

#[test]
fn functions_fit_a_screen() {
    hold("function-lines", sizes::functions(tree()));
}

#[test]
fn adapters_stay_small() {
    hold("adapter-lines", sizes::adapters(tree()));
}

#[test]
fn lines_fit_their_columns() {
    hold("columns", sizes::columns(tree()));
}

#[test]
fn no_file_is_dead() {
    hold("dead-files", layout::dead_files(tree(), &packages()));
}

#[test]
fn files_open_with_what_they_own() {
    hold("openings", layout::openings(tree()));
}

#[test]
fn the_top_folder_holds_only_what_belongs_there() {
    hold("top-level", layout::top_level(tree()));
}

#[test]
fn nothing_belongs_to_one_machine() {
    hold("machines", layout::machines(tree()));
}

#[test]
fn each_limit_is_explained() {
    let named = tree().sources.iter().filter(|source| source.path.ends_with("/limits.rs"));
    let named: Vec<_> = named.filter(|source| source.path.starts_with("router/")).collect();
    assert!(!named.is_empty(), "the limits are in files called limits.rs");
    hold("limits", named.into_iter().flat_map(layout::limits).collect());
}

#[test]
fn links_lead_somewhere() {
    hold("links", documents::links(tree()));
}

#[test]
fn the_code_map_leads_to_the_code() {
    hold("landmarks", documents::landmarks(tree()));
}

#[test]
fn each_public_code_is_documented() {
    let text = |path: &str| tree().files.get(path).map(String::as_str).unwrap_or_default();
    hold("errors", documents::errors(text("router/core/src/codes.rs"), text("router/docs/errors.md")));
}

/// Each exception must name a rule that exists, or it would excuse nothing for ever.
#[test]
fn exceptions_name_rules() {
    let this = include_str!("tree.rs");
    let named = EXCEPTIONS.lines().filter_map(|line| line.strip_prefix("rule = \""));
    for rule in named.filter_map(|rest| rest.strip_suffix('"')) {
        assert!(this.contains(&format!("hold(\"{rule}\",")), "allow.toml: there is no rule `{rule}`");
    }
}
