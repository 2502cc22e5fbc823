//! Support vector machines.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{Binary, ReduceKind, Step, Unary, dim::Dim};
use flotilla_tensor::DType;

use super::{
    Labels, coupling, largest,
    linear::above,
    post_transform::{PostTransform, Second},
    rows, shifted, transposed, weighted,
};
use crate::import::onnx::{
    constant::Constant,
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] =
    &[("SVMClassifier", svm_classifier), ("SVMRegressor", svm_regressor)];

/// Most elements of the table that combines the kernels of all vectors into the scores of all pairs of classes.
const TABLE_MAX: usize = 1 << 26;

/// Most differences of a row and the support vectors that are always computed one by one.
const DIFFERENCES_MAX: usize = 1 << 13;

/// Largest exponent error of a kernel whose distances are computed as products of matrices.
const EXPONENT_ERROR_MAX: f64 = 1e-5;

/// `k(x, v)` of a row and a support vector.
#[derive(Clone, Copy, Debug)]
enum Kernel {
    Linear,
    /// `(gamma * x . v + offset) ^ degree`.
    Polynomial {
        gamma: f32,
        offset: f32,
        degree: f32,
    },
    /// `exp(-gamma * |x - v|^2)`.
    Radial {
        gamma: f32,
    },
    /// `tanh(gamma * x . v + offset)`.
    Sigmoid {
        gamma: f32,
        offset: f32,
    },
}

impl Kernel {
    fn of(w: &Wiring<'_, '_>) -> Result<Kernel> {
        let parameters = w.floats("kernel_params")?.unwrap_or_default();
        let (gamma, offset, degree) = match parameters.as_slice() {
            [] => (0.0, 0.0, 0.0),
            &[gamma, offset, degree] => (gamma, offset, degree),
            other => bail!("{} kernel_params, three are needed", other.len()),
        };
        Ok(match w.text("kernel_type")?.unwrap_or("LINEAR") {
            "LINEAR" => Kernel::Linear,
            "POLY" => Kernel::Polynomial { gamma, offset, degree },
            "RBF" => Kernel::Radial { gamma },
            "SIGMOID" => Kernel::Sigmoid { gamma, offset },
            other => bail!("kernel_type {other:?} is not known"),
        })
    }

    /// The kernels of rows `[rows, features]` and vectors `[count, features]`: `[rows, count]`.
    fn apply(self, w: &mut Wiring<'_, '_>, x: Var, vectors: &[f32], count: usize) -> Result<Var> {
        if let Kernel::Radial { gamma } = self {
            return radial(w, x, vectors, count, gamma);
        }
        let product = weighted(w, x, vectors, count, "support_vectors")?;
        let affine = |gamma: f32, offset: f32| {
            vec![
                Step::Input(0),
                Step::Float(gamma),
                Step::Binary(Binary::Mul, 0, 1),
                Step::Float(offset),
                Step::Binary(Binary::Add, 2, 3),
            ]
        };
        let steps = match self {
            Kernel::Linear | Kernel::Radial { .. } => return Ok(product),
            Kernel::Sigmoid { gamma, offset } => {
                let mut steps = affine(gamma, offset);
                steps.push(Step::Unary(Unary::Tanh, 4));
                steps
            }
            Kernel::Polynomial { gamma, offset, degree } => {
                let mut steps = affine(gamma, offset);
                if degree == 2.0 {
                    steps.push(Step::Binary(Binary::Mul, 4, 4));
                } else if degree == 3.0 {
                    steps
                        .extend([Step::Binary(Binary::Mul, 4, 4), Step::Binary(Binary::Mul, 4, 5)]);
                } else {
                    steps.extend([Step::Float(degree), Step::Binary(Binary::Pow, 4, 5)]);
                }
                steps
            }
        };
        w.expr(steps, &[product], DType::F32)
    }
}

