//! Documents that must say what the code says: links, the code map, the table of errors, the description of the API.
use crate::finding::Finding;
use crate::source::Source;
use crate::tree::Tree;
use std::collections::BTreeSet;

/// The places that the code map of the README names, word for word, so that a newcomer finds them.
pub const LANDMARKS: &[&str] =
    &["a frame is decoded", "a session is found", "a message is admitted", "a token is sent"];

/// Where the table of errors begins and ends in its document.
const MARKS: (&str, &str) = ("<!-- codes -->\n", "<!-- /codes -->");

/// Links of documents that lead nowhere.
#[must_use]
pub fn links(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in tree.files.iter().filter(|(path, _)| path.ends_with(".md")) {
        for (index, line) in text.lines().enumerate() {
            for target in link_targets(line).into_iter().filter(|target| !tree.has(&resolve(path, target))) {
                let text = "there is no such file: name the one that there is";
                found.push(Finding::new("links", path, index + 1, target, text));
            }
        }
    }
    found
}

/// The landmarks that the code map of the README does not lead to.
#[must_use]
pub fn landmarks(tree: &Tree) -> Vec<Finding> {
    let readme = tree.files.get("README.md").map(String::as_str).unwrap_or_default();
    let map = readme.split_once("\n## Code map").map(|(_, map)| map).unwrap_or_default();
    let map = map.split("\n## ").next().unwrap_or_default();
    let missing = |landmark: &&&str| landmark_problem(tree, map, landmark);
    LANDMARKS.iter().filter_map(|landmark| missing(&landmark)).collect()
}

fn landmark_problem(tree: &Tree, map: &str, landmark: &str) -> Option<Finding> {
    let problem = |text: String| Some(Finding::new("landmarks", "README.md", 0, landmark, text));
    let Some(row) = map.lines().find(|line| line.starts_with('|') && line.contains(landmark)) else {
        return problem(format!(
            "`## Code map` needs a row `| {landmark} | [file](file) | \\`Type::function\\` |`"
        ));
    };
    let Some(source) =
        link_targets(row).first().and_then(|target| tree.source(&resolve("README.md", target)))
    else {
        return problem("its row must link the Rust file where it happens".to_owned());
    };
    let Some(name) =
        row.split('`').filter(|part| !part.contains('|')).nth_back(0).filter(|name| !name.is_empty())
    else {
        return problem("its row must name the function in backticks, at its end".to_owned());
    };
    let (kind, function) = name.rsplit_once("::").unwrap_or(("", name));
    let named = source.find(&format!("fn {function}")).iter().any(|at| !source.is_test(*at));
    let of_kind = kind.is_empty() || source.find(kind).iter().any(|at| !source.is_test(*at));
    match named && of_kind {
        true => None,
        false => problem(format!("there is no `{name}` in {}: name the one that does it", source.path)),
    }
}

/// The relative files that a line of Markdown links.
fn link_targets(line: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    for (at, _) in line.match_indices("](") {
        let rest = &line[at + 2..];
        let target = rest.split([')', '#', ' ']).next().unwrap_or_default();
        if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
            targets.push(target);
        }
    }
    targets
}

