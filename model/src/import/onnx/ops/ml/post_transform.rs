//! What becomes of scores at the end of an estimator.

use anyhow::{Result, bail, ensure};
use flotilla_program::{Binary, ReduceKind, Step, Unary, dim::Dim};
use flotilla_tensor::DType;

use crate::import::onnx::{facts::Var, wiring::Wiring};

/// The attribute `post_transform`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PostTransform {
    None,
    Softmax,
    Logistic,
    SoftmaxZero,
    Probit,
}

/// The second score of two classes of which only one has a score `s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Second {
    /// `1 - s`: scores are probabilities.
    Complement,
    /// `-s`.
    Opposite,
}

/// Scores nearer to 0 than this count as 0. Source: onnxruntime, `ml_common.h`, `ComputeSoftmaxZero`.
const ZERO: f32 = 1e-7;

/// The constant of the approximation of the inverse error function. Source: Winitzki, "A handy approximation for the error
/// function and its inverse".
const WINITZKI: f32 = 0.147;

impl PostTransform {
    pub(super) fn of(w: &Wiring<'_, '_>) -> Result<PostTransform> {
        Ok(match w.text("post_transform")?.unwrap_or("NONE") {
            "NONE" => PostTransform::None,
            "SOFTMAX" => PostTransform::Softmax,
            "LOGISTIC" => PostTransform::Logistic,
            "SOFTMAX_ZERO" => PostTransform::SoftmaxZero,
            "PROBIT" => PostTransform::Probit,
            other => bail!("post_transform {other:?} is not known"),
        })
    }

    /// The same of an attribute that is a number. Source: ONNX, "TreeEnsemble".
    pub(super) fn numbered(number: i64) -> Result<PostTransform> {
        Ok(match number {
            0 => PostTransform::None,
            1 => PostTransform::Softmax,
            2 => PostTransform::Logistic,
            3 => PostTransform::SoftmaxZero,
            4 => PostTransform::Probit,
            other => bail!("post_transform {other} is not known"),
        })
    }

    /// Scores `[rows, columns]`. A single column stays as it is, unless the transformation is PROBIT: onnxruntime applies the
    /// others to two columns and more.
    pub(super) fn apply(self, w: &mut Wiring<'_, '_>, scores: Var) -> Result<Var> {
        let is_single = w.dim(scores, 1) == Dim::Fixed(1);
        match self {
            PostTransform::Probit => probit(w, scores),
            _ if is_single => Ok(scores),
            PostTransform::None => Ok(scores),
            PostTransform::Softmax => w.softmax(scores, &[1]),
            PostTransform::Logistic => w.unary(Unary::Sigmoid, scores),
            PostTransform::SoftmaxZero => softmax_zero(w, scores),
        }
    }

    /// The scores `[rows, 2]` of two classes of which only the second one has a score, `[rows, 1]`.
    pub(super) fn apply_to_pair(
        self,
        w: &mut Wiring<'_, '_>,
        score: Var,
        second: Second,
    ) -> Result<Var> {
        ensure!(
            self != PostTransform::Probit,
            "post_transform \"PROBIT\" of one score for two classes is not defined"
        );
        let first = if self == PostTransform::Logistic || second == Second::Opposite {
            w.unary(Unary::Neg, score)?
        } else {
            let one = w.scalar(DType::F32, 1.0);
            w.sub(one, score)?
        };
        let both = w.concat(1, &[first, score])?;
        if self == PostTransform::Logistic { w.unary(Unary::Sigmoid, both) } else { Ok(both) }
    }
}

/// A softmax in which scores of 0 stay 0. Source: onnxruntime, `ml_common.h`, `ComputeSoftmaxZero`.
fn softmax_zero(w: &mut Wiring<'_, '_>, scores: Var) -> Result<Var> {
    let largest = w.reduce(ReduceKind::Max, scores, &[1], true)?;
    let is_score = vec![
        Step::Input(0),
        Step::Unary(Unary::Abs, 0),
        Step::Float(ZERO),
        Step::Binary(Binary::Gt, 1, 2),
    ];
    let is_score = w.expr(is_score, &[scores], DType::Bool)?;
    let shifted = w.sub(scores, largest)?;
    let power = w.unary(Unary::Exp, shifted)?;
    let nothing = w.scalar(DType::F32, 0.0);
    let counted = w.select(is_score, power, nothing)?;
    let total = w.reduce(ReduceKind::Sum, counted, &[1], true)?;
    let factor = w.unary(Unary::Neg, largest)?;
    let factor = w.unary(Unary::Exp, factor)?;
    let small = w.mul(scores, factor)?;
    let numerator = w.select(is_score, power, small)?;
    w.div(numerator, total)
}

/// `sqrt(2) * erfinv(2 * x - 1)`, by Winitzki's approximation, which onnxruntime takes.
fn probit(w: &mut Wiring<'_, '_>, x: Var) -> Result<Var> {
    let steps = vec![
        Step::Input(0),
        Step::Float(2.0),
        Step::Binary(Binary::Mul, 0, 1),
        Step::Float(1.0),
        // 4: the argument of the inverse.
        Step::Binary(Binary::Sub, 2, 3),
        Step::Binary(Binary::Sub, 3, 4),
        Step::Binary(Binary::Add, 3, 4),
        Step::Binary(Binary::Mul, 5, 6),
        // 8: ln(1 - argument^2).
        Step::Unary(Unary::Ln, 7),
        Step::Float(0.5),
        Step::Binary(Binary::Mul, 8, 9),
        Step::Float(2.0 / (std::f32::consts::PI * WINITZKI)),
        Step::Binary(Binary::Add, 10, 11),
        Step::Float(1.0 / WINITZKI),
        Step::Binary(Binary::Mul, 8, 13),
        Step::Binary(Binary::Mul, 12, 12),
        Step::Binary(Binary::Sub, 15, 14),
        Step::Unary(Unary::Sqrt, 16),
        Step::Binary(Binary::Sub, 17, 12),
        Step::Unary(Unary::Sqrt, 18),
        Step::Float(std::f32::consts::SQRT_2),
        Step::Binary(Binary::Mul, 19, 20),
        Step::Unary(Unary::Neg, 21),
        Step::Float(0.0),
        Step::Binary(Binary::Lt, 4, 23),
        Step::Select(24, 22, 21),
    ];
    w.expr(steps, &[x], DType::F32)
}