/// `exp(-gamma * |x - v|^2)`. A distance is `|x|^2 + |v|^2 - 2 x . v`, with the mean of the vectors subtracted from both; the
/// rounding of these numbers, which may be larger than the distance, has to be too small to change the result. Otherwise, and
/// for small tables, the differences are computed one by one.
fn radial(
    w: &mut Wiring<'_, '_>,
    x: Var,
    vectors: &[f32],
    count: usize,
    gamma: f32,
) -> Result<Var> {
    let columns = vectors.len().checked_div(count).unwrap_or(0);
    ensure!(
        columns > 0 && columns * count == vectors.len(),
        "{} support_vectors for {count} vectors",
        vectors.len()
    );
    let given = w.dim(x, 1);
    let what = "the features and those of its support_vectors";
    w.same(what, &given, &Dim::Fixed(columns as i64))?;
    let mut mean = vec![0.0f64; columns];
    for vector in vectors.chunks_exact(columns) {
        mean.iter_mut().zip(vector).for_each(|(mean, &x)| *mean += f64::from(x) / count as f64);
    }
    let mean: Vec<f32> = mean.into_iter().map(|x| x as f32).collect();
    let centred: Vec<f32> = vectors
        .chunks_exact(columns)
        .flat_map(|vector| vector.iter().zip(&mean).map(|(x, mean)| x - mean))
        .collect();
    let squares: Vec<f64> = centred
        .chunks_exact(columns)
        .map(|vector| vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum())
        .collect();
    let farthest = squares.iter().copied().fold(0.0, f64::max);
    let error = farthest * f64::from(gamma).abs() * f64::from(f32::EPSILON);
    let distance = if vectors.len() > DIFFERENCES_MAX && error <= EXPONENT_ERROR_MAX {
        let mean: Vec<f32> = mean.iter().map(|x| -x).collect();
        let x = shifted(w, x, &mean)?;
        let product = weighted(w, x, &centred, count, "support_vectors")?;
        let square = w.unary(Unary::Square, x)?;
        let square = w.reduce(ReduceKind::Sum, square, &[1], true)?;
        let squares: Vec<f32> = squares.into_iter().map(|x| x as f32).collect();
        let squares = w.known(Constant::f32s(&[1, count], &squares));
        let steps = vec![
            Step::Input(0),
            Step::Input(1),
            Step::Input(2),
            Step::Binary(Binary::Add, 0, 1),
            Step::Binary(Binary::Add, 2, 2),
            Step::Binary(Binary::Sub, 3, 4),
            Step::Unary(Unary::Relu, 5),
        ];
        w.expr(steps, &[square, squares, product], DType::F32)?
    } else {
        let (rows, columns) = (w.dim(x, 0), columns as i64);
        let x = w.reshape(x, &[rows, Dim::Fixed(1), Dim::Fixed(columns)])?;
        let vectors = w.known(Constant::f32s(&[1, count, columns as usize], vectors));
        let difference = w.sub(x, vectors)?;
        let square = w.unary(Unary::Square, difference)?;
        w.reduce(ReduceKind::Sum, square, &[2], false)?
    };
    let steps = vec![
        Step::Input(0),
        Step::Float(-gamma),
        Step::Binary(Binary::Mul, 0, 1),
        Step::Unary(Unary::Exp, 2),
    ];
    w.expr(steps, &[distance], DType::F32)
}

