//! The rooms of a crate, which are the files and folders at its top, use each other in one direction.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, Violation};

/// Crates whose rooms are looked at: all but those in which there is one room only.
const CRATES: [&str; 12] = [
    "browser-runtime",
    "daemon",
    "daemon/browsers",
    "daemon/check",
    "daemon/cli",
    "daemon/store",
    "fault-injection",
    "fleet",
    "kernels",
    "model",
    "reference",
    "simulator",
];
/// Folders and files that are above all rooms: whatever a room needs of them would be a circle.
const ABOVE: [&str; 3] = ["lib.rs", "main.rs", "tests"];
/// Components of the fleet, whose fields nobody else may write.
const COMPONENTS: [&str; 7] =
    ["assignments", "journal", "leases", "measurements", "requests", "runs", "slots"];

/// Each room and the rooms that it uses, with a file that does.
type Uses = BTreeMap<String, BTreeMap<String, String>>;

pub(super) fn check(sources: &[Source]) -> Vec<Violation> {
    let mut violations: Vec<Violation> =
        CRATES.iter().flat_map(|name| circles(&uses(sources, name))).collect();
    violations.extend(sources.iter().filter_map(open_component));
    violations
}

fn uses(sources: &[Source], name: &str) -> Uses {
    let folder = format!("{name}/src/");
    let mut uses = Uses::new();
    for source in sources {
        let Some(rest) = source.path.strip_prefix(&folder).filter(|rest| rest.ends_with(".rs"))
        else {
            continue;
        };
        let first = rest.split('/').next().unwrap_or(rest);
        let is_test = rest.ends_with("/tests.rs") || rest.contains("/tests/");
        if ABOVE.contains(&first) || is_test {
            continue;
        }
        let room = first.trim_end_matches(".rs");
        let code: String = source.code().map(|(_, line)| format!("{line}\n")).collect();
        let entry = uses.entry(room.to_owned()).or_default();
        for used in named(&code).into_iter().filter(|used| used != room) {
            entry.entry(used).or_insert_with(|| source.path.clone());
        }
    }
    uses
}

/// What follows `crate::` in code, and what the braces after it hold at their first depth.
fn named(code: &str) -> BTreeSet<String> {
    let word = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|char| char.is_alphanumeric() || *char == '_')
            .collect()
    };
    let mut found = BTreeSet::new();
    for (at, start) in code.match_indices("crate::") {
        // Of another crate, such as `some_crate::`.
        if code[..at].ends_with(|char: char| char.is_alphanumeric() || char == '_') {
            continue;
        }
        let rest = &code[at + start.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let (mut depth, mut begin) = (0, 0);
        for (index, char) in list.char_indices() {
            match char {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    found.insert(word(&list[begin..index]));
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.insert(word(&list[begin..index]));
                    begin = index + 1;
                }
                _ => {}
            }
        }
    }
    found.remove("");
    found
}

/// Every use that is a part of a circle.
fn circles(uses: &Uses) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (room, used) in uses {
        for (other, place) in used {
            if reaches(uses, other, room) {
                let rule = format!(
                    "`{room}` uses `{other}`, which uses `{room}` in turn: move what both need into a room of its own"
                );
                violations.push(Violation::new(place, rule));
            }
        }
    }
    violations
}

fn reaches(uses: &Uses, from: &str, to: &str) -> bool {
    let (mut open, mut seen) = (vec![from], BTreeSet::new());
    while let Some(room) = open.pop() {
        if room == to {
            return true;
        }
        if seen.insert(room) {
            open.extend(
                uses.get(room).into_iter().flat_map(|used| used.keys().map(String::as_str)),
            );
        }
    }
    false
}

/// The struct that a component's file is named after has private fields only.
fn open_component(source: &Source) -> Option<Violation> {
    let component = source.path.strip_prefix("fleet/src/core/")?.strip_suffix(".rs")?;
    if !COMPONENTS.contains(&component) {
        return None;
    }
    let name: String = component[..1].to_uppercase() + &component[1..];
    let mut inside = false;
    for (number, line) in source.code() {
        if line.contains(&format!("struct {name} {{")) {
            inside = true;
        } else if inside && line == "}" {
            return None;
        } else if inside && line.trim_start().starts_with("pub") {
            let place = format!("{}:{number}", source.path);
            let rule = "a component of the fleet owns its state: its fields are private";
            return Some(Violation::new(place, rule));
        }
    }
    let rule = format!(
        "there is no `struct {name}`: declare in xtask/src/tidy/rooms.rs what the components are"
    );
    (!inside).then(|| Violation::new(&source.path, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn circles_between_rooms_are_found() {
        let sources = [
            source("daemon/src/a/mod.rs", "use crate::{\n    b::{X, Y},\n    d,\n};\n"),
            source("daemon/src/a/inner.rs", "use crate::a::Z;\n"),
            source("daemon/src/b.rs", "fn f() { crate::c::g() }\n"),
            source("daemon/src/c.rs", "use crate::a::Z;\nuse other_crate::d;\n"),
            source("daemon/src/d.rs", "#[cfg(test)]\nmod tests {\n    use crate::a::Z;\n}\n"),
            source("daemon/src/lib.rs", "use crate::a::Z;\n"),
        ];
        let places: Vec<String> =
            check(&sources).into_iter().map(|violation| violation.place).collect();
        assert_eq!(places, ["daemon/src/a/mod.rs", "daemon/src/b.rs", "daemon/src/c.rs"]);
        assert!(check(&sources[..3]).is_empty());
    }

    #[test]
    fn components_keep_their_fields() {
        let text = |field: &str| format!("pub struct Runs {{\n    {field}: u32,\n}}\n");
        let is_broken = |text: &str| !check(&[source("fleet/src/core/runs.rs", text)]).is_empty();
        assert!(!is_broken(&text("runs")));
        assert!(is_broken(&text("pub(super) runs")));
        assert!(is_broken("pub struct Other;\n"));
    }
}
