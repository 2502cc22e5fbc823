//! Expressions over 64-bit integers, computed by a page as lower and upper words.
//! Source: Knuth, "The Art of Computer Programming", volume 2, 4.3.1, for sums and products of several words.

use flotilla_program::{Binary, Expr, Step, StepId, Unary};
use flotilla_tensor::DType;

/// The result of a step of the original expression.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Term {
    /// A word, of a storage type.
    Word(StepId, DType),
    /// The lower word (U32) and the upper one (I32).
    Pair(StepId, StepId),
}

impl Term {
    fn words(self) -> Option<[StepId; 2]> {
        match self {
            Term::Pair(low, high) => Some([low, high]),
            Term::Word(..) => None,
        }
    }
}

/// An operand of the original expression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Operand {
    /// A word of a storage type, which stands for 64 bits if `wide`.
    Word { input: u32, dtype: DType, wide: bool },
    /// Its lower and its upper words.
    Pair { low: u32, high: u32 },
}

/// The result of an expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Split {
    Word(Expr),
    Pair { low: Expr, high: Expr },
}

/// An expression with all of its bits. `unsigned` says whether its 64-bit numbers are unsigned. `None` if it has a function that
/// is not supported in 64 bits.
pub(super) fn split(
    expr: &Expr,
    operand: impl Fn(u32) -> Operand,
    unsigned: bool,
) -> Option<Split> {
    let mut builder = Builder { steps: Vec::new(), unsigned };
    let mut terms: Vec<Term> = Vec::with_capacity(expr.steps.len());
    for step in &expr.steps {
        let of = |id: &u32| terms[*id as usize];
        let term = match step {
            Step::Input(index) => match operand(*index) {
                Operand::Pair { low, high } => {
                    Term::Pair(builder.push(Step::Input(low)), builder.push(Step::Input(high)))
                }
                Operand::Word { input, dtype, wide } => {
                    let word = Term::Word(builder.push(Step::Input(input)), dtype);
                    if wide { builder.extended(word)? } else { word }
                }
            },
            Step::Float(_) => Term::Word(builder.push(step.clone()), DType::F32),
            Step::Int(_) | Step::Dim(_) => Term::Word(builder.push(step.clone()), DType::I32),
            Step::Unary(function, a) => builder.unary(*function, of(a))?,
            Step::Binary(function, a, b) => builder.binary(*function, of(a), of(b))?,
            Step::Select(condition, yes, no) => builder.select(of(condition), of(yes), of(no))?,
            Step::Cast(to, a) => builder.cast(*to, of(a))?,
            Step::Bits(to, a) => match of(a) {
                Term::Word(a, _) => Term::Word(builder.push(Step::Bits(*to, a)), *to),
                Term::Pair(..) => return None,
            },
            Step::Test(test, a) => match of(a) {
                Term::Word(a, _) => Term::Word(builder.push(Step::Test(*test, a)), DType::Bool),
                Term::Pair(..) => return None,
            },
        };
        terms.push(term);
    }
    Some(match *terms.last()? {
        Term::Word(id, _) => Split::Word(builder.ending(id)),
        Term::Pair(low, high) => {
            Split::Pair { low: builder.ending(low), high: builder.ending(high) }
        }
    })
}

struct Builder {
    steps: Vec<Step>,
    unsigned: bool,
}

impl Builder {
    /// Appends a step, or returns an equal one.
    fn push(&mut self, step: Step) -> StepId {
        let known = self.steps.iter().position(|known| *known == step);
        known.unwrap_or_else(|| {
            self.steps.push(step);
            self.steps.len() - 1
        }) as StepId
    }

    fn op(&mut self, function: Binary, a: StepId, b: StepId) -> StepId {
        self.push(Step::Binary(function, a, b))
    }

    fn int(&mut self, number: i32) -> StepId {
        self.push(Step::Int(number))
    }

    fn unsigned_int(&mut self, number: i32) -> StepId {
        let number = self.int(number);
        self.bits(DType::U32, number)
    }

    fn bits(&mut self, to: DType, a: StepId) -> StepId {
        self.push(Step::Bits(to, a))
    }

