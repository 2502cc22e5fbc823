//! What the tasks say. Words and progress go to stderr, results to stdout.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

/// How often a bar is redrawn while nothing is reported.
const REDRAW: Duration = Duration::from_millis(120);

/// Where the tasks speak.
#[derive(Debug)]
pub(crate) struct Console;

impl Console {
    pub(crate) fn new() -> Self {
        Self
    }

    /// One line for a person.
    pub(crate) fn say(&self, line: impl AsRef<str>) {
        eprintln!("{}", line.as_ref());
    }

    /// One line of result.
    pub(crate) fn result(&self, line: &str) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("cannot write to stdout")
    }

    /// A bar in percent; it draws nothing where stderr is not a terminal, and leaves nothing behind.
    pub(crate) fn percent(&self, what: impl Into<String>) -> ProgressBar {
        let style = ProgressStyle::with_template("{msg:<40!} {bar:30} {percent:>3}% {elapsed}");
        self.bar(ProgressBar::new(100), style, what)
    }

    /// A bar for work of unknown length.
    pub(crate) fn spinner(&self, what: impl Into<String>) -> ProgressBar {
        self.bar(
            ProgressBar::new_spinner(),
            ProgressStyle::with_template("{spinner} {msg} {elapsed}"),
            what,
        )
    }

    fn bar(
        &self,
        bar: ProgressBar,
        style: Result<ProgressStyle, indicatif::style::TemplateError>,
        what: impl Into<String>,
    ) -> ProgressBar {
        // A template that does not parse costs the looks, not the work.
        let bar = match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        bar.set_message(what.into());
        bar.enable_steady_tick(REDRAW);
        bar
    }
}