/// A link's target from the root of the tree.
fn resolve(document: &str, target: &str) -> String {
    let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// The table of errors that the codes of the core ask for, as Markdown. `codes` is the text of `codes.rs`.
#[must_use]
pub fn errors_table(codes: &str) -> String {
    let mut table =
        "| code | name | HTTP | WebSocket close | what to do |\n|---|---|---|---|---|\n".to_owned();
    for row in codes.lines().filter_map(code_row) {
        let [number, name, status, close, advice] = row;
        let close = if close == "0" { "stays open" } else { close };
        table.push_str(&format!("| {number} | `{name}` | {status} | {close} | {advice} |\n"));
    }
    table
}

/// Reads `Variant 1000 "NAME" 400 0 "advice"`.
fn code_row(line: &str) -> Option<[&str; 5]> {
    let texts: Vec<&str> = line.split('"').collect();
    let [head, name, numbers, advice, _] = texts[..] else { return None };
    let (_, number) = head.trim().split_once(char::is_whitespace)?;
    let (status, close) = numbers.trim().split_once(char::is_whitespace)?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let row = [number.trim(), name, status, close.trim(), advice];
    (is_number(row[0]) && is_number(row[2]) && is_number(row[3])).then_some(row)
}

/// The document of errors, if its table is not the one that the codes ask for.
#[must_use]
pub fn errors(codes: &str, document: &str) -> Vec<Finding> {
    let table = errors_table(codes);
    let shown =
        document.split_once(MARKS.0).and_then(|(_, rest)| rest.split_once(MARKS.1)).map(|(shown, _)| shown);
    if shown == Some(table.as_str()) {
        return Vec::new();
    }
    let text = format!("paste this between its marks:\n{}{table}{}", MARKS.0, MARKS.1);
    vec![Finding::new("errors", "router/docs/errors.md", 0, "table", text)]
}

/// The paths of the API's description that no route serves, and the routes that it does not describe.
/// `routes` is the file with the route table: each text in it that begins with `/` is a path, `:name` a parameter.
#[must_use]
pub fn api(routes: &Source, description: &str) -> Vec<Finding> {
    let path = "router/src/api/openapi.json";
    let json: serde_json::Value = match serde_json::from_str(description) {
        Ok(json) => json,
        Err(error) => return vec![Finding::new("api", path, error.line(), "syntax", error.to_string())],
    };
    let paths = json.get("paths").and_then(serde_json::Value::as_object);
    let described: BTreeSet<String> = paths.into_iter().flatten().map(|(path, _)| path.clone()).collect();
    let served = route_paths(routes);
    let unserved =
        described.difference(&served).map(|name| (name, "no route serves it: remove it, or serve it"));
    let untold = served.difference(&described).map(|name| (name, "a route serves it: describe it"));
    unserved.chain(untold).map(|(name, text)| Finding::new("api", path, 0, name, text)).collect()
}

/// The texts of a file's code that begin with a slash, as paths of the description.
fn route_paths(routes: &Source) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for (line, text) in routes.raw.lines().enumerate() {
        let start: usize = routes.raw.lines().take(line).map(|line| line.len() + 1).sum();
        if routes.is_test(start) || text.trim_start().starts_with("//") {
            continue;
        }
        for literal in text.split('"').skip(1).step_by(2).filter(|literal| literal.starts_with('/')) {
            let parameter = |part: &str| match part.strip_prefix(':') {
                Some(name) => format!("{{{name}}}"),
                None => part.to_owned(),
            };
            paths.insert(literal.split('/').map(parameter).collect::<Vec<_>>().join("/"));
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "# x\n\n## Code map\n\n| what | where | function |\n|---|---|---|\n\
        | a frame is decoded | [w](router/wire/src/websocket.rs) | `Decoder::decode` |\n\
        | a session is found | [s](router/core/src/shard.rs) | `find` |\n\
        | a message is admitted | [s](router/core/src/shard.rs) | `Shard::admit` |\n\
        | a token is sent | [o](router/src/outbox.rs) | `flush` |\n\n## Next\n";

    fn tree(readme: &str) -> Tree {
        Tree::planted(&[
            ("README.md", readme),
            ("router/wire/src/websocket.rs", "impl Decoder {\n    fn decode(&self) {}\n}\n"),
            ("router/core/src/shard.rs", "impl Shard {\n    fn find(&self) {}\n    fn admit(&self) {}\n}\n"),
            (
                "router/src/outbox.rs",
                "// fn flush\nfn flush_all() {}\n#[cfg(test)]\nmod tests {\n    fn flush() {}\n}\n",
            ),
        ])
    }

    #[test]
    fn a_landmark_that_moved_is_found() {
        let items = |readme: &str| -> Vec<String> {
            landmarks(&tree(readme)).into_iter().map(|finding| finding.item).collect()
        };
        assert_eq!(items(README), ["a token is sent"], "a comment and a test are not the function");
        let good = README.replace("`flush`", "`flush_all`");
        assert_eq!(items(&good), [""; 0]);
        assert_eq!(items(&good.replace("a session is found", "a session lives")), ["a session is found"]);
        assert_eq!(items(&good.replace("`Shard::admit`", "`Session::admit`")), ["a message is admitted"]);
        assert_eq!(items(&good.replace("`Decoder::decode`", "decode")), ["a frame is decoded"]);
        assert_eq!(items(&good.replace("websocket.rs", "frames.rs")), ["a frame is decoded"]);
        assert_eq!(items("# x\n").len(), 4);
    }

    #[test]
    fn a_link_to_nothing_is_found() {
        let text =
            "[a](b.md) [c](../README.md#x) [d](https://example.org/e) [f](#g)\n[h](gone.md), [i](../docs/)\n";
        let tree =
            Tree::planted(&[("router/docs/a.md", text), ("router/docs/b.md", ""), ("router/README.md", "")]);
        let found = links(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].line, found[0].item.as_str()), (2, "gone.md"));
    }

    #[test]
    fn a_code_without_its_line_is_found() {
        let codes = "codes! {\n    BadJson  1001 \"BAD_JSON\" 400 0    \"Not JSON.\"\n    \
                     Slow 3005 \"SLOW\" 503 4409 \"Read faster.\"\n}\n";
        let table = "| code | name | HTTP | WebSocket close | what to do |\n|---|---|---|---|---|\n\
                     | 1001 | `BAD_JSON` | 400 | stays open | Not JSON. |\n| 3005 | `SLOW` | 503 | 4409 | Read faster. |\n";
        assert_eq!(errors_table(codes), table);
        let document = format!("# Errors\n<!-- codes -->\n{table}<!-- /codes -->\n");
        assert_eq!(errors(codes, &document), []);
        let found = errors(codes, &document.replace("4409", "4410"));
        assert!(found[0].text.contains(table), "it says what to paste");
        assert_eq!(errors(codes, "# Errors\n").len(), 1);
    }

    #[test]
    fn a_route_that_nobody_describes_is_found() {
        let routes = "const ROUTES: &[Route] = &[\n    get(\"/health\", health),\n    post(\"/api/sessions/:id\", operate),\n\
                      \u{20}   // get(\"/old\", old),\n];\n#[cfg(test)]\nmod tests {\n    const X: &str = \"/test\";\n}\n";
        let routes = Source::new("router/src/api/routes.rs", routes);
        let items = |description: &str| -> Vec<String> {
            api(&routes, description).into_iter().map(|finding| finding.item).collect()
        };
        assert_eq!(items(r#"{"paths":{"/health":{},"/api/sessions/{id}":{}}}"#), [""; 0]);
        assert_eq!(items(r#"{"paths":{"/health":{}}}"#), ["/api/sessions/{id}"]);
        assert_eq!(items(r#"{"paths":{"/health":{},"/api/sessions/{id}":{},"/gone":{}}}"#), ["/gone"]);
        assert_eq!(items("{"), ["syntax"]);
    }
}