    /// The steps that a result needs; the result comes last.
    fn ending(&self, last: StepId) -> Expr {
        let mut needed = vec![false; self.steps.len()];
        needed[last as usize] = true;
        for index in (0..=last as usize).rev() {
            if needed[index] {
                operands(&self.steps[index]).into_iter().for_each(|id| needed[id as usize] = true);
            }
        }
        let mut places = vec![0; self.steps.len()];
        let mut steps: Vec<Step> = Vec::new();
        for index in (0..=last as usize).filter(|&index| needed[index]) {
            let at = |id: StepId| places[id as usize];
            steps.push(moved(&self.steps[index], at));
            places[index] = steps.len() as StepId - 1;
        }
        Expr { steps }
    }

    /// A word as 64 bits.
    fn extended(&mut self, term: Term) -> Option<Term> {
        match term {
            Term::Pair(..) => Some(term),
            Term::Word(id, DType::I32) => {
                let low = self.bits(DType::U32, id);
                let shift = self.int(31);
                let high = self.op(Binary::ShiftRight, id, shift);
                Some(Term::Pair(low, high))
            }
            Term::Word(id, DType::U32) => Some(Term::Pair(id, self.int(0))),
            Term::Word(..) => None,
        }
    }

    fn both(&mut self, a: Term, b: Term) -> Option<[[StepId; 2]; 2]> {
        let (Term::Pair(a, ah), Term::Pair(b, bh)) = (self.extended(a)?, self.extended(b)?) else {
            return None;
        };
        Some([[a, ah], [b, bh]])
    }

    fn sum(&mut self, [a, ah]: [StepId; 2], [b, bh]: [StepId; 2]) -> Term {
        let low = self.op(Binary::Add, a, b);
        let over = self.op(Binary::Lt, low, a);
        let carry = self.push(Step::Cast(DType::I32, over));
        let high = self.op(Binary::Add, ah, bh);
        Term::Pair(low, self.op(Binary::Add, high, carry))
    }

    fn difference(&mut self, [a, ah]: [StepId; 2], [b, bh]: [StepId; 2]) -> Term {
        let low = self.op(Binary::Sub, a, b);
        let under = self.op(Binary::Lt, a, b);
        let borrow = self.push(Step::Cast(DType::I32, under));
        let high = self.op(Binary::Sub, ah, bh);
        Term::Pair(low, self.op(Binary::Sub, high, borrow))
    }

    /// By halves of words, because the product of two halves fits a word.
    fn product(&mut self, [a, ah]: [StepId; 2], [b, bh]: [StepId; 2]) -> Term {
        let (mask, shift) = (self.unsigned_int(0xffff), self.unsigned_int(16));
        let halves = |builder: &mut Builder, word: StepId| {
            let low = builder.op(Binary::And, word, mask);
            (low, builder.op(Binary::ShiftRight, word, shift))
        };
        let ((a0, a1), (b0, b1)) = (halves(self, a), halves(self, b));
        let p00 = self.op(Binary::Mul, a0, b0);
        let p01 = self.op(Binary::Mul, a0, b1);
        let p10 = self.op(Binary::Mul, a1, b0);
        let p11 = self.op(Binary::Mul, a1, b1);
        let ((_, c00), (m01, c01), (m10, c10)) =
            (halves(self, p00), halves(self, p01), halves(self, p10));
        let middle = self.op(Binary::Add, c00, m01);
        let middle = self.op(Binary::Add, middle, m10);
        let carry = self.op(Binary::ShiftRight, middle, shift);
        let mut high = self.op(Binary::Add, p11, c01);
        for part in [c10, carry] {
            high = self.op(Binary::Add, high, part);
        }
        let (ah, bh) = (self.bits(DType::U32, ah), self.bits(DType::U32, bh));
        for (x, y) in [(a, bh), (ah, b)] {
            let cross = self.op(Binary::Mul, x, y);
            high = self.op(Binary::Add, high, cross);
        }
        let low = self.op(Binary::Mul, a, b);
        Term::Pair(low, self.bits(DType::I32, high))
    }

