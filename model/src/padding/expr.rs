//! Element-wise expressions over the facts about their operands.

use super::{
    fill::{Fill, HIDING_GAP, Kept, Kind, Mask},
    word,
};
use flotilla_program::{Binary, Expr, Step, StepId, Test, Unary};
use flotilla_tensor::DType;

/// The facts about a step's result: everywhere, and in the places that are examined.
#[derive(Clone, Debug)]
struct Found {
    dtype: DType,
    everywhere: Fill,
    here: Fill,
}

/// The result of an expression in some places; for each operand, its type, its facts everywhere and its facts in these
/// places.
pub(super) fn evaluate(expr: &Expr, operands: &[(DType, Fill, Fill)]) -> Option<Fill> {
    let mut known: Vec<Found> = Vec::with_capacity(expr.steps.len());
    for step in &expr.steps {
        let next = evaluated(step, &known, operands)?;
        known.push(next);
    }
    known.pop().map(|last| last.here)
}

fn evaluated(step: &Step, known: &[Found], operands: &[(DType, Fill, Fill)]) -> Option<Found> {
    let of = |id: StepId| known.get(id as usize);
    let constant =
        |dtype, word| Found { dtype, everywhere: Fill::same(word), here: Fill::same(word) };
    Some(match step {
        Step::Input(input) => {
            let (dtype, everywhere, here) = operands.get(*input as usize)?.clone();
            Found { dtype, everywhere, here }
        }
        Step::Float(value) => constant(DType::F32, value.to_bits()),
        Step::Int(value) => constant(DType::I32, *value as u32),
        Step::Dim(_) => of_kind(DType::I32, Kind::Finite),
        Step::Unary(function, a) => {
            let a = of(*a)?;
            let by = |fill: &Fill| unary(*function, a.dtype, fill);
            Found { dtype: a.dtype, everywhere: by(&a.everywhere), here: by(&a.here) }
        }
        Step::Cast(to, a) => {
            let a = of(*a)?;
            let by = |fill: &Fill| cast(a.dtype, *to, fill);
            Found { dtype: to.storage(), everywhere: by(&a.everywhere), here: by(&a.here) }
        }
        Step::Bits(to, a) => {
            let by = |fill: &Fill| match fill {
                Fill::Known { .. } => fill.clone(),
                Fill::Hidden { .. } | Fill::Kind(_) => any(*to),
            };
            let a = of(*a)?;
            Found { dtype: *to, everywhere: by(&a.everywhere), here: by(&a.here) }
        }
        Step::Test(asked, a) => {
            let a = of(*a)?;
            let by = |fill: &Fill| test(*asked, a, fill);
            Found { dtype: DType::Bool, everywhere: by(&a.everywhere), here: by(&a.here) }
        }
        Step::Binary(function, left, right) => {
            let (a, b) = (of(*left)?, of(*right)?);
            let same = left == right;
            let by = |x: &Fill, y: &Fill| binary(*function, a, b, x, y, same);
            let everywhere = by(&a.everywhere, &b.everywhere);
            let here = by(&a.here, &b.here);
            let dtype = if is_comparison(*function) { DType::Bool } else { a.dtype };
            Found { dtype, everywhere, here }
        }
        Step::Select(condition, left, right) => {
            let (condition, a, b) = (of(*condition)?, of(*left)?, of(*right)?);
            let everywhere = select(&condition.everywhere, a, b, |known| &known.everywhere);
            let here = select(&condition.here, a, b, |known| &known.here);
            Found { dtype: a.dtype, everywhere, here }
        }
    })
}

fn of_kind(dtype: DType, kind: Kind) -> Found {
    Found { dtype, everywhere: Fill::Kind(kind), here: Fill::Kind(kind) }
}

/// All facts about a result when nothing is known.
pub(super) fn any(dtype: DType) -> Fill {
    Fill::Kind(if dtype == DType::F32 { Kind::Any } else { Kind::Finite })
}

fn is_comparison(function: Binary) -> bool {
    use Binary::{Eq, Ge, Gt, Le, Lt, Ne};
    matches!(function, Eq | Ne | Lt | Le | Gt | Ge)
}

/// A function of a known word, applied also to the facts about it elsewhere.
fn mapped(word: u32, kept: &Kept, function: impl Fn(u32) -> Option<u32>) -> Option<Fill> {
    let mapped = function(word)?;
    let kept = match kept {
        Kept::Same => Kept::Same,
        Kept::At(mask, one) => {
            function(*one).map_or(Kept::Unknown, |one| Kept::At(mask.clone(), one))
        }
        Kept::Number(_) | Kept::Unknown => Kept::Unknown,
    };
    Some(Fill::Known { word: mapped, kept })
}

