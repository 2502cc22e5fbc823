//! Element-wise expressions, step by step.

use flotilla_program::{Binary as Function, Expr, Node, Step, Test, Unary as Of};
use flotilla_tensor::DType;

use super::{Lowering, type_of};
use crate::backend::webnn::draft::{Binary, Id, Type, Unary};

/// A step's result. `dtype` is the type of its bits, because an operand does not record whether it is signed.
#[derive(Clone, Copy)]
struct Term {
    id: Id,
    dtype: DType,
}

impl Lowering<'_> {
    pub(super) fn elementwise(
        &mut self,
        node: &Node,
        expr: &Expr,
        want: &[u32],
    ) -> Result<Id, String> {
        let mut terms: Vec<Term> = Vec::with_capacity(expr.steps.len());
        for step in &expr.steps {
            let term = self.step(node, &terms, step)?;
            terms.push(term);
        }
        let result = terms.last().ok_or("an expression without steps")?.id;
        self.draft.expand(result, want)
    }

    fn step(&mut self, node: &Node, terms: &[Term], step: &Step) -> Result<Term, String> {
        let of = |step: u32| terms[step as usize];
        match *step {
            Step::Input(input) => {
                let value = node.inputs[input as usize];
                Ok(Term { id: self.operand(value)?, dtype: self.dtype(value) })
            }
            Step::Float(value) => self.number(f64::from(value), DType::F32),
            Step::Int(value) => self.number(f64::from(value), DType::I32),
            Step::Dim(ref dim) => {
                let size = self.shapes.eval(dim).ok_or("a dimension without a value")?;
                self.number(size as f64, DType::I32)
            }
            Step::Unary(function, x) => self.function(function, of(x)),
            Step::Binary(function, a, b) => self.function_of_two(function, of(a), of(b)),
            Step::Select(condition, yes, no) => {
                let (yes, no) = (of(yes), of(no));
                let id = self.draft.select(of(condition).id, yes.id, no.id)?;
                Ok(Term { id, dtype: yes.dtype })
            }
            Step::Cast(to, x) => self.convert(of(x), to),
            Step::Bits(to, x) => match (of(x), to) {
                // These types have the same operands.
                (Term { id, dtype: DType::I32 | DType::U32 }, DType::I32 | DType::U32) => {
                    Ok(Term { id, dtype: to })
                }
                (Term { dtype, .. }, to) => Err(format!("WebNN cannot read {dtype:?} as {to:?}")),
            },
            Step::Test(test, x) => self.test(test, of(x).id),
        }
    }

    fn number(&mut self, value: f64, dtype: DType) -> Result<Term, String> {
        Ok(Term { id: self.draft.scalar(value, type_of(dtype))?, dtype })
    }

    /// A number of the same type as a term.
    fn like(&mut self, term: Term, value: f64) -> Result<Id, String> {
        let ty = self.draft.ty(term.id);
        self.draft.scalar(value, ty)
    }

    fn test(&mut self, test: Test, x: Id) -> Result<Term, String> {
        let id = match test {
            Test::Nan => self.draft.unary(Unary::IsNan, x)?,
            Test::PositiveInfinity | Test::NegativeInfinity => {
                let infinite = self.draft.unary(Unary::IsInfinite, x)?;
                let zero = self.draft.scalar(0.0, Type::Float32)?;
                let sign =
                    if test == Test::PositiveInfinity { Binary::Greater } else { Binary::Lesser };
                let signed = self.draft.binary(sign, x, zero)?;
                self.draft.binary(Binary::LogicalAnd, infinite, signed)?
            }
        };
        Ok(Term { id, dtype: DType::Bool })
    }

    /// A function of a float that other operators also apply to their results.
    pub(super) fn activation(&mut self, function: Of, x: Id) -> Result<Id, String> {
        Ok(self.function(function, Term { id: x, dtype: DType::F32 })?.id)
    }

    fn function(&mut self, function: Of, x: Term) -> Result<Term, String> {
        let id = match x.dtype {
            DType::Bool => match function {
                Of::Not => self.draft.unary(Unary::LogicalNot, x.id)?,
                _ => return Err(format!("{function:?} of a truth value")),
            },
            DType::F32 => self.function_of_float(function, x)?,
            dtype => self.function_of_integer(function, x, dtype == DType::U32)?,
        };
        Ok(Term { id, dtype: x.dtype })
    }

    fn function_of_integer(&mut self, function: Of, x: Term, unsigned: bool) -> Result<Id, String> {
        match function {
            Of::Neg if unsigned => {
                let zero = self.like(x, 0.0)?;
                self.draft.binary(Binary::Sub, zero, x.id)
            }
            Of::Neg => self.draft.unary(Unary::Neg, x.id),
            Of::Abs | Of::Relu if unsigned => Ok(x.id),
            Of::Abs => self.draft.unary(Unary::Abs, x.id),
            Of::Relu => self.draft.unary(Unary::Relu, x.id),
            Of::Sign if unsigned => {
                let (zero, one) = (self.like(x, 0.0)?, self.like(x, 1.0)?);
                let none = self.draft.binary(Binary::Equal, x.id, zero)?;
                self.draft.select(none, zero, one)
            }
            Of::Sign => self.draft.unary(Unary::Sign, x.id),
            Of::Square => self.draft.binary(Binary::Mul, x.id, x.id),
            // The complement of two.
            Of::Not => {
                let ones = self.like(x, -1.0)?;
                self.draft.binary(Binary::Sub, ones, x.id)
            }
            Of::Floor | Of::Ceil | Of::Round => Ok(x.id),
            _ => Err(format!("WebNN has no {function:?} of integers")),
        }
    }

    fn function_of_float(&mut self, function: Of, x: Term) -> Result<Id, String> {
        let plain = match function {
            Of::Neg => Unary::Neg,
            Of::Abs => Unary::Abs,
            Of::Sign => Unary::Sign,
            Of::Sqrt => Unary::Sqrt,
            Of::Recip => Unary::Reciprocal,
            Of::Exp => Unary::Exp,
            Of::Ln => Unary::Log,
            Of::Sin => Unary::Sin,
            Of::Cos => Unary::Cos,
            Of::Tan => Unary::Tan,
            Of::Tanh => Unary::Tanh,
            Of::Sigmoid => Unary::Sigmoid,
            Of::GeluErf => Unary::Gelu,
            Of::Erf => Unary::Erf,
            Of::Relu => Unary::Relu,
            Of::Floor => Unary::Floor,
            Of::Ceil => Unary::Ceil,
            Of::Round => Unary::RoundEven,
            _ => return self.composed(function, x),
        };
        self.draft.unary(plain, x.id)
    }

    /// Functions that WebNN does not have. Sources: NIST DLMF, 4.28 and 4.37; for GELU see [`Of::GeluTanh`].
    fn composed(&mut self, function: Of, x: Term) -> Result<Id, String> {
        let (at, one) = (x.id, self.like(x, 1.0)?);
        let half = self.like(x, 0.5)?;
        let d = &mut self.draft;
        match function {
            Of::Square => d.binary(Binary::Mul, at, at),
            Of::Rsqrt => {
                let root = d.unary(Unary::Sqrt, at)?;
                d.unary(Unary::Reciprocal, root)
            }
            Of::Silu => {
                let gate = d.unary(Unary::Sigmoid, at)?;
                d.binary(Binary::Mul, at, gate)
            }
            Of::GeluTanh => {
                let (scale, cubic) = (
                    d.scalar(f64::sqrt(2.0 / std::f64::consts::PI), Type::Float32)?,
                    d.scalar(0.044_715, Type::Float32)?,
                );
                let square = d.binary(Binary::Mul, at, at)?;
                let scaled = d.binary(Binary::Mul, square, cubic)?;
                let sum = d.binary(Binary::Add, scaled, one)?;
                let inner = d.binary(Binary::Mul, sum, at)?;
                let inner = d.binary(Binary::Mul, inner, scale)?;
                let gate = d.unary(Unary::Tanh, inner)?;
                let gate = d.binary(Binary::Add, gate, one)?;
                let halved = d.binary(Binary::Mul, at, half)?;
                d.binary(Binary::Mul, halved, gate)
            }
            Of::Cosh | Of::Sinh => {
                let minus = d.unary(Unary::Neg, at)?;
                let (up, down) = (d.unary(Unary::Exp, at)?, d.unary(Unary::Exp, minus)?);
                let join = if function == Of::Cosh { Binary::Add } else { Binary::Sub };
                let sum = d.binary(join, up, down)?;
                d.binary(Binary::Mul, sum, half)
            }
            Of::Acosh => {
                // The product of two roots, because the square of a large number is infinite.
                let (less, more) =
                    (d.binary(Binary::Sub, at, one)?, d.binary(Binary::Add, at, one)?);
                let ratio = d.binary(Binary::Div, less, more)?;
                let root = d.unary(Unary::Sqrt, ratio)?;
                let (sum, log) = (d.binary(Binary::Mul, root, more)?, Unary::Log);
                let half_sum = d.binary(Binary::Mul, sum, half)?;
                let half_x = d.binary(Binary::Mul, at, half)?;
                let sum = d.binary(Binary::Add, half_x, half_sum)?;
                let (log, two) =
                    (d.unary(log, sum)?, d.scalar(std::f64::consts::LN_2, Type::Float32)?);
                d.binary(Binary::Add, log, two)
            }
            Of::Softplus => {
                // `exp` only of negative numbers, which does not overflow.
                let size = d.unary(Unary::Abs, at)?;
                let minus = d.unary(Unary::Neg, size)?;
                let small = d.unary(Unary::Exp, minus)?;
                let small = d.binary(Binary::Add, small, one)?;
                let log = d.unary(Unary::Log, small)?;
                let positive = d.unary(Unary::Relu, at)?;
                d.binary(Binary::Add, positive, log)
            }
            Of::Asinh => {
                // Computed from the absolute value, because the sum cancels for negative x. For large x its square is infinite:
                // there the logarithm of the factor is added.
                let large = d.scalar(1e9, Type::Float32)?;
                let positive = d.unary(Unary::Abs, at)?;
                let bounded = d.binary(Binary::Min, positive, large)?;
                let square = d.binary(Binary::Mul, bounded, bounded)?;
                let more = d.binary(Binary::Add, square, one)?;
                let root = d.unary(Unary::Sqrt, more)?;
                let sum = d.binary(Binary::Add, bounded, root)?;
                let log = d.unary(Unary::Log, sum)?;
                let least = d.binary(Binary::Max, positive, large)?;
                let factor = d.binary(Binary::Div, least, large)?;
                let factor = d.unary(Unary::Log, factor)?;
                let log = d.binary(Binary::Add, log, factor)?;
                let sign = d.unary(Unary::Sign, at)?;
                d.binary(Binary::Mul, sign, log)
            }
            Of::Atanh => {
                let (over, under) =
                    (d.binary(Binary::Add, one, at)?, d.binary(Binary::Sub, one, at)?);
                let ratio = d.binary(Binary::Div, over, under)?;
                let log = d.unary(Unary::Log, ratio)?;
                d.binary(Binary::Mul, log, half)
            }
            Of::Atan => self.arctangent(at),
            Of::Asin | Of::Acos => {
                let (over, under) =
                    (d.binary(Binary::Add, one, at)?, d.binary(Binary::Sub, one, at)?);
                let product = d.binary(Binary::Mul, over, under)?;
                let cosine = d.unary(Unary::Sqrt, product)?;
                let tangent = d.binary(Binary::Div, at, cosine)?;
                let angle = self.arctangent(tangent)?;
                if function == Of::Asin {
                    return Ok(angle);
                }
                let right = self.draft.scalar(std::f64::consts::FRAC_PI_2, Type::Float32)?;
                self.draft.binary(Binary::Sub, right, angle)
            }
            Of::Not => Err("a number is neither true nor false".to_owned()),
            _ => Err(format!("{function:?} is not composed")),
        }
    }

    /// By a polynomial within 22.5 degrees of 0; larger angles are rotated into that range.
    /// Source: Moshier, "Cephes Mathematical Library", `atanf`.
    fn arctangent(&mut self, x: Id) -> Result<Id, String> {
        let d = &mut self.draft;
        let number = |d: &mut crate::backend::webnn::draft::Draft<'_>, value: f64| {
            d.scalar(value, Type::Float32)
        };
        let (one, zero) = (number(d, 1.0)?, number(d, 0.0)?);
        let (eighth, three_eighths) =
            (number(d, 0.414_213_562_373_095)?, number(d, 2.414_213_562_373_095)?);
        let size = d.unary(Unary::Abs, x)?;
        let is_large = d.binary(Binary::Greater, size, three_eighths)?;
        let is_middle = d.binary(Binary::Greater, size, eighth)?;
        let turned = d.unary(Unary::Reciprocal, size)?;
        let turned = d.unary(Unary::Neg, turned)?;
        let (less, more) = (d.binary(Binary::Sub, size, one)?, d.binary(Binary::Add, size, one)?);
        let middle = d.binary(Binary::Div, less, more)?;
        let reduced = d.select(is_middle, middle, size)?;
        let reduced = d.select(is_large, turned, reduced)?;
        let (quarter, half) =
            (number(d, std::f64::consts::FRAC_PI_4)?, number(d, std::f64::consts::FRAC_PI_2)?);
        let angle = d.select(is_middle, quarter, zero)?;
        let angle = d.select(is_large, half, angle)?;
        let square = d.binary(Binary::Mul, reduced, reduced)?;
        let mut sum = number(d, 8.053_744_491_38e-2)?;
        for coefficient in [-1.387_768_561_58e-1, 1.997_771_063_76e-1, -3.333_294_932_59e-1] {
            let product = d.binary(Binary::Mul, sum, square)?;
            let coefficient = number(d, coefficient)?;
            sum = d.binary(Binary::Add, product, coefficient)?;
        }
        let cubic = d.binary(Binary::Mul, square, reduced)?;
        let cubic = d.binary(Binary::Mul, sum, cubic)?;
        let near = d.binary(Binary::Add, cubic, reduced)?;
        let whole = d.binary(Binary::Add, angle, near)?;
        let sign = d.unary(Unary::Sign, x)?;
        d.binary(Binary::Mul, sign, whole)
    }

    fn function_of_two(&mut self, function: Function, a: Term, b: Term) -> Result<Term, String> {
        let comparison = match function {
            Function::Eq => Some(Binary::Equal),
            Function::Ne => Some(Binary::NotEqual),
            Function::Lt => Some(Binary::Lesser),
            Function::Le => Some(Binary::LesserOrEqual),
            Function::Gt => Some(Binary::Greater),
            Function::Ge => Some(Binary::GreaterOrEqual),
            _ => None,
        };
        if let Some(comparison) = comparison {
            let id = self.compare(comparison, a, b)?;
            return Ok(Term { id, dtype: DType::Bool });
        }
        let id = match a.dtype {
            DType::Bool => {
                let logical = match function {
                    Function::And => Binary::LogicalAnd,
                    Function::Or => Binary::LogicalOr,
                    Function::Xor => Binary::LogicalXor,
                    _ => return Err(format!("{function:?} of truth values")),
                };
                self.draft.binary(logical, a.id, b.id)?
            }
            DType::F32 => self.float_of_two(function, a, b)?,
            dtype => self.integer_of_two(function, a, b, dtype == DType::U32)?,
        };
        Ok(Term { id, dtype: a.dtype })
    }

    fn compare(&mut self, comparison: Binary, a: Term, b: Term) -> Result<Id, String> {
        let (mut left, mut right) = (a.id, b.id);
        match a.dtype {
            DType::Bool => {
                left = self.draft.cast(left, Type::Int32)?;
                right = self.draft.cast(right, Type::Int32)?;
            }
            // Unsigned numbers compare like signed ones after their upper bit is inverted.
            DType::U32 if !matches!(comparison, Binary::Equal | Binary::NotEqual) => {
                let turn = self.like(a, f64::from(i32::MIN))?;
                left = self.draft.binary(Binary::Add, left, turn)?;
                right = self.draft.binary(Binary::Add, right, turn)?;
            }
            _ => {}
        }
        self.draft.binary(comparison, left, right)
    }

    fn float_of_two(&mut self, function: Function, a: Term, b: Term) -> Result<Id, String> {
        let plain = match function {
            Function::Add => Binary::Add,
            Function::Sub => Binary::Sub,
            Function::Mul => Binary::Mul,
            Function::Div => Binary::Div,
            Function::Pow => Binary::Pow,
            Function::Min | Function::Max => return self.extreme(function, a.id, b.id),
            // The rounding error of a quotient would be as large as the remainder.
            Function::Rem => return Err("WebNN has no remainders of floats".to_owned()),
            _ => return Err(format!("{function:?} of floating-point numbers")),
        };
        self.draft.binary(plain, a.id, b.id)
    }

    /// The smaller or larger number; NaN if an operand is NaN, because a sum with NaN is NaN.
    fn extreme(&mut self, function: Function, a: Id, b: Id) -> Result<Id, String> {
        let d = &mut self.draft;
        let plain = if function == Function::Min { Binary::Min } else { Binary::Max };
        let extreme = d.binary(plain, a, b)?;
        // A known bound is a number, and so are most operands. For other operands WebNN does not define the result for NaN.
        if d.known(a).is_some() || d.known(b).is_some() {
            return Ok(extreme);
        }
        let (nan_a, nan_b) = (d.unary(Unary::IsNan, a)?, d.unary(Unary::IsNan, b)?);
        let nan = d.binary(Binary::LogicalOr, nan_a, nan_b)?;
        let sum = d.binary(Binary::Add, a, b)?;
        d.select(nan, sum, extreme)
    }

    fn integer_of_two(
        &mut self,
        function: Function,
        a: Term,
        b: Term,
        unsigned: bool,
    ) -> Result<Id, String> {
        let plain = match function {
            Function::Add => Binary::Add,
            Function::Sub => Binary::Sub,
            Function::Mul => Binary::Mul,
            Function::Min if !unsigned => Binary::Min,
            Function::Max if !unsigned => Binary::Max,
            Function::Min | Function::Max => {
                let order =
                    if function == Function::Min { Binary::Lesser } else { Binary::Greater };
                let first = self.compare(order, a, b)?;
                return self.draft.select(first, a.id, b.id);
            }
            Function::Div | Function::Rem if unsigned => {
                return self.unsigned_quotient(a, b, function == Function::Rem);
            }
            Function::Div | Function::Rem => {
                return self.quotient(a, b, function == Function::Rem);
            }
            Function::ShiftLeft => return self.shifted_left(a, b),
            Function::ShiftRight => return self.shifted_right(a, b, unsigned),
            _ => return Err(format!("WebNN has no {function:?} of such integers")),
        };
        self.draft.binary(plain, a.id, b.id)
    }

    /// Division of signed integers, or the remainder. Divisors of 0 and -1, with which processors fail, are replaced.
    fn quotient(&mut self, a: Term, b: Term, remainder: bool) -> Result<Id, String> {
        let is_safe = self.draft.known(b.id).is_some_and(|b| b != 0.0 && b != -1.0);
        let (zero, one, minus) = (self.like(a, 0.0)?, self.like(a, 1.0)?, self.like(a, -1.0)?);
        let d = &mut self.draft;
        if is_safe {
            let quotient = d.binary(Binary::Div, a.id, b.id)?;
            if !remainder {
                return Ok(quotient);
            }
            let product = d.binary(Binary::Mul, quotient, b.id)?;
            return d.binary(Binary::Sub, a.id, product);
        }
        let is_zero = d.binary(Binary::Equal, b.id, zero)?;
        let is_minus = d.binary(Binary::Equal, b.id, minus)?;
        let odd = d.binary(Binary::LogicalOr, is_zero, is_minus)?;
        let divisor = d.select(odd, one, b.id)?;
        let quotient = d.binary(Binary::Div, a.id, divisor)?;
        if remainder {
            let product = d.binary(Binary::Mul, quotient, divisor)?;
            return d.binary(Binary::Sub, a.id, product);
        }
        let negated = d.binary(Binary::Sub, zero, quotient)?;
        d.select(is_minus, negated, quotient)
    }

    /// Division of unsigned integers, or the remainder. Half of the dividend is divided, because it is not negative as a signed
    /// number; twice that quotient is at most one step below the right one.
    fn unsigned_quotient(&mut self, a: Term, b: Term, remainder: bool) -> Result<Id, String> {
        let (zero, one) = (self.like(a, 0.0)?, self.like(a, 1.0)?);
        let is_zero = self.draft.binary(Binary::Equal, b.id, zero)?;
        // A divisor with the upper bit set goes into any number once or not at all; it is replaced by a divisor that processors
        // accept.
        let is_large = self.draft.binary(Binary::Lesser, b.id, zero)?;
        let is_odd = self.draft.binary(Binary::LogicalOr, is_zero, is_large)?;
        let divisor = self.draft.select(is_odd, one, b.id)?;
        let once = Term { id: one, ..a };
        let half = self.shifted_right(a, once, true)?;
        let d = &mut self.draft;
        let quotient = d.binary(Binary::Div, half, divisor)?;
        let twice = d.binary(Binary::Add, quotient, quotient)?;
        let product = d.binary(Binary::Mul, twice, divisor)?;
        let left = d.binary(Binary::Sub, a.id, product)?;
        let rest = Term { id: left, ..a };
        let more = self.compare(Binary::GreaterOrEqual, rest, Term { id: divisor, ..b })?;
        let step = self.draft.select(more, one, zero)?;
        let quotient = self.draft.binary(Binary::Add, twice, step)?;
        let fits = self.compare(Binary::GreaterOrEqual, a, b)?;
        let large_quotient = self.draft.select(fits, one, zero)?;
        let quotient = self.draft.select(is_large, large_quotient, quotient)?;
        if remainder {
            let product = self.draft.binary(Binary::Mul, quotient, b.id)?;
            let rest = self.draft.binary(Binary::Sub, a.id, product)?;
            return self.draft.select(is_zero, zero, rest);
        }
        // Division by 0 gives the dividend, as in every kernel.
        self.draft.select(is_zero, a.id, quotient)
    }

    /// Two to the power of a number of bits from 0 to 31; the last has the sign of an int32.
    fn bit(&mut self, bits: Id) -> Result<Id, String> {
        let power = |bits: f64| f64::from((1u32 << bits as u32) as i32);
        if let Some(known) = self.draft.known(bits) {
            return self.draft.scalar(power(known), Type::Int32);
        }
        let mut result = self.draft.scalar(0.0, Type::Int32)?;
        for bit in 0..32 {
            let number = self.draft.scalar(f64::from(bit), Type::Int32)?;
            let is_it = self.draft.binary(Binary::Equal, bits, number)?;
            let value = self.draft.scalar(power(f64::from(bit)), Type::Int32)?;
            result = self.draft.select(is_it, value, result)?;
        }
        Ok(result)
    }

    /// Bits shifted left: by 32 and more, and by a negative number, the result is 0.
    fn shifted_left(&mut self, a: Term, by: Term) -> Result<Id, String> {
        let known = self.draft.known(by.id);
        if known.is_some_and(|by| !(0.0..32.0).contains(&by)) {
            let zero = self.like(a, 0.0)?;
            return self.draft.binary(Binary::Mul, a.id, zero);
        }
        // A shift outside of 0 to 31 matches none of the powers and gives 0.
        let power = self.bit(by.id)?;
        self.draft.binary(Binary::Mul, a.id, power)
    }

    /// Bits shifted right: zeros come in, or the sign of a signed number. By 32 and more, and by a negative number, only these
    /// are left.
    fn shifted_right(&mut self, a: Term, by: Term, unsigned: bool) -> Result<Id, String> {
        const LAST: f64 = 31.0;
        let (zero, minus) = (self.like(a, 0.0)?, self.like(a, -1.0)?);
        let known = self.draft.known(by.id);
        let negative = self.draft.binary(Binary::Lesser, a.id, zero)?;
        let beyond = if unsigned { zero } else { self.draft.select(negative, minus, zero)? };
        if known.is_some_and(|by| !(0.0..32.0).contains(&by)) {
            return Ok(if unsigned { self.draft.binary(Binary::Mul, a.id, zero)? } else { beyond });
        }
        if known == Some(0.0) {
            return Ok(a.id);
        }
        // The number without its upper bit: for an unsigned number its other bits, for a signed one its complement.
        let least = self.like(a, f64::from(i32::MIN))?;
        let without = if unsigned {
            self.draft.binary(Binary::Add, a.id, least)?
        } else {
            self.draft.binary(Binary::Sub, minus, a.id)?
        };
        let positive = self.draft.select(negative, without, a.id)?;
        let moved = match known {
            Some(LAST) => zero,
            Some(_) => {
                let power = self.bit(by.id)?;
                self.draft.binary(Binary::Div, positive, power)?
            }
            None => {
                // A positive divisor; a shift by 31 bits leaves nothing.
                let (one, last) = (self.like(a, 1.0)?, self.like(a, LAST)?);
                let power = self.bit(by.id)?;
                let is_usual = self.draft.binary(Binary::Greater, power, zero)?;
                let divisor = self.draft.select(is_usual, power, one)?;
                let quotient = self.draft.binary(Binary::Div, positive, divisor)?;
                let is_last = self.draft.binary(Binary::Equal, by.id, last)?;
                self.draft.select(is_last, zero, quotient)?
            }
        };
        let restored = if unsigned {
            // The upper bit, shifted by the same number of places.
            let last = self.like(a, LAST)?;
            let place = match known {
                Some(by) => self.like(a, LAST - by)?,
                None => self.draft.binary(Binary::Sub, last, by.id)?,
            };
            let bit = self.bit(place)?;
            self.draft.binary(Binary::Add, moved, bit)?
        } else {
            self.draft.binary(Binary::Sub, minus, moved)?
        };
        let shifted = self.draft.select(negative, restored, moved)?;
        if known.is_some() {
            return Ok(shifted);
        }
        let (first, last) = (self.like(a, 0.0)?, self.like(a, LAST)?);
        let below = self.draft.binary(Binary::Lesser, by.id, first)?;
        let above = self.draft.binary(Binary::Greater, by.id, last)?;
        let is_beyond = self.draft.binary(Binary::LogicalOr, below, above)?;
        self.draft.select(is_beyond, beyond, shifted)
    }

    fn convert(&mut self, x: Term, to: DType) -> Result<Term, String> {
        let storage = to.storage();
        let id = match (x.dtype, storage) {
            (from, to) if from == to => x.id,
            (DType::I32, DType::U32) | (DType::U32, DType::I32) => x.id,
            (_, DType::Bool) => {
                let zero = self.like(x, 0.0)?;
                self.draft.binary(Binary::NotEqual, x.id, zero)?
            }
            (DType::U32, DType::F32) => {
                let signed = self.draft.cast(x.id, Type::Float32)?;
                let zero = self.draft.scalar(0.0, Type::Float32)?;
                let turn = self.draft.scalar(4_294_967_296.0, Type::Float32)?;
                let negative = self.draft.binary(Binary::Lesser, signed, zero)?;
                let turned = self.draft.binary(Binary::Add, signed, turn)?;
                self.draft.select(negative, turned, signed)?
            }
            (DType::F32, DType::U32) => {
                let turn = self.draft.scalar(2_147_483_648.0, Type::Float32)?;
                let large = self.draft.binary(Binary::GreaterOrEqual, x.id, turn)?;
                let less = self.draft.binary(Binary::Sub, x.id, turn)?;
                let fitting = self.draft.select(large, less, x.id)?;
                let fitting = self.draft.cast(fitting, Type::Int32)?;
                let back = self.draft.scalar(f64::from(i32::MIN), Type::Int32)?;
                let turned = self.draft.binary(Binary::Add, fitting, back)?;
                self.draft.select(large, turned, fitting)?
            }
            (_, to) => self.draft.cast(x.id, type_of(to))?,
        };
        let id = match to {
            DType::F16 => {
                let half = self.draft.cast(id, Type::Float16)?;
                self.draft.cast(half, Type::Float32)?
            }
            DType::BF16 => return Err("WebNN has no bfloat16".to_owned()),
            DType::I8 => self.wrapped(id, 8, true)?,
            DType::U8 => self.wrapped(id, 8, false)?,
            DType::I16 => self.wrapped(id, 16, true)?,
            DType::U16 => self.wrapped(id, 16, false)?,
            DType::F32
            | DType::F64
            | DType::I64
            | DType::I32
            | DType::U64
            | DType::U32
            | DType::Bool => id,
        };
        Ok(Term { id, dtype: storage })
    }

    /// The integer of `bits` bits to which an int32 wraps.
    fn wrapped(&mut self, x: Id, bits: u32, signed: bool) -> Result<Id, String> {
        let d = &mut self.draft;
        let turn = f64::from(1u32 << bits);
        let offset = d.scalar(if signed { turn / 2.0 } else { 0.0 }, Type::Int32)?;
        let (turn, less) = (d.scalar(turn, Type::Int32)?, d.scalar(turn - 1.0, Type::Int32)?);
        let zero = d.scalar(0.0, Type::Int32)?;
        let moved = d.binary(Binary::Add, x, offset)?;
        // Division truncates; negative numbers are moved first, so that it rounds down.
        let negative = d.binary(Binary::Lesser, moved, zero)?;
        let down = d.binary(Binary::Sub, moved, less)?;
        let dividend = d.select(negative, down, moved)?;
        let turns = d.binary(Binary::Div, dividend, turn)?;
        let whole = d.binary(Binary::Mul, turns, turn)?;
        d.binary(Binary::Sub, x, whole)
    }
}
