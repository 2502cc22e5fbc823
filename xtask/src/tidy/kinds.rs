//! Kinds of failures are matched, never compared: a new kind must not silently fall into the other branch of an `==`.

use super::{Source, Violation};

/// The prefix of a kind's name.
const KIND: &str = concat!("FailureKind", "::");

pub(super) fn check(source: &Source) -> Vec<Violation> {
    let is_test = source.path.ends_with("tests.rs") || source.path.contains("tests/");
    if !source.has_extension(&["rs"]) || is_test {
        return Vec::new();
    }
    let compares = |code: &str| {
        code.match_indices(KIND).any(|(at, _)| {
            let before = code[..at].trim_end_matches("Some(").trim_end();
            let kind = &code[at + KIND.len()..];
            let after = kind.trim_start_matches(char::is_alphanumeric).trim_start_matches(')');
            let after = after.trim_start();
            before.ends_with("==")
                || before.ends_with("!=")
                || after.starts_with("==")
                || after.starts_with("!=")
                || before.contains("matches!(")
        })
    };
    let lines = source.code().filter(|(_, line)| {
        let code = line.split("//").next().unwrap_or_default();
        compares(code)
    });
    let rule = "a kind of failure is compared: match all kinds, or ask `FailureKind::sort`";
    lines.map(|(number, _)| Violation::new(format!("{}:{number}", source.path), rule)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_caught_and_matches_are_not() {
        let kind = KIND;
        for (text, want) in [
            (format!("if failure.kind == {kind}DeviceLost {{"), 1),
            (format!("if {kind}DeviceLost != failure.kind {{"), 1),
            (format!("let late = kind == Some({kind}DeadlineExceeded);"), 1),
            (format!("matches!(kind, {kind}WrongResult | {kind}Overloaded)"), 1),
            (format!("{kind}DeviceLost | {kind}Overloaded => 1,"), 0),
            (format!("let failure = Failure::new({kind}DeviceLost, words);"), 0),
            (format!("// not kind == {kind}DeviceLost"), 0),
            (format!("#[cfg(test)]\nmod tests {{\n    kind == {kind}DeviceLost;\n}}"), 0),
        ] {
            let source = Source { path: "fleet/src/core/watch.rs".to_owned(), text: text.clone() };
            assert_eq!(check(&source).len(), want, "{text}");
        }
    }
}