pub(super) fn unary(function: Unary, dtype: DType, a: &Fill) -> Fill {
    if let (Unary::Neg, DType::F32, Fill::Known { word, kept: Kept::Number(mask) }) =
        (function, dtype, a)
    {
        let word = (-f32::from_bits(*word)).to_bits();
        return Fill::Known { word, kept: Kept::Number(mask.clone()) };
    }
    if let Fill::Known { word, kept } = a
        && let Some(known) = mapped(*word, kept, |word| word::unary(function, dtype, word))
    {
        return known;
    }
    if dtype != DType::F32 {
        return any(dtype);
    }
    Fill::Kind(unary_kind(function, a.kind(dtype)))
}

fn unary_kind(function: Unary, kind: Kind) -> Kind {
    use Unary::{
        Abs, Acos, Acosh, Asin, Asinh, Atan, Atanh, Ceil, Cos, Cosh, Erf, Exp, Floor, GeluErf,
        GeluTanh, Ln, Neg, Not, Recip, Relu, Round, Rsqrt, Sigmoid, Sign, Silu, Sin, Sinh,
        Softplus, Sqrt, Square, Tan, Tanh,
    };
    match function {
        Sqrt if kind <= Kind::NonNegative => kind,
        Recip | Rsqrt if kind == Kind::Positive => Kind::Positive,
        Sigmoid if kind <= Kind::NotAbove => Kind::NonNegative,
        Tanh | Erf | Sign if kind <= Kind::NotAbove => Kind::Ordinary,
        Atan | Sin | Cos if kind.is_finite() => Kind::Ordinary,
        Relu | Abs | Square | Softplus if kind <= Kind::Ordinary => Kind::NonNegative,
        Neg | Silu | GeluErf | GeluTanh | Asinh | Floor | Ceil | Round if kind.is_finite() => {
            kind.max(Kind::Ordinary)
        }
        Relu | Abs | Square | Softplus if kind.is_finite() => Kind::Finite,
        // Infinite or undefined for some numbers, or growing too fast.
        Neg | Abs | Sign | Square | Sqrt | Rsqrt | Recip | Exp | Ln | Sin | Cos | Tan | Tanh
        | Sigmoid | Silu | GeluErf | GeluTanh | Erf | Relu | Floor | Ceil | Round | Not | Acos
        | Acosh | Asin | Asinh | Atan | Atanh | Cosh | Sinh | Softplus => Kind::Any,
    }
}

fn cast(from: DType, to: DType, a: &Fill) -> Fill {
    if let Fill::Known { word, kept } = a
        && let Some(known) = mapped(*word, kept, |word| word::cast(from, to, word))
    {
        return known;
    }
    Fill::Kind(match (from, to) {
        (DType::Bool, to) if to.is_float() => Kind::NonNegative,
        // A number that a half does not hold becomes infinite.
        (DType::F32, DType::F16 | DType::BF16) if a.kind(from) <= Kind::Ordinary => a.kind(from),
        (DType::F32, DType::F32) => a.kind(from),
        (DType::F32, to) if to.is_float() => Kind::Any,
        (_, DType::F16) => Kind::Any,
        _ => Kind::Finite,
    })
}

fn test(asked: Test, a: &Found, fill: &Fill) -> Fill {
    if let Fill::Known { word, kept } = fill
        && let Some(known) = mapped(*word, kept, |word| Some(word::test(asked, word)))
    {
        return known;
    }
    let never = |kind: Kind| match asked {
        Test::Nan | Test::PositiveInfinity => kind <= Kind::NotAbove,
        Test::NegativeInfinity => kind.is_finite(),
    };
    if never(a.everywhere.kind(a.dtype)) {
        Fill::same(0)
    } else if never(fill.kind(a.dtype)) {
        Fill::ZERO
    } else {
        Fill::Kind(Kind::Finite)
    }
}