    /// Whether the first is less than the second.
    fn less(&mut self, [a, ah]: [StepId; 2], [b, bh]: [StepId; 2]) -> StepId {
        let (mut ah, mut bh) = (ah, bh);
        if self.unsigned {
            (ah, bh) = (self.bits(DType::U32, ah), self.bits(DType::U32, bh));
        }
        let above = self.op(Binary::Lt, ah, bh);
        let same = self.op(Binary::Eq, ah, bh);
        let below = self.op(Binary::Lt, a, b);
        let both = self.op(Binary::And, same, below);
        self.op(Binary::Or, above, both)
    }

    fn equal(&mut self, [a, ah]: [StepId; 2], [b, bh]: [StepId; 2]) -> StepId {
        let low = self.op(Binary::Eq, a, b);
        let high = self.op(Binary::Eq, ah, bh);
        self.op(Binary::And, low, high)
    }

    fn not(&mut self, truth: StepId) -> StepId {
        self.push(Step::Unary(Unary::Not, truth))
    }

    fn choose(&mut self, condition: StepId, yes: [StepId; 2], no: [StepId; 2]) -> Term {
        let low = self.push(Step::Select(condition, yes[0], no[0]));
        Term::Pair(low, self.push(Step::Select(condition, yes[1], no[1])))
    }

    fn zero(&mut self) -> [StepId; 2] {
        let (low, high) = (self.unsigned_int(0), self.int(0));
        [low, high]
    }

    fn unary(&mut self, function: Unary, a: Term) -> Option<Term> {
        let (low, high) = match a {
            Term::Word(id, dtype) => {
                return Some(Term::Word(self.push(Step::Unary(function, id)), dtype));
            }
            Term::Pair(low, high) => (low, high),
        };
        let (x, zero) = ([low, high], self.zero());
        Some(match function {
            Unary::Neg => self.difference(zero, x),
            Unary::Not => {
                let (low, high) = (self.not(low), self.not(high));
                Term::Pair(low, high)
            }
            Unary::Abs | Unary::Relu if self.unsigned => a,
            Unary::Abs => {
                let minus = self.difference(zero, x).words()?;
                let negative = self.less(x, zero);
                self.choose(negative, minus, x)
            }
            Unary::Relu => {
                let negative = self.less(x, zero);
                self.choose(negative, zero, x)
            }
            Unary::Sign => {
                let nothing = self.equal(x, zero);
                let negative = self.less(x, zero);
                let (minus, one, none) = (self.int(-1), self.int(1), self.int(0));
                let sign = self.push(Step::Select(negative, minus, one));
                let sign = self.push(Step::Select(nothing, none, sign));
                self.extended(Term::Word(sign, DType::I32))?
            }
            Unary::Square => self.product(x, x),
            Unary::Floor | Unary::Ceil | Unary::Round => a,
            _ => return None,
        })
    }

    fn binary(&mut self, function: Binary, a: Term, b: Term) -> Option<Term> {
        if let (Term::Word(x, dtype), Term::Word(y, _)) = (a, b) {
            let compares = matches!(
                function,
                Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge
            );
            let id = self.op(function, x, y);
            return Some(Term::Word(id, if compares { DType::Bool } else { dtype }));
        }
        let [a, b] = self.both(a, b)?;
        let truth = |id: StepId| Some(Term::Word(id, DType::Bool));
        Some(match function {
            Binary::Add => self.sum(a, b),
            Binary::Sub => self.difference(a, b),
            Binary::Mul => self.product(a, b),
            Binary::Min | Binary::Max => {
                let less = self.less(a, b);
                let (yes, no) = if function == Binary::Min { (a, b) } else { (b, a) };
                self.choose(less, yes, no)
            }
            Binary::Eq => return truth(self.equal(a, b)),
            Binary::Ne => {
                let equal = self.equal(a, b);
                return truth(self.not(equal));
            }
            Binary::Lt => return truth(self.less(a, b)),
            Binary::Gt => return truth(self.less(b, a)),
            Binary::Ge => {
                let less = self.less(a, b);
                return truth(self.not(less));
            }
            Binary::Le => {
                let greater = self.less(b, a);
                return truth(self.not(greater));
            }
            Binary::And | Binary::Or | Binary::Xor => {
                let low = self.op(function, a[0], b[0]);
                Term::Pair(low, self.op(function, a[1], b[1]))
            }
            Binary::ShiftLeft => self.shifted_left(a, b[0]),
            Binary::ShiftRight if self.unsigned => self.shifted_right(a, b[0]),
            Binary::ShiftRight | Binary::Div | Binary::Rem | Binary::Pow => return None,
        })
    }

