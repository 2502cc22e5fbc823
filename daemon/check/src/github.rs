//! Rows as GitHub Actions shows them: annotations and the job's summary.
//! Source: GitHub's documentation, "Workflow commands for GitHub Actions".

use crate::{Row, Status, finding::Finding};

/// One workflow command for each row that failed, was refused or was skipped, and for each disagreement of references. With
/// `strict` a skip is an error.
pub fn annotations(rows: &[Row], strict: bool) -> Vec<String> {
    let command = |row: &Row| match row.status {
        Status::Pass => None,
        Status::Fail | Status::Refused => Some("error"),
        Status::Skipped if strict => Some("error"),
        Status::Skipped => Some("notice"),
    };
    let of_row = |row: &Row| {
        let title = format!("flotilla check: {} {}", row.model, row.status.name());
        let reason = row.reason.as_deref().unwrap_or_default();
        Some(written(command(row)?, row, &title, &format!("{}: {reason}", row.place())))
    };
    let of_model = rows.chunk_by(|a, b| a.model == b.model).filter_map(|alike| alike.first());
    let found = of_model.flat_map(|row| {
        let title = format!("flotilla check: {} references", row.model);
        let words = move |finding: &Finding| written("warning", row, &title, &finding.to_string());
        row.findings.iter().map(words)
    });
    rows.iter().filter_map(of_row).chain(found).collect()
}

fn written(command: &str, row: &Row, title: &str, message: &str) -> String {
    let file = property(&row.path.display().to_string());
    format!("::{command} file={file},title={}::{}", property(title), data(message))
}

/// A table in Markdown for the job's summary.
pub fn summary(rows: &[Row]) -> String {
    let number =
        |number: Option<f64>| number.map_or(String::new(), |number| format!("{number:.1}"));
    let mut text = String::from(
        "### flotilla check\n\n| model | browser | backend | adapter | status | max error | first ms | median ms | reason |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let version = row.browser_version.as_deref().unwrap_or_default();
        let cells = [
            row.model.clone(),
            format!("{} {version}", row.browser),
            row.backend.to_string(),
            row.adapter.clone().unwrap_or_default(),
            row.status.name().to_owned(),
            row.max_abs_err.map_or(String::new(), |error| format!("{error:.1e}")),
            number(row.latency_ms.first),
            number(row.latency_ms.p50),
            row.reason.clone().unwrap_or_default(),
        ];
        let cells = cells.map(|cell| cell.trim().replace('|', "\\|").replace('\n', " "));
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    let of_model = rows.chunk_by(|a, b| a.model == b.model).filter_map(|alike| alike.first());
    for row in of_model {
        for finding in &row.findings {
            text.push_str(&format!("\n{}: {finding}\n", row.model));
        }
    }
    text
}

/// A command's message.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A command's property.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::row;

    #[test]
    fn rows_become_commands_and_a_table() {
        let rows = [
            row("a", Status::Pass, None),
            row("b,c", Status::Fail, Some("100% wrong\nand | more")),
            row("d", Status::Skipped, Some("not installed")),
        ];
        assert_eq!(
            annotations(&rows, false),
            [
                "::error file=b%2Cc.onnx,title=flotilla check%3A b%2Cc fail::native on cpu: 100%25 wrong%0Aand | more",
                "::notice file=d.onnx,title=flotilla check%3A d skipped::native on cpu: not installed",
            ]
        );
        assert!(annotations(&rows, true)[1].starts_with("::error "));
        let mut found = rows.clone();
        found[0].findings.push(Finding::example());
        let warnings = annotations(&found, false);
        assert_eq!(warnings.len(), 3);
        let begin =
            "::warning file=a.onnx,title=flotilla check%3A a references::tract 0.23.9 does not";
        assert!(warnings[2].starts_with(begin), "{}", warnings[2]);
        assert!(summary(&found).contains("a: tract 0.23.9 does not agree"));
        let summary = summary(&rows);
        assert_eq!(summary.lines().count(), 4 + rows.len(), "{summary}");
        assert!(summary.contains("100% wrong and \\| more"), "{summary}");
    }
}
