//! Ranges of the integers of a draft, as far as they are known when a model is loaded.

use std::collections::BTreeSet;

use flotilla_program::{
    Binary, Expr, Node, Op, ReduceKind, Step, Unary, ValueId,
    dim::{Bounds, Dim, Symbol},
};
use flotilla_tensor::DType;

use crate::graph::{Draft, Origin};

/// The least and the largest number.
pub(super) type Range = (i64, i64);

/// Most elements of a value; a larger one does not fit any page.
const ELEMENTS_MAX: i64 = 1 << 29;

/// How many iterations of a loop are followed before its carried values may be anything.
const TURNS_MAX: usize = 3;

/// Integers made of floats are assumed to be within the range in which 32-bit floats are exact.
const FROM_FLOAT: Range = (-(1 << 24), 1 << 24);

/// The ranges of all values.
pub(super) struct Ranges {
    of: Vec<Range>,
    /// Values that are assumed to fit their word although they may not.
    over: BTreeSet<ValueId>,
}

/// The range of a step's result.
#[derive(Clone, Copy)]
enum Known {
    Integer(Range),
    Float,
}

/// The range of a type; floats have none here.
pub(super) fn of_type(dtype: DType) -> Range {
    match dtype {
        DType::I64 => (i64::MIN, i64::MAX),
        // Numbers above half of the range cannot be represented here.
        DType::U64 => (0, i64::MAX),
        DType::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        DType::U32 => (0, i64::from(u32::MAX)),
        DType::I16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        DType::U16 => (0, i64::from(u16::MAX)),
        DType::I8 => (i64::from(i8::MIN), i64::from(i8::MAX)),
        DType::U8 => (0, i64::from(u8::MAX)),
        DType::Bool => (0, 1),
        DType::F32 | DType::F16 | DType::BF16 | DType::F64 => (0, 0),
    }
}

/// The range of the word that holds a type's elements.
pub(super) fn of_word(dtype: DType) -> Range {
    of_type(dtype.storage())
}

pub(super) fn within(inner: Range, outer: Range) -> bool {
    outer.0 <= inner.0 && inner.1 <= outer.1
}

fn union(a: Range, b: Range) -> Range {
    (a.0.min(b.0), a.1.max(b.1))
}

/// The range of exact numbers, limited to 64 bits.
fn exact(corners: &[i128]) -> Range {
    let fit = |number: i128| number.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
    let least = corners.iter().copied().min().unwrap_or(0);
    (fit(least), fit(corners.iter().copied().max().unwrap_or(0)))
}

fn corners(a: Range, b: Range, of: impl Fn(i128, i128) -> i128) -> Range {
    let pairs = [(a.0, b.0), (a.0, b.1), (a.1, b.0), (a.1, b.1)];
    exact(&pairs.map(|(a, b)| of(a.into(), b.into())))
}

impl Ranges {
    /// Ranges of constants, by value: computed once, because every element is read.
    pub(super) fn given(draft: &Draft) -> Vec<Option<Range>> {
        let of = draft.values.iter().map(|value| match &value.origin {
            Origin::Constant(data) if value.element.is_float() => Some((0, data.elements() as i64)),
            Origin::Constant(data) => Some(of_data(data)),
            Origin::Input | Origin::Node => None,
        });
        of.collect()
    }

    /// `given` has the ranges of constants, `of_input` of inputs, `bounds` of symbols.
    pub(super) fn new(
        draft: &Draft,
        bounds: &[Range],
        given: &[Option<Range>],
        of_input: &dyn Fn(ValueId) -> Option<Range>,
    ) -> Ranges {
        Ranges::pass(draft, bounds, given, of_input, None)
    }

    /// The same, but every result is assumed to fit its word, except those with two words.
    pub(super) fn trusting(
        draft: &Draft,
        bounds: &[Range],
        given: &[Option<Range>],
        of_input: &dyn Fn(ValueId) -> Option<Range>,
        wide: &BTreeSet<ValueId>,
    ) -> Ranges {
        Ranges::pass(draft, bounds, given, of_input, Some(wide))
    }

    fn pass(
        draft: &Draft,
        bounds: &[Range],
        given: &[Option<Range>],
        of_input: &dyn Fn(ValueId) -> Option<Range>,
        trust: Option<&BTreeSet<ValueId>>,
    ) -> Ranges {
        let of = draft.values.iter().enumerate().map(|(index, value)| match &value.origin {
            Origin::Input => {
                of_input(ValueId(index as u32)).unwrap_or_else(|| of_type(value.element))
            }
            Origin::Constant(_) => given[index].unwrap_or_else(|| of_type(value.element)),
            Origin::Node => of_type(value.element),
        });
        let mut ranges = Ranges { of: of.collect(), over: BTreeSet::new() };
        let pass = Pass { draft, bounds, trust };
        pass.block(&mut ranges, &draft.nodes);
        ranges
    }

