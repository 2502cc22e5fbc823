//! Rules for every file: names, length, addresses, links.

use std::path::{Component, Path};

use super::{Source, Violation};

/// Longest file in lines; a longer one has more than one subject.
const LINES_MAX: usize = 999;

/// Extensions of files that people write; data and generated files may be longer.
const WRITTEN: [&str; 11] =
    ["rs", "wgsl", "ts", "js", "mjs", "css", "html", "py", "md", "sh", "toml"];

/// Names that do not describe a module's contents, so that everything ends up there.
const VAGUE_NAMES: [&str; 7] = ["utils", "util", "helpers", "helper", "common", "manager", "misc"];

/// Addresses of package registries: a clone must build through whatever mirror its owner has set up. They are put
/// together here so that this file does not contain them.
const REGISTRIES: [&str; 9] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("npmjs", ".com"),
    concat!("yarnpkg", ".com"),
    concat!("deb.debian", ".org"),
    concat!("static.rust-lang", ".org"),
    concat!("proxy.golang", ".org"),
];

/// A folder that only one machine has.
const OUTSIDE: [&str; 2] = [concat!("..", "/shared"), concat!("/work", "/shared")];

/// Checks one file; `paths` are all files of the tree.
pub(super) fn check(source: &Source, paths: &[String]) -> Vec<Violation> {
    let mut violations = Vec::new();
    check_name(source, &mut violations);
    if source.has_extension(&WRITTEN) {
        let lines = source.lines().count();
        if lines > LINES_MAX {
            let rule = format!(
                "{lines} lines, and at most {LINES_MAX} are read in one go: split it by subject"
            );
            violations.push(Violation::new(&source.path, rule));
        }
    }
    // Cargo writes the registry's address into its lock file itself.
    if source.path != "Cargo.lock" {
        check_addresses(source, &mut violations);
    }
    if source.has_extension(&["md"]) {
        check_links(source, paths, &mut violations);
    }
    violations
}

fn check_name(source: &Source, violations: &mut Vec<Violation>) {
    if !source.has_extension(&["rs", "ts", "js", "py"]) {
        return;
    }
    let mut vague = |place: String, name: &str| {
        let rule =
            format!("`{name}` does not say what is in it: name the module after its subject");
        violations.push(Violation::new(place, rule));
    };
    let stem = source.path.rsplit_once('.').map_or(source.path.as_str(), |(stem, _)| stem);
    if let Some(name) = stem.split('/').find(|part| VAGUE_NAMES.contains(part)) {
        vague(source.path.clone(), name);
    }
    for (number, line) in source.lines() {
        let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
        let (keyword, name) = (words.next(), words.next().unwrap_or_default());
        if keyword == Some("mod")
            && name != ";"
            && line.contains('{')
            && VAGUE_NAMES.contains(&name.trim_end_matches('{'))
        {
            vague(format!("{}:{number}", source.path), name);
        }
    }
}

fn check_addresses(source: &Source, violations: &mut Vec<Violation>) {
    for (number, line) in source.lines() {
        for address in REGISTRIES {
            if line.contains(address) {
                let rule = format!(
                    "`{address}` is a registry's address: leave it to the client's configuration"
                );
                violations.push(Violation::new(format!("{}:{number}", source.path), rule));
            }
        }
        for folder in OUTSIDE {
            if line.contains(folder) {
                let rule =
                    format!("`{folder}` is outside of the repository: a clone does not have it");
                violations.push(Violation::new(format!("{}:{number}", source.path), rule));
            }
        }
    }
}

fn check_links(source: &Source, paths: &[String], violations: &mut Vec<Violation>) {
    let mut in_fence = false;
    for (number, line) in source.lines() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        }
        if in_fence {
            continue;
        }
        for target in links(line) {
            let file = target.split(['#', '?']).next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            let there = resolve(&source.path, file).is_some_and(|path| {
                path.is_empty()
                    || paths
                        .iter()
                        .any(|other| *other == path || other.starts_with(&format!("{path}/")))
            });
            if !there {
                let rule = format!("the link to `{target}` leads to no file of the repository");
                violations.push(Violation::new(format!("{}:{number}", source.path), rule));
            }
        }
    }
}

