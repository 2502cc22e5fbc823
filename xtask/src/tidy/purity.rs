//! The crates that decide, and the simulator, use no clock, no randomness, no files and no sockets.

use super::{Source, Violation};

/// Their folders.
const PURE: [&str; 7] = ["tensor", "program", "protocol", "kernels", "model", "fleet", "simulator"];

/// Those of them that draw random numbers, from a seed that comes in.
const SEEDED: [&str; 1] = ["simulator"];

/// Names that they may not use, and where the value comes from instead.
const FORBIDDEN: [(&str, &str); 15] = [
    ("tokio", "it is sans-IO: the daemon runs it"),
    ("std::fs", "bytes come in as `&[u8]`"),
    ("std::net", "bytes come in as `&[u8]`"),
    ("std::process", "what is to be run is an action"),
    ("std::thread", "one owner drives it"),
    ("std::env", "configuration comes in as a value"),
    ("Instant::now", "time comes in as `now`"),
    ("SystemTime", "time comes in as `now`"),
    ("rand::", "chance comes in as a seed"),
    ("rand::rng", "chance comes in as a seed"),
    ("rand::random", "chance comes in as a seed"),
    ("make_rng", "chance comes in as a seed"),
    ("thread_rng", "chance comes in as a seed"),
    ("SysRng", "chance comes in as a seed"),
    ("getrandom", "chance comes in as a seed"),
];

pub(super) fn check(source: &Source) -> Vec<Violation> {
    let Some((folder, inner)) = source.path.split_once("/src/") else { return Vec::new() };
    let is_test = inner.ends_with("tests.rs") || inner.contains("tests/");
    if !PURE.contains(&folder) || !source.has_extension(&["rs"]) || is_test {
        return Vec::new();
    }
    let mut violations = Vec::new();
    let mut import = String::new();
    for (number, line) in source.code() {
        let code = line.split("//").next().unwrap_or_default();
        // Grouped imports are put together first, so that `use std::{fs, io}` is seen as `std::fs`.
        let statement = if import.is_empty() && !code.trim_start().starts_with("use ") {
            code.to_owned()
        } else {
            import.push_str(code.trim());
            if !code.contains(';') {
                continue;
            }
            flatten(&std::mem::take(&mut import))
        };
        for (name, instead) in FORBIDDEN {
            // What only seeded crates are asked about is a part of `rand::` in the others.
            let is_allowed = match SEEDED.contains(&folder) {
                true => name == "rand::",
                false => name.starts_with("rand::r"),
            };
            if !is_allowed && contains_word(&statement, name) {
                let rule = format!("`{folder}` may not use `{name}`: {instead}");
                violations.push(Violation::new(format!("{}:{number}", source.path), rule));
            }
        }
    }
    violations
}

/// `use a::{b, c::{d, e}};` as `a::b a::c a::c::d a::c::e`.
fn flatten(import: &str) -> String {
    let import = import.trim_start_matches("pub ").trim_start_matches("use ").trim_end_matches(';');
    let mut prefixes: Vec<String> = vec![String::new()];
    let mut word = String::new();
    let mut paths = String::new();
    for character in import.chars() {
        match character {
            '{' => {
                let prefix = format!("{}{}", prefixes.last().map_or("", String::as_str), word);
                prefixes.push(prefix);
                word.clear();
            }
            ',' | '}' => {
                let prefix = prefixes.last().map_or("", String::as_str);
                paths.push_str(&format!("{prefix}{word} "));
                word.clear();
                if character == '}' {
                    prefixes.pop();
                }
            }
            ' ' => {}
            _ => word.push(character),
        }
    }
    paths + &word
}

/// Whether `name` occurs in `text` and is not the end of a longer word.
fn contains_word(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        let in_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !in_word(before) && (name.ends_with(':') || !in_word(after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        check(&Source { path: path.to_owned(), text: text.to_owned() }).len()
    }

    #[test]
    fn impurities_are_caught() {
        let table = [
            ("let now = Instant::now();", 1),
            ("use std::time::SystemTime;", 1),
            ("use tokio::sync::mpsc;", 1),
            ("use std::fs;", 1),
            ("use std::{collections::BTreeMap, fs::File, io};", 1),
            ("use std::{\n    collections::{BTreeMap, BTreeSet},\n    net::TcpStream,\n};", 1),
            ("let file = std::fs::read(path);", 1),
            ("let x = rand::random();", 1),
            ("use std::time::{Duration, Instant};", 0),
            ("/// Unlike tokio, it has no timers.", 0),
            ("let x = 1; // std::fs is not used", 0),
            ("let operand::Kind = x;", 0),
            ("use std::fmt;", 0),
            ("#[cfg(test)]\nmod tests {\n    use std::fs;\n}", 0),
            ("#[cfg(test)]\nmod tests {\n    fn a() {\n    }\n}\nuse std::fs;", 1),
            ("#[cfg(test)]\nuse std::fs;\nuse std::net;", 1),
            ("#[cfg(test)]\nmod tests;\nuse std::fs;", 1),
            ("struct A {\n    #[cfg(test)]\n    seen: std::fs::File,\n}\nuse std::fs;", 1),
        ];
        for (text, want) in table {
            assert_eq!(count("fleet/src/core.rs", text), want, "{text}");
        }
    }

    #[test]
    fn seeded_crates_draw_from_seeds_only() {
        let table = [
            ("use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};", 0),
            ("let x = rand::random();", 1),
            ("let mut generator = rand::rng();", 1),
            ("use rand::{make_rng, rngs::StdRng};", 1),
        ];
        for (text, want) in table {
            assert_eq!(count("simulator/src/random.rs", text), want, "{text}");
            assert_eq!(count("fleet/src/core.rs", text).min(1), 1, "{text}");
        }
    }

    #[test]
    fn only_pure_crates_are_checked() {
        for path in [
            "daemon/src/main.rs",
            "fleet/tests/world.rs",
            "fleet/src/core/tests.rs",
            "fleet/Cargo.toml",
        ] {
            assert_eq!(count(path, "use std::fs;"), 0, "{path}");
        }
        for path in
            ["protocol/src/lib.rs", "model/src/import/hf/bert.rs", "simulator/src/world/mod.rs"]
        {
            assert_eq!(count(path, "use std::fs;"), 1, "{path}");
        }
    }
}
