//! The table of coverage in the README.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, ensure};

use crate::report::Report;

/// Markers in the README around the table.
const BEGIN: &str =
    "<!-- conformance: written by `cargo xtask conformance --readme README.md` -->\n";
const END: &str = "<!-- end of conformance -->";

/// One row per runtime.
pub fn table(reports: &[Report]) -> String {
    let mut table =
        "| runtime | in scope | passed | of them with an element off | failed | refused | no kernel ran | out of scope |\n\
        | --- | --- | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
    for report in reports {
        let Report { runtime, in_scope, passed, failed, refused, no_kernel, out_of_scope, .. } =
            report;
        let (share, off) = (report.share(), report.elements_off.len());
        let _ = writeln!(
            table,
            "| {runtime} | {in_scope} | {passed} ({share:.1} %) | {off} | {failed} | {refused} | {no_kernel} | {out_of_scope} |"
        );
    }
    table
}

/// Replaces the table in the file.
///
/// # Errors
/// The file cannot be read or written, or has no markers.
pub fn replace(readme: &Path, table: &str) -> anyhow::Result<()> {
    let text =
        fs::read_to_string(readme).with_context(|| format!("cannot read {}", readme.display()))?;
    let text = replaced(&text, table)
        .with_context(|| format!("{} has no place for the table: {BEGIN}", readme.display()))?;
    ensure!(!table.is_empty(), "there is no table");
    fs::write(readme, text).with_context(|| format!("cannot write {}", readme.display()))
}

fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_takes_the_place_of_the_old_one() {
        let text = format!("a\n{BEGIN}old\n{END}\nb\n");
        let once = replaced(&text, "| new |\n").expect("a place");
        assert_eq!(once, format!("a\n{BEGIN}| new |\n{END}\nb\n"));
        assert_eq!(replaced(&once, "| new |\n"), Some(once.clone()));
        assert_eq!(replaced("a\n", "| new |\n"), None);
    }
}
