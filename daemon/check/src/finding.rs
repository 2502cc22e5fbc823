//! Two references that do not agree on a model: one of them is wrong, and it is not known which.

use flotilla_reference::compare::{CompareError, Difference, Divergence};
use serde::Serialize;

/// A disagreement. It fails no row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The reference that rows are compared with, and the second one, such as `onnxruntime 1.32.0`.
    pub references: [String; 2],
    /// What differs and by how much.
    pub reason: String,
    /// As in a row.
    pub max_abs_err: Option<f64>,
    /// As in a row.
    pub max_rel_err: Option<f64>,
    /// As in a row.
    pub rms_err: Option<f64>,
    /// The first element that is not the same.
    pub first_divergence: Option<Divergence>,
}

impl Finding {
    /// Compares the second reference with the first; a finding if they do not agree.
    pub(crate) fn of(
        references: [String; 2],
        compared: Result<Difference, CompareError>,
    ) -> Option<Finding> {
        let finite = |number: f64| Some(number).filter(|number| number.is_finite());
        match compared {
            Ok(difference) => difference.wrong.as_ref().map(|wrong| Finding {
                references,
                reason: wrong.to_string(),
                max_abs_err: finite(difference.max_abs),
                max_rel_err: finite(difference.max_rel),
                rms_err: finite(difference.rms_rel),
                first_divergence: wrong.element().cloned(),
            }),
            Err(error) => Some(Finding {
                references,
                reason: error.to_string(),
                max_abs_err: None,
                max_rel_err: None,
                rms_err: None,
                first_divergence: None,
            }),
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, second] = &self.references;
        write!(f, "{second} does not agree with {first}: {}", self.reason)
    }
}

#[cfg(test)]
impl Finding {
    pub(crate) fn example() -> Finding {
        let references = ["onnxruntime 1.32.0".to_owned(), "tract 0.23.9".to_owned()];
        let wrong = flotilla_reference::compare::Wrong::Whole {
            output: "y".to_owned(),
            arithmetic: flotilla_reference::Arithmetic::F32,
            rms_rel: 0.1,
            allowed: 5e-5,
        };
        let difference = Difference { rms_rel: 0.1, wrong: Some(wrong), ..Difference::default() };
        Finding::of(references, Ok(difference)).unwrap_or_else(|| unreachable!("it is wrong"))
    }
}
