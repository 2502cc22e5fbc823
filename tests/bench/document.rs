//! Tables of documents, which the bench writes itself: the README has the comparison with onnxruntime-web, `docs/bench.md` every
//! figure of every group.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, bail, ensure};

use crate::{
    Group,
    figures::{DIFFERENCE, Figure, number},
};

/// Where the document with every figure is, from the README's folder.
const EVERY_FIGURE: &str = "docs/bench.md";

/// Writes the tables of the groups that were measured into the README and into the document with every figure.
pub(crate) fn write(readme: &Path, measured: &[(Group, Vec<Figure>)]) -> anyhow::Result<()> {
    let every_figure = readme.with_file_name(EVERY_FIGURE);
    for (group, figures) in measured {
        if *group == Group::Reliability {
            continue;
        }
        let (begin, end) = markers(*group);
        replace(&every_figure, &begin, &end, &table(figures)?)?;
        if *group == Group::Minilm {
            replace(readme, &begin, &end, &table(figures)?)?;
        }
    }
    Ok(())
}

/// The lines around a group's table.
fn markers(group: Group) -> (String, String) {
    let name = group.name();
    let command = format!("cargo xtask bench --groups {name} --readme README.md");
    (format!("<!-- {name}: written by `{command}` -->"), format!("<!-- end of {name} -->"))
}

/// What was measured, as a table of Markdown.
fn table(figures: &[Figure]) -> anyhow::Result<String> {
    let (differences, figures): (Vec<&Figure>, Vec<&Figure>) = figures
        .iter()
        .filter(|figure| figure.ours.is_some())
        .partition(|figure| figure.unit == DIFFERENCE);
    ensure!(!figures.is_empty(), "nothing was measured");
    let compared = figures.iter().any(|figure| figure.theirs.is_some());
    let mut text = String::from(if compared {
        "| | browser | backend | Flotilla | onnxruntime-web | theirs / ours |\n| --- | --- | --- | --- | --- | --- |\n"
    } else {
        "| | browser | backend | |\n| --- | --- | --- | --- |\n"
    });
    let shown = |value: Option<f64>, unit: &str| match value {
        Some(value) => format!("{} {unit}", number(value)),
        None => "-".to_owned(),
    };
    for figure in figures {
        let Figure { case, browser, backend, ours, theirs, unit, ratio, .. } = figure;
        write!(text, "| {case} | {browser} | {backend} | {} |", shown(*ours, unit))?;
        if compared {
            let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            write!(text, " {} | {ratio} |", shown(*theirs, unit))?;
        }
        text.push('\n');
    }
    let largest = differences.iter().filter_map(|figure| figure.ours).max_by(f64::total_cmp);
    if let Some(largest) = largest {
        writeln!(text, "\nLargest difference of an element: {}.", number(largest))?;
    }
    Ok(text)
}

/// Replaces what a document has between two lines.
pub(crate) fn replace(document: &Path, begin: &str, end: &str, inside: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(document)
        .with_context(|| format!("cannot read {}", document.display()))?;
    let place = text.split_once(begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(end)?;
        Some((before, after))
    });
    let Some((before, after)) = place else {
        bail!("{} has no place for the table: {begin}", document.display());
    };
    fs::write(document, format!("{before}{begin}\n{inside}{end}{after}"))
        .with_context(|| format!("cannot write {}", document.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Place;

    #[test]
    fn a_table_is_put_between_its_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let document = folder.path().join("README.md");
        fs::write(&document, "above\n<!-- a -->\nold\n<!-- b -->\nbelow\n").expect("written");
        replace(&document, "<!-- a -->", "<!-- b -->", "new\n").expect("replaced");
        let text = fs::read_to_string(&document).expect("read");
        assert_eq!(text, "above\n<!-- a -->\nnew\n<!-- b -->\nbelow\n");
        assert!(replace(&document, "<!-- c -->", "<!-- b -->", "new\n").is_err());
    }

    #[test]
    fn a_table_has_what_was_measured() {
        let place = Place { browser: "chrome 1".to_owned(), backend: "cpu".to_owned() };
        let figures = [
            Figure::against("run", &place, 2.0, Some(5.0), "ms"),
            Figure::alone("run", &place, 3e-7, DIFFERENCE),
            Figure::missing("load", &place, "ms", &anyhow::anyhow!("no browser")),
        ];
        let text = table(&figures).expect("measured");
        assert!(text.ends_with(
            "| run | chrome 1 | cpu | 2.00 ms | 5.00 ms | 2.50 |\n\nLargest difference of an element: 3.0e-7.\n"
        ), "{text}");
        assert!(table(&figures[2..]).is_err());
    }
}