    pub(super) fn of(&self, value: ValueId) -> Range {
        self.of[value.index()]
    }

    /// Whether a result is assumed to fit its word although it may not.
    pub(super) fn is_over(&self, value: ValueId) -> bool {
        self.over.contains(&value)
    }
}

/// The range of a constant's elements.
fn of_data(data: &crate::graph::Data) -> Range {
    let constant = super::constant::Constant {
        shape: Vec::new(),
        data: data.clone(),
        small: None,
        strings: None,
    };
    let numbers = constant.integers();
    let least = numbers.iter().flatten().min().copied();
    match (numbers.is_some(), least) {
        (true, Some(least)) => (least, numbers.iter().flatten().max().copied().unwrap_or(least)),
        (true, None) => (0, 0),
        (false, _) => of_type(data.dtype),
    }
}

struct Pass<'d> {
    draft: &'d Draft,
    bounds: &'d [Range],
    /// The values with two words; all others are assumed to fit one.
    trust: Option<&'d BTreeSet<ValueId>>,
}

impl Pass<'_> {
    fn dim(&self, dim: &Dim) -> Range {
        let of = |symbol: Symbol| {
            self.bounds.get(symbol.0 as usize).copied().unwrap_or((i64::MIN, i64::MAX))
        };
        Bounds::new(&of).of(dim)
    }

    /// Most elements of these dimensions.
    fn count<'a>(&self, dims: impl Iterator<Item = &'a Dim>) -> i64 {
        let count = dims.fold(1i64, |count, dim| count.saturating_mul(self.dim(dim).1.max(1)));
        count.min(ELEMENTS_MAX)
    }

    fn block(&self, ranges: &mut Ranges, nodes: &[Node]) {
        for node in nodes {
            self.node(ranges, node);
        }
    }

    fn node(&self, ranges: &mut Ranges, node: &Node) {
        let of = |value: ValueId| ranges.of(value);
        let all = |values: &[ValueId]| values.iter().copied().map(of).reduce(union);
        let size = (0, i64::from(i32::MAX));
        // The range of a position along a dimension of the first operand.
        let place = |axis: u32| {
            let (_, most) = self.dim(&self.draft.shape(node.inputs[0])[axis as usize]);
            (0, (most - 1).clamp(0, size.1))
        };
        let given = match &node.op {
            Op::If(branch) => {
                for region in [branch.yes, branch.no] {
                    self.block(ranges, &self.draft.regions[region as usize].nodes);
                }
                let regions =
                    [branch.yes, branch.no].map(|region| &self.draft.regions[region as usize]);
                for (index, output) in node.outputs.iter().enumerate() {
                    let [yes, no] = regions.map(|region| ranges.of(region.results[index]));
                    ranges.of[output.index()] = union(yes, no);
                }
                return;
            }
            Op::Loop(turns) => {
                self.turns(ranges, node, turns.body as usize, turns.carried as usize);
                return;
            }
            Op::Elementwise(expr) => Some(self.expr(ranges, node, expr)),
            Op::Gather(_)
            | Op::GatherElements(_)
            | Op::GatherNd(_)
            | Op::Transpose(_)
            | Op::Reshape
            | Op::Broadcast
            | Op::Slice(_) => Some(of(node.inputs[0])),
            Op::Concat(_) | Op::Pad(_) => all(&node.inputs),
            Op::ScatterElements(_) | Op::ScatterNd(_) if node.op.moves_elements() => {
                Some(union(of(node.inputs[0]), of(node.inputs[2])))
            }
            Op::Reduce(reduce) => {
                let shape = self.draft.shape(node.inputs[0]);
                let count = self.count(reduce.axes.iter().map(|&axis| &shape[axis as usize]));
                reduced(reduce.kind, of(node.inputs[0]), count)
            }
            Op::Cumulative(cumulative) => {
                let shape = self.draft.shape(node.inputs[0]);
                let count = self.count(std::iter::once(&shape[cumulative.axis as usize]));
                let kind = if cumulative.product { ReduceKind::Product } else { ReduceKind::Sum };
                reduced(kind, union(of(node.inputs[0]), (0, 0)), count)
            }
            // Numbers that do not fit a word fail where they are made.
            Op::Range(range) => {
                let count = node.outputs.iter().flat_map(|id| self.draft.shape(*id));
                let last = (0, self.count(count) - 1);
                let steps = corners(last, self.dim(&range.stride), |at, stride| at * stride);
                let all = corners(self.dim(&range.start), steps, |start, step| start + step);
                let word = of_word(DType::I32);
                Some((all.0.max(word.0), all.1.min(word.1)))
            }
            Op::Sizes(_) => Some(of_word(DType::I32)),
            Op::TopK(top) => Some(place(top.axis)),
            Op::ArgReduce(reduce) => Some(place(reduce.axis)),
            Op::FirstAbove | Op::RowRanks => Some((0, place(0).1 + 1)),
            Op::Suppress(_) => Some((-1, size.1)),
            Op::Pool(_) => Some(size),
            _ => None,
        };
        let &[output] = node.outputs.as_slice() else { return };
        let element = self.draft.value(output).element;
        let whole = of_type(element);
        let given = given.unwrap_or(whole);
        // A number that does not fit the type is wrapped to it.
        let mut range = if within(given, whole) { given } else { whole };
        let word = of_word(element);
        if self.trust.is_some_and(|wide| !wide.contains(&output))
            && matches!(element, DType::I64 | DType::U64)
            && !within(range, word)
        {
            ranges.over.insert(output);
            range = (range.0.clamp(word.0, word.1), range.1.clamp(word.0, word.1));
        }
        ranges.of[output.index()] = range;
    }

    fn turns(&self, ranges: &mut Ranges, node: &Node, body: usize, carried: usize) {
        let region = &self.draft.regions[body];
        ranges.of[region.parameters[0].index()] = (0, i64::from(i32::MAX));
        for (index, parameter) in region.parameters.iter().enumerate().skip(1) {
            ranges.of[parameter.index()] = ranges.of(node.inputs[1 + index]);
        }
        for turn in 0.. {
            self.block(ranges, &region.nodes);
            let mut settled = true;
            for (index, parameter) in region.parameters.iter().enumerate().skip(1) {
                let (before, after) = (ranges.of(*parameter), ranges.of(region.results[index]));
                if !within(after, before) {
                    let element = self.draft.value(*parameter).element;
                    let most = match self.trust {
                        // The body's results are assumed to fit.
                        Some(_) => of_word(element),
                        None => of_type(element),
                    };
                    let wider = if turn < TURNS_MAX { after } else { most };
                    ranges.of[parameter.index()] = union(before, wider);
                    settled = within(wider, before) && settled;
                }
            }
            if settled {
                break;
            }
        }
        for (index, output) in node.outputs.iter().enumerate() {
            let last = ranges.of(region.results[1 + index]);
            ranges.of[output.index()] = match index < carried {
                true => union(ranges.of(node.inputs[2 + index]), last),
                false => last,
            };
        }
    }

    fn expr(&self, ranges: &Ranges, node: &Node, expr: &Expr) -> Range {
        let mut steps: Vec<Known> = Vec::with_capacity(expr.steps.len());
        for step in &expr.steps {
            let of = |id: &u32| steps[*id as usize];
            let known = match step {
                Step::Input(index) => {
                    let value = node.inputs[*index as usize];
                    match self.draft.value(value).element.is_float() {
                        true => Known::Float,
                        false => Known::Integer(ranges.of(value)),
                    }
                }
                Step::Float(_) => Known::Float,
                Step::Int(value) => Known::Integer((i64::from(*value), i64::from(*value))),
                Step::Dim(dim) => {
                    let (low, high) = self.dim(dim);
                    let word = of_word(DType::I32);
                    Known::Integer((low.max(word.0), high.min(word.1)))
                }
                Step::Unary(function, a) => unary(*function, of(a)),
                Step::Binary(function, a, b) => binary(*function, of(a), of(b)),
                Step::Select(_, a, b) => match (of(a), of(b)) {
                    (Known::Integer(a), Known::Integer(b)) => Known::Integer(union(a, b)),
                    _ => Known::Float,
                },
                Step::Cast(to, _) if to.is_float() => Known::Float,
                Step::Cast(to, a) => match of(a) {
                    Known::Float if self.trust.is_some() => {
                        let whole = of_type(*to);
                        Known::Integer((FROM_FLOAT.0.max(whole.0), FROM_FLOAT.1.min(whole.1)))
                    }
                    Known::Integer(range) if within(range, of_type(*to)) && *to != DType::Bool => {
                        Known::Integer(range)
                    }
                    _ => Known::Integer(of_type(*to)),
                },
                Step::Bits(to, _) => Known::Integer(of_type(*to)),
                Step::Test(..) => Known::Integer((0, 1)),
            };
            steps.push(known);
        }
        match steps.last() {
            Some(Known::Integer(range)) => *range,
            _ => (0, 0),
        }
    }
}

