//! Progress bars on standard error; none if that is not a terminal.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    sync::LazyLock,
    time::Duration,
};

use flotilla::pool::Pool;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// All bars, so that log lines can be written above them.
static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));

/// Writer for log lines: bars are lifted while a line is written.
pub(crate) fn stderr() -> impl Write {
    LiftedStderr
}

struct LiftedStderr;

impl Write for LiftedStderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        BARS.suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// A bar of bytes.
pub(crate) fn bytes(what: &str, total: u64) -> ProgressBar {
    let bar = BARS.add(ProgressBar::new(total));
    if let Ok(style) =
        ProgressStyle::with_template("{msg:24} {bar:32} {bytes}/{total_bytes} {bytes_per_sec}")
    {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}

/// A line whose text changes.
pub(crate) fn line() -> ProgressBar {
    let bar = BARS.add(ProgressBar::new_spinner());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Shows that something is under way until it is done.
pub(crate) async fn spinner<T>(what: &str, work: impl Future<Output = T>) -> T {
    let bar = BARS.add(ProgressBar::new_spinner());
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    let done = work.await;
    bar.finish_and_clear();
    done
}

/// Bars of all loads of a pool, until it ends.
pub(crate) async fn loads(pool: Pool) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let mut bars: BTreeMap<(u64, u32), ProgressBar> = BTreeMap::new();
    let watch = pool.wait_until(|view| {
        let mut seen = Vec::new();
        for &(browser, model, done, total) in &view.loads {
            let key = (browser.0, model.0);
            seen.push(key);
            let browser_name = view
                .browsers
                .iter()
                .find(|view| view.browser == browser)
                .and_then(|view| Some(view.facts.as_ref()?.name.as_str()))
                .unwrap_or("browser");
            let catalog = pool.catalog();
            let name = catalog.by_id(model).map_or("model", |model| &model.name);
            let bar = bars
                .entry(key)
                .or_insert_with(|| bytes(&format!("{browser_name}: {name}"), total.max(1)));
            bar.set_length(total.max(1));
            bar.set_position(done);
        }
        bars.retain(|key, bar| {
            let keep = seen.contains(key);
            if !keep {
                bar.finish_and_clear();
            }
            keep
        });
        // Later loads replace browsers that failed; they only have a log line.
        view.loads.is_empty() && view.status.models.iter().all(|model| model.ready > 0)
    });
    // It ends with the pool at the latest.
    let _ = watch.await;
}