    /// The distances that bits move between words. A distance beyond the words, or below 0, shifts everything out.
    fn distances(&mut self, by: StepId) -> [StepId; 3] {
        let word = self.unsigned_int(32);
        let across = self.op(Binary::Sub, word, by);
        let beyond = self.op(Binary::Sub, by, word);
        [by, across, beyond]
    }

    fn shifted_left(&mut self, [low, high]: [StepId; 2], by: StepId) -> Term {
        let [by, across, beyond] = self.distances(by);
        let high = self.bits(DType::U32, high);
        let own = self.op(Binary::ShiftLeft, high, by);
        let over = self.op(Binary::ShiftRight, low, across);
        let far = self.op(Binary::ShiftLeft, low, beyond);
        let high = self.op(Binary::Or, own, over);
        let high = self.op(Binary::Or, high, far);
        let low = self.op(Binary::ShiftLeft, low, by);
        Term::Pair(low, self.bits(DType::I32, high))
    }

    fn shifted_right(&mut self, [low, high]: [StepId; 2], by: StepId) -> Term {
        let [by, across, beyond] = self.distances(by);
        let high = self.bits(DType::U32, high);
        let own = self.op(Binary::ShiftRight, low, by);
        let over = self.op(Binary::ShiftLeft, high, across);
        let far = self.op(Binary::ShiftRight, high, beyond);
        let low = self.op(Binary::Or, own, over);
        let low = self.op(Binary::Or, low, far);
        let high = self.op(Binary::ShiftRight, high, by);
        Term::Pair(low, self.bits(DType::I32, high))
    }

    fn select(&mut self, condition: Term, yes: Term, no: Term) -> Option<Term> {
        let Term::Word(condition, _) = condition else { return None };
        if let (Term::Word(yes, dtype), Term::Word(no, _)) = (yes, no) {
            return Some(Term::Word(self.push(Step::Select(condition, yes, no)), dtype));
        }
        let [yes, no] = self.both(yes, no)?;
        Some(self.choose(condition, yes, no))
    }

    fn cast(&mut self, to: DType, a: Term) -> Option<Term> {
        let wide = matches!(to, DType::I64 | DType::U64);
        match a {
            Term::Word(id, DType::F32) if wide => Some(self.floored(id)),
            Term::Word(id, dtype) if wide => {
                let number = match dtype {
                    DType::Bool => Term::Word(self.push(Step::Cast(DType::I32, id)), DType::I32),
                    _ => a,
                };
                self.extended(number)
            }
            Term::Word(id, _) => Some(Term::Word(self.push(Step::Cast(to, id)), to.storage())),
            Term::Pair(..) if wide => Some(a),
            Term::Pair(low, high) if to.is_float() => {
                // Computed from the absolute value, so that -1 is not the difference of two numbers near 2^32.
                let zero = self.zero();
                let negative = (!self.unsigned).then(|| self.less([low, high], zero));
                let size = negative.map(|negative| {
                    let minus = self.difference(zero, [low, high]).words()?;
                    self.choose(negative, minus, [low, high]).words()
                });
                let [low, high] = size.unwrap_or(Some([low, high]))?;
                let high = self.bits(DType::U32, high);
                let high = self.push(Step::Cast(DType::F32, high));
                let low = self.push(Step::Cast(DType::F32, low));
                let turn = self.push(Step::Float(4_294_967_296.0));
                let high = self.op(Binary::Mul, high, turn);
                let mut sum = self.op(Binary::Add, high, low);
                if let Some(negative) = negative {
                    let minus = self.push(Step::Unary(Unary::Neg, sum));
                    sum = self.push(Step::Select(negative, minus, sum));
                }
                let sum = if to.is_narrow() { self.push(Step::Cast(to, sum)) } else { sum };
                Some(Term::Word(sum, DType::F32))
            }
            Term::Pair(low, high) if to == DType::Bool => {
                let high = self.bits(DType::U32, high);
                let any = self.op(Binary::Or, low, high);
                Some(Term::Word(self.push(Step::Cast(DType::Bool, any)), DType::Bool))
            }
            Term::Pair(low, _) => {
                let word = self.bits(to.storage(), low);
                let word = if to.is_narrow() { self.push(Step::Cast(to, word)) } else { word };
                Some(Term::Word(word, to.storage()))
            }
        }
    }

