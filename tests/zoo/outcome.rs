//! How a model ended on a runtime.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest reason that is kept.
const REASON_CHARS_MAX: usize = 600;

/// Right or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Every number of every data set is right.
    Pass,
    /// The model is refused before anything runs.
    Refused,
    /// A number is wrong, or was never computed.
    Fail,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Pass => "pass",
            Status::Refused => "refused",
            Status::Fail => "fail",
        })
    }
}

impl FromStr for Status {
    type Err = ();

    fn from_str(text: &str) -> Result<Status, ()> {
        let all = [Status::Pass, Status::Refused, Status::Fail];
        all.into_iter().find(|status| status.to_string() == text).ok_or(())
    }
}

/// How a model ended, over all of its data sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) status: Status,
    /// Why it is not right, in one line.
    pub(crate) reason: Option<String>,
    /// The browser and its version.
    pub(crate) browser: Option<String>,
    /// What it ran on, as the browser names it.
    pub(crate) adapter: Option<String>,
    /// Largest absolute error of all data sets; `None` if it did not run or the error is not finite.
    pub(crate) max_abs_err: Option<f64>,
    /// Largest absolute error as a part of its output's largest number.
    pub(crate) max_rel_err: Option<f64>,
    /// Time for one data set before the first runtime started: reading, importing, and running a second reference.
    pub(crate) import_ms: Option<f64>,
    /// The load, with the first data set.
    pub(crate) load_ms: Option<f64>,
    /// The first run after it.
    pub(crate) first_ms: Option<f64>,
    /// The run after that.
    pub(crate) run_ms: Option<f64>,
}

impl Outcome {
    /// Not right, without any other information.
    pub(crate) fn broken(status: Status, reason: &str) -> Outcome {
        Outcome {
            status,
            reason: Some(one_line(reason, REASON_CHARS_MAX)),
            browser: None,
            adapter: None,
            max_abs_err: None,
            max_rel_err: None,
            import_ms: None,
            load_ms: None,
            first_ms: None,
            run_ms: None,
        }
    }

    /// From a row of `flotilla check`; the error is why the browser is not on this machine.
    pub(crate) fn of_row(row: &Value) -> Result<Outcome, String> {
        let text = |name: &str| row[name].as_str().map(str::to_owned);
        let number = |path: &str| row.pointer(path).and_then(Value::as_f64);
        let reason = text("reason").map(|reason| one_line(&reason, REASON_CHARS_MAX));
        let status = match row["status"].as_str() {
            Some("skipped") => return Err(reason.unwrap_or_default()),
            Some(status) => status.parse().unwrap_or(Status::Fail),
            None => Status::Fail,
        };
        // If nothing was started, nothing is known of it.
        let browser = text("browser_version")
            .map(|version| format!("{} {version}", text("browser").unwrap_or_default()));
        Ok(Outcome {
            status,
            reason,
            browser,
            adapter: text("adapter"),
            max_abs_err: number("/max_abs_err"),
            max_rel_err: number("/max_rel_err"),
            import_ms: None,
            load_ms: number("/load_ms"),
            first_ms: number("/latency_ms/first"),
            run_ms: number("/latency_ms/p50"),
        })
    }

    /// Combined with another data set's outcome: right only if both are. Times are those of the first.
    pub(crate) fn and(self, number: usize, next: Outcome) -> Outcome {
        let max = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (one, other) => one.or(other),
        };
        let (max_abs_err, max_rel_err) =
            (max(self.max_abs_err, next.max_abs_err), max(self.max_rel_err, next.max_rel_err));
        let reason = match (self.reason, next.reason) {
            // A refusal with one data set mostly means a refusal with all, for the same reason.
            (None, Some(reason)) => Some(format!("data set {number}: {reason}")),
            (reason, _) => reason,
        };
        Outcome {
            status: self.status.max(next.status),
            reason,
            browser: self.browser.or(next.browser),
            adapter: self.adapter.or(next.adapter),
            max_abs_err,
            max_rel_err,
            ..self
        }
    }
}

/// Without line breaks, and not longer than this.
pub(crate) fn one_line(text: &str, chars_max: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}..", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_read() {
        let row = json!({
            "status": "fail", "reason": "output a[0]\n is 1", "browser": "chrome", "browser_version": "150",
            "adapter": null, "max_abs_err": 0.5, "max_rel_err": null, "load_ms": 3.0,
            "latency_ms": { "first": 2.0, "p50": 1.0, "p95": 1.0 },
        });
        let outcome = Outcome::of_row(&row).expect("an outcome");
        assert_eq!(
            (outcome.status, outcome.reason.as_deref()),
            (Status::Fail, Some("output a[0] is 1"))
        );
        assert_eq!(outcome.browser.as_deref(), Some("chrome 150"));
        assert_eq!((outcome.max_abs_err, outcome.run_ms), (Some(0.5), Some(1.0)));
        let missing = Outcome::of_row(&json!({ "status": "skipped", "reason": "no firefox" }));
        assert_eq!(missing, Err("no firefox".to_owned()));
    }

    #[test]
    fn a_model_is_right_if_every_data_set_is() {
        let row = |status: &str, error: f64| {
            let reason = (status != "pass").then_some("broken");
            let row = json!({ "status": status, "reason": reason, "max_abs_err": error });
            Outcome::of_row(&row).expect("an outcome")
        };
        let both = row("pass", 1.0).and(1, row("fail", 2.0));
        assert_eq!((both.status, both.max_abs_err), (Status::Fail, Some(2.0)));
        assert_eq!(both.reason.as_deref(), Some("data set 1: broken"));
        let both = row("refused", 1.0).and(1, row("pass", 0.0));
        assert_eq!((both.status, both.reason.as_deref()), (Status::Refused, Some("broken")));
        assert_eq!(row("refused", 0.0).and(1, row("fail", 0.0)).status, Status::Fail);
    }

    #[test]
    fn reasons_are_cut_at_whole_characters() {
        assert_eq!(one_line("a \n  b", 9), "a b");
        assert_eq!(one_line("ääää", 2), "ää..");
    }
}