fn svm_regressor(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, _, _) = rows(w)?;
    let kernel = Kernel::of(w)?;
    let vectors = w.floats("support_vectors")?.unwrap_or_default();
    let coefficients = w.floats("coefficients")?.context("coefficients are missing")?;
    let rho = w.floats("rho")?.unwrap_or_default();
    let &[rho] = rho.as_slice() else { bail!("{} numbers in rho, one is needed", rho.len()) };
    // The only transformation of one column that onnxruntime computes anywhere is PROBIT, and it does not compute it here.
    ensure!(
        PostTransform::of(w)? != PostTransform::Probit,
        "post_transform \"PROBIT\" is not defined for it"
    );
    let count = w.int("n_supports")?.unwrap_or(0);
    let count = usize::try_from(count).with_context(|| format!("{count} support vectors"))?;
    let y = if count > 0 {
        let kernels = kernel.apply(w, x, &vectors, count)?;
        weighted(w, kernels, &coefficients, 1, "coefficients")?
    } else {
        weighted(w, x, &coefficients, 1, "coefficients")?
    };
    let y = shifted(w, y, &[rho])?;
    if !w.flag("one_class")? {
        return Ok(vec![y]);
    }
    let steps = vec![
        Step::Input(0),
        Step::Float(0.0),
        Step::Binary(Binary::Gt, 0, 1),
        Step::Float(1.0),
        Step::Float(-1.0),
        Step::Select(2, 3, 4),
    ];
    Ok(vec![w.expr(steps, &[y], DType::F32)?])
}

fn svm_classifier(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let per_class = w.ints("vectors_per_class")?.unwrap_or_default();
    let per_class = per_class.into_iter().map(|count| {
        usize::try_from(count).with_context(|| format!("a class of {count} support vectors"))
    });
    let per_class: Vec<usize> = per_class.collect::<Result<_>>()?;
    let total = per_class.iter().try_fold(0usize, |sum, &count| sum.checked_add(count));
    match total.context("vectors_per_class are too many")? {
        0 => linear_machine(w),
        total => pairwise_machine(w, &per_class, total),
    }
}

/// A score for each class, without support vectors.
fn linear_machine(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, count, _) = rows(w)?;
    let labels = Labels::of(w, "classlabels_ints")?;
    let coefficients = w.floats("coefficients")?.context("coefficients are missing")?;
    let rho = w.floats("rho")?.unwrap_or_default();
    let &shift = rho.first().context("rho is missing")?;
    ensure!(rho.iter().all(|&own| own == shift), "the classes have several numbers in rho");
    let transform = PostTransform::of(w)?;
    let has_probabilities = w.floats("prob_a")?.is_some_and(|given| !given.is_empty());
    ensure!(labels.count() > 1, "a classifier of one class");
    let scores = weighted(w, x, &coefficients, labels.count(), "coefficients")?;
    let shift = w.scalar(DType::F32, f64::from(shift));
    let scores = w.add(scores, shift)?;
    let mut chosen = largest(w, scores)?;
    if labels.count() == 2 && !has_probabilities {
        // onnxruntime takes the second class wherever the larger score is above a limit.
        let positive = coefficients.iter().all(|&weight| weight >= 0.0);
        let most = w.reduce(ReduceKind::Max, scores, &[1], true)?;
        // At or above 0.5 is above the number before it.
        let limit = if positive { f64::from(0.5f32.next_down()) } else { 0.0 };
        let second = above(w, most, limit, &count)?;
        chosen = w.max(chosen, second)?;
    }
    let label = labels.at(w, chosen)?;
    Ok(vec![label, transform.apply(w, scores)?])
}

