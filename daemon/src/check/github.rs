//! Rows as GitHub Actions shows them: annotations and the job's summary.
//! Source: GitHub's documentation, "Workflow commands for GitHub Actions".

use super::{Row, Status};

/// One workflow command for each row that is worth a look. With `strict` a skip is an error.
pub fn annotations(rows: &[Row], strict: bool) -> Vec<String> {
    let command = |row: &Row| match row.status {
        Status::Pass => None,
        Status::Fail | Status::Refused => Some("error"),
        Status::Skipped if strict => Some("error"),
        Status::Skipped => Some("notice"),
    };
    rows.iter()
        .filter_map(|row| {
            let command = command(row)?;
            let title = property(&format!("flotilla check: {} {}", row.model, row.status.name()));
            let file = property(&row.path.display().to_string());
            let reason = row.reason.as_deref().unwrap_or_default();
            let message = data(&format!("{}: {reason}", row.place()));
            Some(format!("::{command} file={file},title={title}::{message}"))
        })
        .collect()
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
    use crate::check::tests::row;

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
        let summary = summary(&rows);
        assert_eq!(summary.lines().count(), 4 + rows.len(), "{summary}");
        assert!(summary.contains("100% wrong and \\| more"), "{summary}");
    }
}
