//! `cargo xtask tidy`: invariants of the source tree that the compiler does not check.

mod dependencies;
mod kinds;
mod purity;
mod rooms;
mod text;

use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::workspace::Workspace;

/// A rule that is broken, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The file from the root, with the line if it is about one.
    place: String,
    /// What is wrong and why that matters.
    rule: String,
}

impl Violation {
    fn new(place: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { place: place.into(), rule: rule.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.rule)
    }
}

/// One text file of the tree.
#[derive(Debug)]
struct Source {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// Its lines with their numbers, counted from one.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Its lines without the items that only tests have. Of such an item the layout is what rustfmt makes of it: it ends with
    /// the first line that is indented like its attribute and closes a bracket, or at once with a `;` or `,`.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let indentation = |line: &str| line.len() - line.trim_start().len();
        // How deep the item is that is left out, and whether its first line was seen.
        let mut left_out: Option<(usize, bool)> = None;
        self.lines().filter(move |(_, line)| {
            let Some((depth, has_begun)) = left_out else {
                let is_test = line.trim() == "#[cfg(test)]";
                left_out = is_test.then(|| (indentation(line), false));
                return !is_test;
            };
            let text = line.trim_end();
            let is_at_depth = indentation(line) == depth;
            let is_attribute = !has_begun && text.trim_start().starts_with("#[");
            let ends = is_at_depth
                && !is_attribute
                && text.ends_with([';', ',', '}'])
                && (has_begun == text.trim_start().starts_with(['}', ')']));
            left_out = (!ends).then_some((depth, has_begun || !is_attribute));
            false
        })
    }

    fn has_extension(&self, extensions: &[&str]) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, extension)| extensions.contains(&extension))
    }
}

/// All broken rules, by file.
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<Vec<Violation>> {
    let (paths, sources) = tree(workspace)?;
    let mut violations = dependencies::check(&workspace.root, &workspace.packages);
    violations.extend(sources.iter().flat_map(purity::check));
    violations.extend(sources.iter().flat_map(kinds::check));
    violations.extend(rooms::check(&sources));
    violations.extend(sources.iter().flat_map(|source| text::check(source, &paths)));
    violations.sort_by(|a, b| a.place.cmp(&b.place));
    Ok(violations)
}

/// The paths of all files that git has or would add, and the text of those that are text.
fn tree(workspace: &Workspace) -> anyhow::Result<(Vec<String>, Vec<Source>)> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(&workspace.root);
    let output = git.output().context("cannot start git")?;
    ensure!(
        output.status.success(),
        "git ls-files failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let listing = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    let mut paths = Vec::new();
    let mut sources = Vec::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        // A file whose deletion is not yet committed is listed but does not exist.
        let Ok(bytes) = fs::read(workspace.root.join(path)) else { continue };
        paths.push(path.to_owned());
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source { path: path.to_owned(), text });
        }
    }
    Ok((paths, sources))
}