/// The facts about a function of two operands elsewhere; each operand comes with its facts in padded places.
fn both(
    (a, one): (&Kept, u32),
    (b, other): (&Kept, u32),
    sums: bool,
    function: impl Fn(u32, u32) -> Option<u32>,
) -> Kept {
    let at = |mask: &Mask, word: Option<u32>| {
        word.map_or(Kept::Unknown, |word| Kept::At(mask.clone(), word))
    };
    // Sums and products of ordinary numbers are ordinary numbers.
    let ordinary = |mask: &Mask, word: u32| match Kind::of(DType::F32, word) <= Kind::Ordinary {
        true if sums => Kept::Number(mask.clone()),
        _ => Kept::Unknown,
    };
    match (a, b) {
        (Kept::Same, Kept::Same) => Kept::Same,
        (Kept::At(mask, a), Kept::Same) => at(mask, function(*a, other)),
        (Kept::Same, Kept::At(mask, b)) => at(mask, function(one, *b)),
        (Kept::At(mask, a), Kept::At(same, b)) if mask == same => at(mask, function(*a, *b)),
        (Kept::Number(mask), Kept::Same) => ordinary(mask, other),
        (Kept::Same, Kept::Number(mask)) => ordinary(mask, one),
        (Kept::Number(mask), Kept::At(same, word)) | (Kept::At(same, word), Kept::Number(mask))
            if mask == same =>
        {
            ordinary(mask, *word)
        }
        (Kept::Number(mask), Kept::Number(same)) if mask == same => ordinary(mask, 0),
        (Kept::At(..) | Kept::Number(_), Kept::At(..) | Kept::Number(_))
        | (Kept::Unknown, _)
        | (_, Kept::Unknown) => Kept::Unknown,
    }
}

/// Zero in padded places; where the mask keeps an ordinary factor, that factor times an ordinary number.
fn vanishing(zero: &Fill, other: Kind) -> Fill {
    let mask = match zero {
        Fill::Known { kept: Kept::At(mask, one), .. }
            if Kind::of(DType::F32, *one) <= Kind::Ordinary =>
        {
            mask
        }
        Fill::Known { kept: Kept::Number(mask), .. } => mask,
        Fill::Known { .. } | Fill::Hidden { .. } | Fill::Kind(_) => return Fill::ZERO,
    };
    match other <= Kind::Ordinary {
        true => Fill::Known { word: 0, kept: Kept::Number(mask.clone()) },
        false => Fill::ZERO,
    }
}

fn binary(function: Binary, a: &Found, b: &Found, x: &Fill, y: &Fill, same: bool) -> Fill {
    let dtype = a.dtype;
    if let (Fill::Known { word: one, kept }, Fill::Known { word: other, kept: kept_other }) = (x, y)
    {
        let by = |one, other| word::binary(function, dtype, one, other);
        if let Some(word) = by(*one, *other) {
            let sums =
                dtype == DType::F32 && matches!(function, Binary::Add | Binary::Sub | Binary::Mul);
            return Fill::Known { word, kept: both((kept, *one), (kept_other, *other), sums, by) };
        }
    }
    if is_comparison(function) {
        return Fill::Kind(Kind::Finite);
    }
    let (kind, other) = (x.kind(dtype), y.kind(dtype));
    let is_product =
        matches!(function, Binary::Mul) || matches!(function, Binary::And) && dtype != DType::F32;
    let (left, right) = (a.everywhere.kind(dtype), b.everywhere.kind(dtype));
    for (zero, here, everywhere) in [(x, other, right), (y, kind, left)] {
        if is_product && zero.is_zero(dtype) && here.is_finite() {
            return if dtype == DType::F32 { vanishing(zero, everywhere) } else { Fill::ZERO };
        }
    }
    // True or anything is true.
    let is_true = |fill: &Fill| dtype == DType::Bool && fill.word() == Some(1);
    if function == Binary::Or && (is_true(x) || is_true(y)) {
        return Fill::Known { word: 1, kept: Kept::Unknown };
    }
    if dtype != DType::F32 {
        return any(dtype);
    }
    let hidden = match function {
        Binary::Add => hidden_sum(x, right).or_else(|| hidden_sum(y, left)),
        Binary::Sub => {
            hidden_sum(x, right).or_else(|| hidden_sum(&unary(Unary::Neg, dtype, y), left))
        }
        Binary::Mul => {
            scaled(x, y, |gap, by| gap * by).or_else(|| scaled(y, x, |gap, by| gap * by))
        }
        Binary::Div => scaled(x, y, |gap, by| gap / by),
        _ => None,
    };
    hidden.unwrap_or_else(|| Fill::Kind(binary_kind(function, x, y, kind, other, same)))
}

/// A score plus a mask, or a hidden score plus an ordinary number.
fn hidden_sum(hidden: &Fill, everywhere: Kind) -> Option<Fill> {
    let (mask, gap) = hidden.lowered()?;
    let masked = matches!(hidden, Fill::Hidden { .. }) || gap >= HIDING_GAP;
    (masked && everywhere <= Kind::Ordinary).then(|| lower(mask, gap))
}