    /// The integer part of a float: how many times 2^32 goes into it, and the rest. Floats hold both exactly.
    fn floored(&mut self, x: StepId) -> Term {
        // The absolute value, rounded towards 0.
        let size = self.push(Step::Unary(Unary::Abs, x));
        let size = self.push(Step::Unary(Unary::Floor, size));
        let turn = self.push(Step::Float(4_294_967_296.0));
        let turns = self.op(Binary::Div, size, turn);
        let turns = self.push(Step::Unary(Unary::Floor, turns));
        let whole = self.op(Binary::Mul, turns, turn);
        let rest = self.op(Binary::Sub, size, whole);
        let high = self.push(Step::Cast(DType::U32, turns));
        let (low, high) = (self.push(Step::Cast(DType::U32, rest)), self.bits(DType::I32, high));
        let zero = self.zero();
        let Term::Pair(minus, minus_high) = self.difference(zero, [low, high]) else {
            return Term::Pair(low, high);
        };
        let nothing = self.push(Step::Float(0.0));
        let negative = self.op(Binary::Lt, x, nothing);
        self.choose(negative, [minus, minus_high], [low, high])
    }
}

fn operands(step: &Step) -> Vec<StepId> {
    match step {
        Step::Input(_) | Step::Float(_) | Step::Int(_) | Step::Dim(_) => Vec::new(),
        Step::Unary(_, a) | Step::Cast(_, a) | Step::Bits(_, a) | Step::Test(_, a) => vec![*a],
        Step::Binary(_, a, b) => vec![*a, *b],
        Step::Select(a, b, c) => vec![*a, *b, *c],
    }
}

