//! Activations that exporters write as formulas: GELU and SiLU.

use crate::graph::{Draft, Formula, Links, Uses};
use flotilla_program::{Binary, Expr, Op, Step, Unary, ValueId};

/// Constants of a formula may be rounded, to fewer digits than a float has.
const TOLERANCE: f32 = 1e-4;
/// Most factors of a product that are examined.
const FACTORS_MAX: usize = 4;
/// Factor of the cube in the approximation of GELU.
/// Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", section 2.
const CUBIC: f32 = 0.044_715;

pub(super) fn apply(draft: &mut Draft, uses: &Uses) -> usize {
    let mut links = Links::of(draft, uses);
    let mut found = 0;
    for index in 0..draft.nodes.len() {
        let [output] = draft.nodes[index].outputs[..] else { continue };
        let formula = Formula { draft, links: &links };
        let Some((function, x)) = recognize(&formula, output) else { continue };
        if draft.shape(x) != draft.shape(output) {
            continue;
        }
        let steps = vec![Step::Input(0), Step::Unary(function, 0)];
        links.rewrite(draft, index, Op::Elementwise(Expr { steps }), vec![x]);
        found += 1;
    }
    found
}

fn recognize(formula: &Formula<'_>, output: ValueId) -> Option<(Unary, ValueId)> {
    formula.binary(output, Binary::Mul)?;
    let product = Product::of(formula, output)?;
    let &[a, b] = product.factors.as_slice() else { return None };
    [(a, b), (b, a)].into_iter().find_map(|(x, gate)| {
        if is_near(product.scale, 1.0) && formula.unary(gate, Unary::Sigmoid) == Some(x) {
            return Some((Unary::Silu, x));
        }
        let (curve, one) = formula.shifted(gate)?;
        if !is_near(one, 1.0) || !is_near(product.scale, 0.5) {
            return None;
        }
        if let Some(inner) = formula.unary(curve, Unary::Erf) {
            let (own, factor) = formula.scaled(inner)?;
            let is_gelu = own == x && is_near(factor, std::f32::consts::FRAC_1_SQRT_2);
            return is_gelu.then_some((Unary::GeluErf, x));
        }
        let inner = formula.unary(curve, Unary::Tanh)?;
        is_cubic(formula, inner, x).then_some((Unary::GeluTanh, x))
    })
}

/// `sqrt(2 / pi) * (x + 0.044715 x^3)`.
fn is_cubic(formula: &Formula<'_>, inner: ValueId, x: ValueId) -> bool {
    let Some((sum, factor)) = formula.scaled(inner) else { return false };
    let wanted = (2.0 / std::f32::consts::PI).sqrt();
    is_near(factor, wanted)
        && formula.either(sum, Binary::Add).into_iter().any(|(own, term)| {
            let cube = formula
                .scaled(term)
                .is_some_and(|(cube, factor)| is_near(factor, CUBIC) && is_cube(formula, cube, x));
            own == x && cube
        })
}

fn is_cube(formula: &Formula<'_>, cube: ValueId, x: ValueId) -> bool {
    if let Some((base, exponent)) = formula.binary(cube, Binary::Pow) {
        return base == x && formula.draft.uniform_float(exponent) == Some(3.0);
    }
    Product::of(formula, cube).is_some_and(|product| {
        product.scale == 1.0 && product.factors.iter().filter(|factor| **factor == x).count() == 3
    })
}

fn is_near(a: f32, b: f32) -> bool {
    (a - b).abs() <= TOLERANCE * b.abs()
}

/// A number and the values that are multiplied with it.
struct Product {
    scale: f32,
    factors: Vec<ValueId>,
}

impl Product {
    fn of(formula: &Formula<'_>, id: ValueId) -> Option<Product> {
        let mut product = Product { scale: 1.0, factors: Vec::new() };
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if let Some((x, factor)) = formula.scaled(id) {
                product.scale *= factor;
                open.push(x);
            } else if let Some((a, b)) = formula.binary(id, Binary::Mul) {
                open.extend([a, b]);
            } else {
                product.factors.push(id);
            }
            if product.factors.len() + open.len() > FACTORS_MAX {
                return None;
            }
        }
        Some(product)
    }
}