/// A score for each pair of classes, from the support vectors of both. The class that wins most pairs is the answer.
fn pairwise_machine(w: &mut Wiring<'_, '_>, per_class: &[usize], total: usize) -> Result<Vec<Var>> {
    let (x, rows, _) = rows(w)?;
    let labels = Labels::of(w, "classlabels_ints")?;
    let kernel = Kernel::of(w)?;
    let transform = PostTransform::of(w)?;
    let list = |name: &str| -> Result<Vec<f32>> { Ok(w.floats(name)?.unwrap_or_default()) };
    let (vectors, coefficients) = (list("support_vectors")?, list("coefficients")?);
    let (rho, slopes, shifts) = (list("rho")?, list("prob_a")?, list("prob_b")?);
    let classes = per_class.len();
    ensure!(classes > 1, "a classifier of one class");
    ensure!(labels.count() == classes, "{} labels for {classes} classes", labels.count());
    let pairs: Vec<(usize, usize)> = match classes.checked_mul(classes - 1).map(|pairs| pairs / 2) {
        Some(count) if count == rho.len() => {
            let pairs = (0..classes).flat_map(|a| (a + 1..classes).map(move |b| (a, b)));
            pairs.collect()
        }
        _ => bail!("{} numbers in rho for the pairs of {classes} classes", rho.len()),
    };
    ensure!(
        (classes - 1).checked_mul(total) == Some(coefficients.len()),
        "{} coefficients for {total} support vectors of {classes} classes",
        coefficients.len()
    );
    let has_probabilities = !slopes.is_empty() || !shifts.is_empty();
    ensure!(
        !has_probabilities || (slopes.len() == pairs.len() && shifts.len() == pairs.len()),
        "{} numbers in prob_a and {} in prob_b for {} pairs of classes",
        slopes.len(),
        shifts.len(),
        pairs.len()
    );
    let elements = total.checked_mul(pairs.len());
    ensure!(
        elements.is_some_and(|elements| elements <= TABLE_MAX),
        "{total} support vectors in {} pairs of classes, the limit is {TABLE_MAX} numbers",
        pairs.len()
    );
    let kernels = kernel.apply(w, x, &vectors, total)?;
    let starts: Vec<usize> = per_class
        .iter()
        .scan(0, |next, &count| Some(std::mem::replace(next, *next + count)))
        .collect();
    // A class has coefficients for each other class, in the order of the other classes.
    let mut table = vec![0.0f32; total * pairs.len()];
    for (pair, &(a, b)) in pairs.iter().enumerate() {
        for vector in starts[a]..starts[a] + per_class[a] {
            table[pair * total + vector] = coefficients[(b - 1) * total + vector];
        }
        for vector in starts[b]..starts[b] + per_class[b] {
            table[pair * total + vector] = coefficients[a * total + vector];
        }
    }
    let scores = weighted(w, kernels, &table, pairs.len(), "coefficients")?;
    let scores = shifted(w, scores, &rho)?;
    let chosen = votes(w, scores, &pairs, classes)?;
    let label = labels.at(w, chosen)?;
    let scores = if has_probabilities {
        let rows = coupling::probabilities(w, scores, &pairs, classes, (&slopes, &shifts), &rows)?;
        transform.apply(w, rows)?
    } else if classes > 2 {
        transform.apply(w, scores)?
    } else {
        // Both signs of the score without a transformation; else it counts as a probability.
        let second = match transform {
            PostTransform::None => Second::Opposite,
            _ => Second::Complement,
        };
        transform.apply_to_pair(w, scores, second)?
    };
    Ok(vec![label, scores])
}

/// The class that wins most pairs, the first one of equal ones: a positive score is a win of the first class of a pair.
fn votes(
    w: &mut Wiring<'_, '_>,
    scores: Var,
    pairs: &[(usize, usize)],
    classes: usize,
) -> Result<Var> {
    let zero = w.scalar(DType::F32, 0.0);
    let wins = w.binary(Binary::Gt, scores, zero)?;
    let wins = w.cast(wins, DType::F32)?;
    // Each class starts with the pairs in which it is the second one.
    let mut won = vec![0.0f32; classes * pairs.len()];
    let mut start = vec![0.0f32; classes];
    for (pair, &(a, b)) in pairs.iter().enumerate() {
        won[a * pairs.len() + pair] = 1.0;
        won[b * pairs.len() + pair] = -1.0;
        start[b] += 1.0;
    }
    let won = transposed(&won, classes, pairs.len());
    let won = w.known(Constant::f32s(&[pairs.len(), classes], &won));
    let votes = w.matmul(wins, won)?;
    let votes = shifted(w, votes, &start)?;
    largest(w, votes)
}
