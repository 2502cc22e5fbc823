//! Measurements: figures, their table and their files.

use std::{borrow::Cow, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) case: String,
    /// Where: browser and version, or the program.
    pub(crate) browser: String,
    /// Backend and its adapter.
    pub(crate) backend: String,
    /// Flotilla's figure; `None` if it could not be measured.
    pub(crate) ours: Option<f64>,
    /// The other runtime's figure; `None` if there is nothing to compare with.
    pub(crate) theirs: Option<f64>,
    /// Unit of both figures.
    pub(crate) unit: Cow<'static, str>,
    /// Theirs divided by ours.
    pub(crate) ratio: Option<f64>,
    /// Why something was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) missing: Option<String>,
}

impl Figure {
    /// A figure with nothing to compare with.
    pub(crate) fn alone(case: &str, place: &Place, ours: f64, unit: &'static str) -> Figure {
        Figure::against(case, place, ours, None, unit)
    }

    /// A figure and the other runtime's.
    pub(crate) fn against(
        case: &str,
        place: &Place,
        ours: f64,
        theirs: Option<f64>,
        unit: &'static str,
    ) -> Figure {
        Figure {
            case: case.to_owned(),
            browser: place.browser.clone(),
            backend: place.backend.clone(),
            ours: Some(ours),
            theirs,
            unit: unit.into(),
            ratio: theirs.map(|theirs| theirs / ours),
            missing: None,
        }
    }

    /// Something that could not be measured.
    pub(crate) fn missing(
        case: &str,
        place: &Place,
        unit: &'static str,
        error: &anyhow::Error,
    ) -> Figure {
        Figure {
            case: case.to_owned(),
            browser: place.browser.clone(),
            backend: place.backend.clone(),
            ours: None,
            theirs: None,
            unit: unit.into(),
            ratio: None,
            missing: Some(format!("{error:#}")),
        }
    }

    /// Records why the other runtime's figure is missing.
    pub(crate) fn without_theirs(self, error: &anyhow::Error) -> Figure {
        Figure { missing: Some(format!("{error:#}")), ..self }
    }
}

/// Where a figure was measured, as text.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Browser and version, or the program.
    pub(crate) browser: String,
    /// Backend and its adapter.
    pub(crate) backend: String,
}

/// The median of some times; of an even number of times, the upper one of the two in the middle.
pub(crate) fn median(times: &[f64]) -> anyhow::Result<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().context("nothing was measured")
}

/// Writes a group of figures as a JSON array.
pub(crate) fn write(folder: &Path, group: &str, figures: &[Figure]) -> anyhow::Result<()> {
    let path = folder.join(format!("{group}.json"));
    let text = serde_json::to_string_pretty(figures)?;
    std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// Reads what [`write`] wrote; `None` if the group was never measured.
pub(crate) fn read(folder: &Path, group: &str) -> anyhow::Result<Option<Vec<Figure>>> {
    let path = folder.join(format!("{group}.json"));
    match std::fs::read(&path) {
        Ok(text) => Ok(Some(
            serde_json::from_slice(&text)
                .with_context(|| format!("{} holds no figures", path.display()))?,
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Unit of the largest difference of two embeddings.
pub(crate) const DIFFERENCE: &str = "max abs difference";

/// The figures as a table; below it how they were checked, and the reasons of missing ones.
pub(crate) fn table(figures: &[Figure]) -> String {
    let (differences, figures): (Vec<&Figure>, Vec<&Figure>) =
        figures.iter().partition(|figure| figure.unit == DIFFERENCE);
    let header =
        ["case", "browser", "backend", "ours", "theirs", "unit", "theirs/ours"].map(str::to_owned);
    let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    let rows: Vec<[String; 7]> = figures
        .iter()
        .map(|figure| {
            [
                figure.case.clone(),
                figure.browser.clone(),
                figure.backend.clone(),
                cell(figure.ours),
                cell(figure.theirs),
                figure.unit.to_string(),
                figure.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            ]
        })
        .collect();
    let mut widths = header.clone().map(|name| name.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut lines =
        vec![line(&header, &widths), line(&widths.map(|width| "-".repeat(width)), &widths)];
    lines.extend(rows.iter().map(|row| line(row, &widths)));
    lines.push("theirs: onnxruntime-web; theirs/ours above 1: we are faster".to_owned());
    if let Some(largest) =
        differences.iter().filter_map(|figure| figure.ours).max_by(f64::total_cmp)
    {
        lines.push(format!(
            "largest difference between our embeddings and theirs: {}",
            number(largest)
        ));
    }
    lines.extend(figures.iter().filter_map(|figure| {
        let reason = figure.missing.as_ref()?;
        Some(format!(
            "not measured: {}, {}, {}: {reason}",
            figure.case, figure.browser, figure.backend
        ))
    }));
    lines.join("\n")
}

fn line(cells: &[String; 7], widths: &[usize; 7]) -> String {
    let cells = cells.iter().zip(widths).enumerate().map(|(column, (cell, &width))| {
        // Numbers are right-aligned.
        if matches!(column, 3 | 4 | 6) {
            format!("{cell:>width$}")
        } else {
            format!("{cell:<width$}")
        }
    });
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

/// Three significant digits; more if the number has more digits before the decimal point.
pub(crate) fn number(value: f64) -> String {
    let magnitude = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    if magnitude < -3.0 {
        return format!("{value:.1e}");
    }
    let digits = (2.0 - magnitude).clamp(0.0, 6.0) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let table = [
            (0.0, "0.00"),
            (3e-7, "3.0e-7"),
            (0.0123, "0.0123"),
            (1.2345, "1.23"),
            (92.44, "92.4"),
            (573190.0, "573190"),
        ];
        for (value, want) in table {
            assert_eq!(number(value), want);
        }
    }

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).expect("measured"), 2.0);
        assert!(median(&[]).is_err());
    }

    #[test]
    fn a_table_says_what_is_missing() {
        let place = Place { browser: "chrome 1".to_owned(), backend: "cpu".to_owned() };
        let figures = [
            Figure::against("run", &place, 2.0, Some(5.0), "ms"),
            Figure::alone("run", &place, 3e-7, DIFFERENCE),
            Figure::missing("load", &place, "ms", &anyhow::anyhow!("no browser")),
        ];
        let text = table(&figures);
        assert!(
            text.contains("run   chrome 1  cpu      2.00    5.00  ms           2.50"),
            "{text}"
        );
        assert!(text.contains("our embeddings and theirs: 3.0e-7\n"), "{text}");
        assert!(text.ends_with("not measured: load, chrome 1, cpu: no browser"), "{text}");
    }
}
