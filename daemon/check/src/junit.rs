//! Rows as JUnit XML, which CI systems show as tests.

use std::fmt::Write as _;

use crate::{Row, Status};

/// The report: one suite per model, one test per browser and backend. With `strict` a skip is a failure.
pub fn report(rows: &[Row], strict: bool) -> String {
    let mut models: Vec<&str> = Vec::new();
    for row in rows {
        if !models.contains(&row.model.as_str()) {
            models.push(&row.model);
        }
    }
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let all: Vec<&Row> = rows.iter().collect();
    let _infallible =
        writeln!(xml, "<testsuites name=\"flotilla check\" {}>", counts(&all, strict));
    for model in models {
        let own: Vec<&Row> = rows.iter().filter(|row| row.model == model).collect();
        let (name, counts) = (escaped(model), counts(&own, strict));
        let _infallible = writeln!(xml, "  <testsuite name=\"{name}\" {counts}>");
        for row in &own {
            case(&mut xml, row, strict);
        }
        // Every row of a model carries all of the model's findings. A finding fails no row.
        for finding in own.first().into_iter().flat_map(|row| &row.findings) {
            let words = escaped(&finding.to_string());
            let _infallible = writeln!(xml, "    <system-out>{words}</system-out>");
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// A row's outcome in JUnit's terms.
enum Outcome {
    Passed,
    Failure,
    Error,
    Skipped,
}

fn outcome(row: &Row, strict: bool) -> Outcome {
    match row.status {
        Status::Pass => Outcome::Passed,
        Status::Fail => Outcome::Failure,
        Status::Refused => Outcome::Error,
        Status::Skipped if strict => Outcome::Failure,
        Status::Skipped => Outcome::Skipped,
    }
}

fn counts(rows: &[&Row], strict: bool) -> String {
    let (mut failures, mut errors, mut skipped) = (0, 0, 0);
    for row in rows {
        match outcome(row, strict) {
            Outcome::Passed => {}
            Outcome::Failure => failures += 1,
            Outcome::Error => errors += 1,
            Outcome::Skipped => skipped += 1,
        }
    }
    let seconds: f64 = rows.iter().map(|row| row.seconds).sum();
    format!(
        "tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\" time=\"{seconds:.3}\"",
        rows.len()
    )
}

fn case(xml: &mut String, row: &Row, strict: bool) {
    let (model, name) = (escaped(&row.model), escaped(&row.place()));
    let seconds = row.seconds;
    let _infallible = write!(
        xml,
        "    <testcase classname=\"flotilla.check.{model}\" name=\"{name}\" time=\"{seconds:.3}\""
    );
    let reason = escaped(row.reason.as_deref().unwrap_or_default());
    let status = row.status.name();
    let _infallible = match outcome(row, strict) {
        Outcome::Passed => writeln!(xml, "/>"),
        Outcome::Failure => writeln!(
            xml,
            "><failure type=\"{status}\" message=\"{reason}\">{reason}</failure></testcase>"
        ),
        Outcome::Error => writeln!(
            xml,
            "><error type=\"{status}\" message=\"{reason}\">{reason}</error></testcase>"
        ),
        Outcome::Skipped => writeln!(xml, "><skipped message=\"{reason}\"/></testcase>"),
    };
}

/// Text for attributes and elements. Control characters, which XML 1.0 has no way to write, become U+FFFD.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::Finding, tests::row};

    #[test]
    fn a_finding_is_reported_and_fails_nothing() {
        let mut found = row("a", Status::Pass, None);
        found.findings.push(Finding::example());
        let xml = report(&[found.clone(), found], true);
        assert!(xml.contains("failures=\"0\" errors=\"0\""), "{xml}");
        let words = "<system-out>tract 0.23.9 does not agree with onnxruntime 1.32.0: output y";
        assert_eq!(xml.matches(words).count(), 1, "{xml}");
    }

    #[test]
    fn every_outcome_has_its_element() {
        let rows = [
            row("a<b>", Status::Pass, None),
            row("a<b>", Status::Fail, Some("x is \"1\" & 2 is right\n\u{1b}[0m")),
            row("other", Status::Refused, Some("no such operator")),
            row("other", Status::Skipped, Some("not installed")),
        ];
        let xml = report(&rows, false);
        for part in [
            "tests=\"4\" failures=\"1\" errors=\"1\" skipped=\"1\"",
            "<testsuite name=\"a&lt;b&gt;\" tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"0\"",
            "classname=\"flotilla.check.other\" name=\"native on cpu\"",
            "message=\"x is &quot;1&quot; &amp; 2 is right&#10;\u{fffd}[0m\"",
            "<error type=\"refused\" message=\"no such operator\">",
            "<skipped message=\"not installed\"/>",
        ] {
            assert!(xml.contains(part), "{part} is not in\n{xml}");
        }
        let strict = report(&rows, true);
        assert!(strict.contains("failures=\"2\" errors=\"1\" skipped=\"0\""), "{strict}");
    }
}
