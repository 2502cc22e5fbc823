//! Probabilities of classes from those of pairs of classes. Source: Wu, Lin and Weng, "Probability Estimates for Multi-class
//! Classification by Pairwise Coupling", algorithm 2, with the limits that LIBSVM and onnxruntime have.

use anyhow::Result;
use flotilla_program::{Binary, ReduceKind, Step, Unary, dim::Dim};
use flotilla_tensor::DType;

use super::shifted;
use crate::import::onnx::{
    constant::Constant,
    facts::Var,
    ops::control::{Turn, Turns, turns},
    wiring::Wiring,
};

/// Probabilities of pairs are kept this far from 0 and 1.
const MARGIN: f64 = 1e-7;

/// Most improvements of a row.
const TURNS_MAX: i64 = 100;

/// Improvements for two classes: the first one has the result already.
const TURNS_OF_TWO: usize = 3;

/// A row is done when no error is as large as this divided by the number of classes.
const ERROR_MAX: f64 = 0.005;

/// What does not change between improvements.
struct Coupled {
    /// `Q` of the paper: `[rows, classes, classes]`.
    q: Var,
    /// Its rows, one for each class: `[rows, classes]`.
    lines: Vec<Var>,
    /// Its diagonal: `[rows, 1]` each.
    diagonal: Vec<Var>,
    rows: Dim,
    classes: usize,
}

/// Probabilities `[rows, classes]` of scores `[rows, pairs]`. A pair's probability is `sigmoid(-(slope * score + shift))`.
pub(super) fn probabilities(
    w: &mut Wiring<'_, '_>,
    scores: Var,
    pairs: &[(usize, usize)],
    classes: usize,
    (slopes, shifts): (&[f32], &[f32]),
    rows: &Dim,
) -> Result<Var> {
    let slopes: Vec<f32> = slopes.iter().map(|slope| -slope).collect();
    let shifts: Vec<f32> = shifts.iter().map(|shift| -shift).collect();
    let slopes = w.known(Constant::f32s(&[1, slopes.len()], &slopes));
    let wins = w.mul(scores, slopes)?;
    let wins = shifted(w, wins, &shifts)?;
    let wins = w.unary(Unary::Sigmoid, wins)?;
    let (low, high) = (w.scalar(DType::F32, MARGIN), w.scalar(DType::F32, 1.0 - MARGIN));
    let wins = w.max(wins, low)?;
    let wins = w.min(wins, high)?;
    let coupled = coupled(w, wins, pairs, classes, rows)?;
    let equal = w.scalar(DType::F32, f64::from(1.0 / classes as f32));
    let p = w.broadcast_to(equal, &[rows.clone(), Dim::Fixed(classes as i64)])?;
    let yes = w.known(Constant::bools(&[], &[true]));
    let active = w.broadcast_to(yes, &[rows.clone(), Dim::Fixed(1)])?;
    if classes == 2 {
        let (mut p, mut active) = (p, active);
        for _ in 0..TURNS_OF_TWO {
            (p, active) = improved(w, &coupled, p, active)?;
        }
        return Ok(p);
    }
    let most = w.integer(TURNS_MAX);
    let limits = Turns { most: Some(most), begins: Some(yes), collected: 0 };
    let step = |w: &mut Wiring<'_, '_>, _: Var, carried: &[Var]| {
        let (p, active) = improved(w, &coupled, carried[0], carried[1])?;
        let flags = w.cast(active, DType::I32)?;
        let any = w.reduce(ReduceKind::Max, flags, &[0, 1], false)?;
        let goes_on = w.cast(any, DType::Bool)?;
        Ok(Turn { goes_on: Some(goes_on), next: vec![p, active], collected: Vec::new() })
    };
    let (carried, _) = turns(w, &limits, vec![p, active], &step)?;
    Ok(carried[0])
}