/// Ordinary numbers that are lower by this where the mask is zero.
fn lower(mask: &Mask, gap: f32) -> Fill {
    if gap == f32::INFINITY {
        let word = f32::NEG_INFINITY.to_bits();
        return Fill::Known { word, kept: Kept::Number(mask.clone()) };
    }
    Fill::Hidden { mask: mask.clone(), gap }
}

fn scaled(hidden: &Fill, by: &Fill, scale: impl Fn(f32, f32) -> f32) -> Option<Fill> {
    match (hidden, by) {
        (Fill::Hidden { mask, gap }, Fill::Known { word, kept: Kept::Same })
            if Kind::of(DType::F32, *word) == Kind::Positive =>
        {
            Some(lower(mask, scale(*gap, f32::from_bits(*word))))
        }
        _ => None,
    }
}

fn binary_kind(function: Binary, x: &Fill, y: &Fill, kind: Kind, other: Kind, same: bool) -> Kind {
    let most = kind.max(other);
    let ordinary = most.max(Kind::Ordinary);
    let one_positive = kind.min(other) == Kind::Positive;
    match function {
        Binary::Add if most <= Kind::NonNegative && one_positive => Kind::Positive,
        Binary::Add if most <= Kind::NonNegative => Kind::NonNegative,
        Binary::Add => ordinary,
        Binary::Sub if other == Kind::NotAbove => Kind::Any,
        Binary::Sub => ordinary,
        // A mask that is multiplied by the lowest number, which overflows when another one is added.
        Binary::Mul if x.is_huge() && other.is_finite() || y.is_huge() && kind.is_finite() => {
            Kind::NotAbove
        }
        Binary::Mul => product(kind, other, same),
        Binary::Div if other == Kind::Positive => product(kind, other, false),
        // A small whole power is a product.
        Binary::Pow => match y.word().map(f32::from_bits) {
            Some(2.0) => product(kind, kind, true),
            Some(3.0) => product(kind, kind, false),
            _ => Kind::Any,
        },
        Binary::Div | Binary::Rem => Kind::Any,
        Binary::Min if most <= Kind::NonNegative => most,
        Binary::Min => ordinary,
        Binary::Max if most <= Kind::Ordinary && one_positive => Kind::Positive,
        Binary::Max if most <= Kind::Ordinary && kind.min(other) == Kind::NonNegative => {
            Kind::NonNegative
        }
        // The larger of a number and negative infinity is the number.
        Binary::Max if most == Kind::NotAbove && kind.min(other).is_finite() => Kind::Finite,
        Binary::Max => ordinary,
        Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge => Kind::Finite,
        Binary::And | Binary::Or | Binary::Xor | Binary::ShiftLeft | Binary::ShiftRight => {
            Kind::Any
        }
    }
}

/// The kind of products, and of sums of them.
pub(super) fn product(kind: Kind, other: Kind, square: bool) -> Kind {
    match kind.max(other) {
        most if most <= Kind::NonNegative => Kind::NonNegative,
        Kind::Ordinary if square => Kind::NonNegative,
        most @ (Kind::Ordinary | Kind::Finite) => most,
        _ => Kind::Any,
    }
}

fn select(condition: &Fill, a: &Found, b: &Found, of: impl Fn(&Found) -> &Fill) -> Fill {
    let dtype = a.dtype;
    let branch = |word: u32| if word != 0 { a } else { b };
    let Fill::Known { word, kept } = condition else { return of(a).or(of(b), dtype) };
    let padded = of(branch(*word));
    match kept {
        Kept::Same => padded.clone(),
        Kept::At(_, one) if (*one != 0) == (*word != 0) => padded.without_mask(dtype),
        Kept::At(mask, one) => {
            let Some(word) = padded.word() else { return padded.without_mask(dtype) };
            let real = branch(*one);
            let there = match of(real) {
                Fill::Known { word, kept: Kept::Same } => Some(*word),
                Fill::Known { kept: Kept::At(same, one), .. } if same == mask => Some(*one),
                _ => None,
            };
            if let Some(one) = there {
                return Fill::Known { word, kept: Kept::At(mask.clone(), one) };
            }
            // It is an ordinary number there, whatever the mask is elsewhere.
            let ordinary = dtype == DType::F32 && real.everywhere.kind(dtype) <= Kind::Ordinary;
            let kept = if ordinary { Kept::Number(mask.clone()) } else { Kept::Unknown };
            Fill::Known { word, kept }
        }
        Kept::Number(_) | Kept::Unknown => padded.without_mask(dtype),
    }
}