fn reduced(kind: ReduceKind, of: Range, count: i64) -> Option<Range> {
    match kind {
        ReduceKind::Sum => {
            let count = i128::from(count);
            let (low, high) = (i128::from(of.0), i128::from(of.1));
            Some(exact(&[low, high, low * count, high * count, 0]))
        }
        ReduceKind::Product if within(of, (0, 1)) => Some((0, 1)),
        ReduceKind::Product if within(of, (-1, 1)) => Some((-1, 1)),
        ReduceKind::Min | ReduceKind::Max => Some(of),
        ReduceKind::Product | ReduceKind::Mean | ReduceKind::SumOfSquares => None,
    }
}

fn unary(function: Unary, a: Known) -> Known {
    let Known::Integer(a) = a else { return Known::Float };
    let (low, high) = (i128::from(a.0), i128::from(a.1));
    Known::Integer(match function {
        Unary::Neg => exact(&[-low, -high]),
        Unary::Abs if low <= 0 && high >= 0 => exact(&[0, -low, high]),
        Unary::Abs => exact(&[low.abs(), high.abs()]),
        Unary::Sign => (a.0.signum(), a.1.signum()),
        Unary::Relu => (a.0.max(0), a.1.max(0)),
        Unary::Square if low <= 0 && high >= 0 => exact(&[0, low * low, high * high]),
        Unary::Square => exact(&[low * low, high * high]),
        Unary::Not if within(a, (0, 1)) => (0, 1),
        Unary::Not => exact(&[-1 - low, -1 - high]),
        _ => a,
    })
}