/// `Q` of the wins of pairs: `Q[i][i]` is the sum of the squares of what the others win against class `i`, `Q[i][j]` is minus
/// the product of the two probabilities of the pair.
fn coupled(
    w: &mut Wiring<'_, '_>,
    wins: Var,
    pairs: &[(usize, usize)],
    classes: usize,
    rows: &Dim,
) -> Result<Coupled> {
    let zero = w.scalar(DType::F32, 0.0);
    let one = w.scalar(DType::F32, 1.0);
    let nothing = w.broadcast_to(zero, &[rows.clone(), Dim::Fixed(1)])?;
    // What class `i` loses to class `j`, then 0: columns `wins`, `1 - wins`, 0.
    let others = w.sub(one, wins)?;
    let columns = w.concat(1, &[wins, others, nothing])?;
    let mut lost = vec![2 * pairs.len() as i64; classes * classes];
    let mut won = lost.clone();
    for (pair, &(a, b)) in pairs.iter().enumerate() {
        let (win, loss) = (pair as i64, (pairs.len() + pair) as i64);
        (won[a * classes + b], lost[a * classes + b]) = (win, loss);
        (won[b * classes + a], lost[b * classes + a]) = (loss, win);
    }
    let size = Dim::Fixed(classes as i64);
    let square = [rows.clone(), size.clone(), size.clone()];
    let picked = |w: &mut Wiring<'_, '_>, places: &[i64]| -> Result<Var> {
        let places = w.known(Constant::i64s(&[places.len()], places));
        let picked = w.gather(1, columns, places)?;
        w.reshape(picked, &square)
    };
    let (won, lost) = (picked(w, &won)?, picked(w, &lost)?);
    let product = w.mul(won, lost)?;
    let squares = w.unary(Unary::Square, lost)?;
    let sums = w.reduce(ReduceKind::Sum, squares, &[2], true)?;
    let unit: Vec<bool> = (0..classes * classes).map(|at| at / classes == at % classes).collect();
    let unit = w.known(Constant::bools(&[1, classes, classes], &unit));
    let opposite = w.unary(Unary::Neg, product)?;
    let q = w.select(unit, sums, opposite)?;
    let (mut lines, mut diagonal) = (Vec::new(), Vec::new());
    for class in 0..classes as i64 {
        let line = w.slice(q, 1, class, class + 1)?;
        lines.push(w.reshape(line, &[rows.clone(), size.clone()])?);
        let own = w.slice(sums, 1, class, class + 1)?;
        diagonal.push(w.reshape(own, &[rows.clone(), Dim::Fixed(1)])?);
    }
    Ok(Coupled { q, lines, diagonal, rows: rows.clone(), classes })
}

/// One improvement of the probabilities of the rows that are not done, and which rows are still not.
fn improved(
    w: &mut Wiring<'_, '_>,
    coupled: &Coupled,
    start: Var,
    active: Var,
) -> Result<(Var, Var)> {
    let Coupled { q, lines, diagonal, rows, classes } = coupled;
    let size = Dim::Fixed(*classes as i64);
    let wide = w.reshape(start, &[rows.clone(), Dim::Fixed(1), size.clone()])?;
    let products = w.mul(*q, wide)?;
    let mut qp = w.reduce(ReduceKind::Sum, products, &[2], false)?;
    let shares = w.mul(start, qp)?;
    let mut pqp = w.reduce(ReduceKind::Sum, shares, &[1], true)?;
    let errors = w.sub(qp, pqp)?;
    let errors = w.unary(Unary::Abs, errors)?;
    let error = w.reduce(ReduceKind::Max, errors, &[1], true)?;
    let limit = w.scalar(DType::F32, f64::from(ERROR_MAX as f32 / *classes as f32));
    let is_done = w.binary(Binary::Lt, error, limit)?;
    let goes_on = w.unary(Unary::Not, is_done)?;
    let active = w.binary(Binary::And, active, goes_on)?;
    let mut p = start;
    for class in 0..*classes {
        let own = w.slice(qp, 1, class as i64, class as i64 + 1)?;
        // (pqp - qp[i]) / q[i][i].
        let steps = vec![
            Step::Input(0),
            Step::Input(1),
            Step::Input(2),
            Step::Binary(Binary::Sub, 0, 1),
            Step::Binary(Binary::Div, 3, 2),
        ];
        let change = w.expr(steps, &[pqp, own, diagonal[class]], DType::F32)?;
        // (pqp + change * (change * q[i][i] + 2 * qp[i])) / (1 + change) / (1 + change).
        let steps = vec![
            Step::Input(0),
            Step::Input(1),
            Step::Input(2),
            Step::Input(3),
            Step::Binary(Binary::Mul, 3, 2),
            Step::Binary(Binary::Add, 1, 1),
            Step::Binary(Binary::Add, 4, 5),
            Step::Binary(Binary::Mul, 3, 6),
            Step::Binary(Binary::Add, 0, 7),
            Step::Float(1.0),
            Step::Binary(Binary::Add, 9, 3),
            Step::Binary(Binary::Div, 8, 10),
            Step::Binary(Binary::Div, 11, 10),
        ];
        pqp = w.expr(steps, &[pqp, own, diagonal[class], change], DType::F32)?;
        // (x + change * line) / (1 + change): the line of `Q` for `qp`, that of the unit matrix for `p`.
        let moved = vec![
            Step::Input(0),
            Step::Input(1),
            Step::Input(2),
            Step::Binary(Binary::Mul, 1, 2),
            Step::Binary(Binary::Add, 0, 3),
            Step::Float(1.0),
            Step::Binary(Binary::Add, 5, 1),
            Step::Binary(Binary::Div, 4, 6),
        ];
        qp = w.expr(moved.clone(), &[qp, change, lines[class]], DType::F32)?;
        let unit: Vec<f32> = (0..*classes).map(|at| f32::from(u8::from(at == class))).collect();
        let unit = w.known(Constant::f32s(&[1, *classes], &unit));
        p = w.expr(moved, &[p, change, unit], DType::F32)?;
    }
    Ok((w.select(active, p, start)?, active))
}