fn moved(step: &Step, at: impl Fn(StepId) -> StepId) -> Step {
    match step {
        Step::Input(_) | Step::Float(_) | Step::Int(_) | Step::Dim(_) => step.clone(),
        Step::Unary(function, a) => Step::Unary(*function, at(*a)),
        Step::Cast(dtype, a) => Step::Cast(*dtype, at(*a)),
        Step::Bits(dtype, a) => Step::Bits(*dtype, at(*a)),
        Step::Test(test, a) => Step::Test(*test, at(*a)),
        Step::Binary(function, a, b) => Step::Binary(*function, at(*a), at(*b)),
        Step::Select(a, b, c) => Step::Select(at(*a), at(*b), at(*c)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::compute::{Words, compute};
    use flotilla_program::Op;

    const NUMBERS: [i64; 14] = [
        0,
        1,
        -1,
        7,
        -40,
        i32::MAX as i64,
        i32::MIN as i64,
        u32::MAX as i64,
        1 << 32,
        -(1 << 33) + 5,
        0x1234_5678_9abc_def0,
        -0x0fed_cba9_8765_4321,
        i64::MAX,
        i64::MIN,
    ];

    /// The result of steps of two numbers of 64 bits.
    fn of(steps: Vec<Step>, a: i64, b: i64, unsigned: bool) -> i64 {
        let pair = |index: u32| Operand::Pair { low: 2 * index, high: 2 * index + 1 };
        let words = |number: i64| [number as u32, (number >> 32) as u32];
        let words: Vec<u32> = [words(a), words(b)].concat();
        let run = |expr: Expr, dtype: DType| {
            let inputs: Vec<Words<'_>> = (0..4)
                .map(|index| Words {
                    dtype: if index % 2 == 0 { DType::U32 } else { DType::I32 },
                    shape: &[],
                    words: &words[index..=index],
                })
                .collect();
            compute(&Op::Elementwise(expr), &inputs, dtype, &[]).expect("it computes")[0]
        };
        match split(&Expr { steps }, pair, unsigned).expect("it is known") {
            Split::Word(expr) => i64::from(run(expr, DType::Bool)),
            Split::Pair { low, high } => {
                i64::from(run(low, DType::U32)) | i64::from(run(high, DType::I32)) << 32
            }
        }
    }

    fn binary(function: Binary, a: i64, b: i64, unsigned: bool) -> i64 {
        let steps = vec![Step::Input(0), Step::Input(1), Step::Binary(function, 0, 1)];
        of(steps, a, b, unsigned)
    }

    #[test]
    fn arithmetic_has_all_bits() {
        for a in NUMBERS {
            for b in NUMBERS {
                let exact = [
                    (Binary::Add, a.wrapping_add(b)),
                    (Binary::Sub, a.wrapping_sub(b)),
                    (Binary::Mul, a.wrapping_mul(b)),
                    (Binary::Min, a.min(b)),
                    (Binary::Max, a.max(b)),
                    (Binary::And, a & b),
                    (Binary::Or, a | b),
                    (Binary::Xor, a ^ b),
                    (Binary::Lt, i64::from(a < b)),
                    (Binary::Le, i64::from(a <= b)),
                    (Binary::Gt, i64::from(a > b)),
                    (Binary::Ge, i64::from(a >= b)),
                    (Binary::Eq, i64::from(a == b)),
                    (Binary::Ne, i64::from(a != b)),
                ];
                for (function, want) in exact {
                    assert_eq!(binary(function, a, b, false), want, "{function:?} of {a} and {b}");
                }
                let less = i64::from((a as u64) < b as u64);
                assert_eq!(binary(Binary::Lt, a, b, true), less, "{a} and {b} without sign");
            }
        }
    }

    #[test]
    fn functions_of_one_number_have_all_bits() {
        let unary = |function, a| of(vec![Step::Input(0), Step::Unary(function, 0)], a, 0, false);
        for a in NUMBERS {
            assert_eq!(unary(Unary::Neg, a), a.wrapping_neg());
            assert_eq!(unary(Unary::Abs, a), a.wrapping_abs());
            assert_eq!(unary(Unary::Sign, a), a.signum());
            assert_eq!(unary(Unary::Not, a), !a);
            assert_eq!(unary(Unary::Relu, a), a.max(0));
        }
    }

    #[test]
    fn bits_move_between_words() {
        for a in NUMBERS {
            for by in [0, 1, 31, 32, 33, 63] {
                assert_eq!(binary(Binary::ShiftLeft, a, by, true), a << by, "{a} << {by}");
                let right = (a as u64 >> by) as i64;
                assert_eq!(binary(Binary::ShiftRight, a, by, true), right, "{a} >> {by}");
            }
        }
    }

    #[test]
    fn floats_become_whole_numbers_and_back() {
        for number in [0.0f32, -0.5, 1.75, 3e9, -3e9, 1e12, -1.5e18, 8_589_934_592.0] {
            let operand = |_| Operand::Word { input: 0, dtype: DType::F32, wide: false };
            let expr = Expr { steps: vec![Step::Input(0), Step::Cast(DType::I64, 0)] };
            let Some(Split::Pair { low, high }) = split(&expr, operand, false) else {
                panic!("a pair");
            };
            let word = [number.to_bits()];
            let input = Words { dtype: DType::F32, shape: &[], words: &word };
            let run = |expr, dtype| {
                compute(&Op::Elementwise(expr), &[input], dtype, &[]).expect("it computes")[0]
            };
            let got = i64::from(run(low, DType::U32)) | i64::from(run(high, DType::I32)) << 32;
            assert_eq!(got, number as i64, "{number}");
        }
        for a in NUMBERS {
            let pair = |_| Operand::Pair { low: 0, high: 1 };
            let expr = Expr { steps: vec![Step::Input(0), Step::Cast(DType::F32, 0)] };
            let Some(Split::Word(expr)) = split(&expr, pair, false) else { panic!("a word") };
            let words = [[a as u32], [(a >> 32) as u32]];
            let inputs = [
                Words { dtype: DType::U32, shape: &[], words: &words[0] },
                Words { dtype: DType::I32, shape: &[], words: &words[1] },
            ];
            let got = compute(&Op::Elementwise(expr), &inputs, DType::F32, &[]).expect("computes");
            let (got, want) = (f32::from_bits(got[0]), a as f32);
            assert!((got - want).abs() <= want.abs() * f32::EPSILON, "{a}: {got}");
        }
    }
}