fn binary(function: Binary, a: Known, b: Known) -> Known {
    let compares = matches!(
        function,
        Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge
    );
    if compares {
        return Known::Integer((0, 1));
    }
    let (Known::Integer(a), Known::Integer(b)) = (a, b) else { return Known::Float };
    let any = (i64::MIN, i64::MAX);
    Known::Integer(match function {
        Binary::Add => corners(a, b, |a, b| a + b),
        Binary::Sub => corners(a, b, |a, b| a - b),
        Binary::Mul => corners(a, b, |a, b| a * b),
        Binary::Div if b.0 > 0 => corners(a, b, |a, b| a / b),
        // Division by zero gives the dividend.
        Binary::Div if a.0 >= 0 && b.0 >= 0 => (0, a.1),
        Binary::Div => corners(a, (-1, 1), |a, b| a * b),
        Binary::Rem => {
            let most = b.0.unsigned_abs().max(b.1.unsigned_abs()).saturating_sub(1);
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            let low = if a.0 < 0 { (-most).max(a.0) } else { 0 };
            (low, if a.1 > 0 { most.min(a.1) } else { 0 })
        }
        Binary::Min => (a.0.min(b.0), a.1.min(b.1)),
        Binary::Max => (a.0.max(b.0), a.1.max(b.1)),
        Binary::And if a.0 >= 0 || b.0 >= 0 => {
            let most = match (a.0 >= 0, b.0 >= 0) {
                (true, true) => a.1.min(b.1),
                (true, false) => a.1,
                _ => b.1,
            };
            (0, most)
        }
        Binary::Or | Binary::Xor if a.0 >= 0 && b.0 >= 0 => (0, filled(a.1 | b.1)),
        Binary::And | Binary::Or | Binary::Xor => of_bits(a, b),
        Binary::ShiftRight if a.0 >= 0 => (0, a.1),
        Binary::ShiftRight => union(a, (-1, 0)),
        _ => any,
    })
}

/// The range of numbers with as many bits as either operand.
fn of_bits(a: Range, b: Range) -> Range {
    let bits = [a.0, a.1, b.0, b.1].map(|number| if number < 0 { !number } else { number });
    let all = filled(bits.into_iter().max().unwrap_or(i64::MAX));
    (!all, all)
}

/// The largest number with the same number of bits.
fn filled(number: i64) -> i64 {
    match 64 - number.max(0).leading_zeros() {
        63.. => i64::MAX,
        bits => (1 << bits) - 1,
    }
}