/// The targets of `[text](target)` and `[name]: target` in one line, without those in inline code.
fn links(line: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    if let Some((name, target)) = line.split_once("]: ")
        && name.starts_with('[')
        && !name.starts_with("[^")
    {
        targets.extend(target.split_whitespace().next());
    }
    // Every second piece between backticks is code.
    for prose in line.split('`').step_by(2) {
        for (at, _) in prose.match_indices("](") {
            let rest = &prose[at + 2..];
            if let Some(end) = rest.find([')', ' ']) {
                targets.push(rest[..end].trim_matches(['<', '>']));
            }
        }
    }
    targets
}

/// The path from the root of what `link` in the file `from` points at; `None` if that is above the root.
fn resolve(from: &str, link: &str) -> Option<String> {
    let joined = match link.strip_prefix('/') {
        Some(from_root) => Path::new(from_root).to_owned(),
        None => Path::new(from).parent()?.join(link),
    };
    let mut parts = Vec::new();
    for component in joined.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<String> {
        let paths = ["README.md", "docs/design.md", "docs/img/a.png", "fleet/src/lib.rs"]
            .map(str::to_owned);
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        check(&source, &paths).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn vague_names_are_caught() {
        let table = [
            ("daemon/src/utils.rs", "", 1),
            ("daemon/src/common/mod.rs", "", 1),
            ("web/src/helpers.ts", "", 1),
            ("daemon/src/pool.rs", "mod manager {", 1),
            ("daemon/src/pool.rs", "pub(crate) mod helpers {}", 1),
            ("daemon/src/pool.rs", "mod browsers {", 0),
            ("docs/common.md", "", 0),
        ];
        for (path, text, want) in table {
            assert_eq!(rules(path, text).len(), want, "{path} {text}");
        }
    }

    #[test]
    fn long_files_are_caught() {
        assert_eq!(rules("a/src/x.rs", &"\n".repeat(LINES_MAX)).len(), 0);
        assert_eq!(rules("a/src/x.rs", &"\n".repeat(LINES_MAX + 1)).len(), 1);
        assert_eq!(rules("tests/models/a.json", &"\n".repeat(5000)).len(), 0);
    }

    #[test]
    fn addresses_are_caught_with_their_line() {
        for address in REGISTRIES.iter().chain(&OUTSIDE) {
            let found = rules("docs/a.txt", &format!("first\nsee {address}/x\n"));
            assert_eq!(found.len(), 1, "{address}");
            assert!(found[0].starts_with("docs/a.txt:2: "), "{}", found[0]);
            let in_lock_file = rules("Cargo.lock", address);
            assert!(in_lock_file.is_empty(), "{in_lock_file:?}");
        }
    }

    #[test]
    fn dead_links_are_caught() {
        let table = [
            ("README.md", "see [design](docs/design.md#words) and [folder](docs)", 0),
            ("README.md", "[a](docs/gone.md)", 1),
            ("docs/design.md", "[up](../README.md) ![x](img/a.png) [root](/fleet/src/lib.rs)", 0),
            ("docs/design.md", "[out](../../x.md)", 1),
            (
                "README.md",
                "[web](https://example.org/x) [here](#words) [mail](mailto:a@example.org)",
                0,
            ),
            ("README.md", "`[code](gone.md)`", 0),
            ("README.md", "```\n[code](gone.md)\n```\n[a](gone.md)", 1),
            ("README.md", "[name]: gone.md", 1),
        ];
        for (path, text, want) in table {
            let found = rules(path, text);
            assert_eq!(found.len(), want, "{text}: {found:?}");
        }
    }
}
