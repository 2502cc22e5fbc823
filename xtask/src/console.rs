//! Output of the tasks. Messages and progress go to stderr, results to stdout.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

/// How often a bar is redrawn while nothing is reported.
const REDRAW: Duration = Duration::from_millis(120);

/// Output of the tasks.
#[derive(Debug)]
pub(crate) struct Console;

impl Console {
    pub(crate) fn new() -> Self {
        Self
    }

    /// Prints one line for people.
    pub(crate) fn say(&self, line: impl AsRef<str>) {
        eprintln!("{}", line.as_ref());
    }

    /// Prints one line of the result.
    pub(crate) fn result(&self, line: &str) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("cannot write to stdout")
    }

    /// A bar in percent; it draws nothing if stderr is not a terminal, and is erased at the end.
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
        // If the template does not parse, only the look of the bar differs.
        let bar = match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        bar.set_message(what.into());
        bar.enable_steady_tick(REDRAW);
        bar
    }
}
