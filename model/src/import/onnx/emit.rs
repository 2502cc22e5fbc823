//! Emits operators into the program. Constants are computed here. Numbers in shapes are followed as expressions, one by one.
//! The rest becomes nodes.

use anyhow::{Result, bail};
use flotilla_kernels::{RANK_MAX, VALUE_BYTES_MAX};
use flotilla_program::{
    Binary, Check, Expr, Node, Op, PadMode, ReduceKind, Step, Unary, ValueId, dim::Dim,
};
use flotilla_tensor::DType;

use super::{
    constant::Constant,
    facts::{Known, NUMBERS_MAX, Var, integers_of},
    symbolic,
    walk::Walk,
};
use crate::graph::{
    Data,
    compute::{Words, compute},
};

/// Largest constants with which operators are computed while a graph is read, and the largest result; larger ones wait until it
/// is known whether they are needed.
const FOLDED_IN_MAX: usize = 1 << 18;
const FOLDED_OUT_MAX: usize = 1 << 14;
/// The same for numbers of quantized integers.
const DEQUANTIZED_MAX: usize = 1 << 10;

/// How many nodes back the node of an operand is searched.
const NEAR: usize = 64;

impl Walk<'_> {
    /// An operator's result, of an element type and a shape.
    ///
    /// # Errors
    /// A result that is too large for any page.
    pub(super) fn emit(
        &mut self,
        name: &str,
        op: Op,
        inputs: &[Var],
        dtype: DType,
        shape: Vec<Dim>,
    ) -> Result<Var> {
        check_size(&shape)?;
        if let Some(known) = self.evaluated(&op, inputs, dtype, &shape) {
            return Ok(known);
        }
        let (op, inputs) = match op {
            Op::Elementwise(expr) => {
                let (expr, inputs) = self.with_numbers_inside(expr, inputs);
                (Op::Elementwise(narrowed(expr, dtype)), inputs)
            }
            op => (op, inputs.to_vec()),
        };
        let wraps = wraps(dtype) && !matches!(op, Op::Elementwise(_)) && !op.moves_elements();
        let values = inputs.iter().map(|input| self.value(*input)).collect::<Result<Vec<_>>>()?;
        self.made += 1;
        let shape: Vec<Dim> = shape.into_iter().map(|dim| self.short(dim)).collect();
        let mut value = self.draft.add_node(name, op, values, dtype, shape.clone());
        if wraps {
            let steps = vec![Step::Input(0), Step::Cast(dtype, 0)];
            let op = Op::Elementwise(Expr { steps });
            value = self.draft.add_node(name, op, vec![value], dtype, shape);
        }
        Ok(self.placed(dtype, value))
    }

    /// The operand of a broadcast, if a value is made only by repetition.
    pub(super) fn before_broadcast(&mut self, var: Var) -> Option<Var> {
        let dtype = self.fact(var).dtype;
        let node = self.maker(self.fact(var).value()?)?;
        let source = matches!(node.op, Op::Broadcast).then(|| node.inputs[0])?;
        Some(self.placed(dtype, source))
    }

    /// The truth value of all elements, if it is known.
    pub(super) fn truth_of(&self, var: Var) -> Option<bool> {
        let data = match &self.fact(var).known {
            Some(Known::Constant(constant)) => &constant.data,
            _ => {
                let node = self.maker(self.fact(var).value()?)?;
                let source = matches!(node.op, Op::Broadcast).then(|| node.inputs[0])?;
                self.draft.constant(source)?
            }
        };
        let is_one = data.dtype == DType::Bool && data.elements() == 1;
        is_one.then(|| data.to_words()[0] != 0)
    }

    /// The node that computed a value, if it is among the latest ones.
    fn maker(&self, value: ValueId) -> Option<&Node> {
        self.draft.nodes.iter().rev().take(NEAR).find(|node| node.outputs == [value])
    }

    /// The least and the largest of positions, or of constants, of any shape.
    pub(super) fn range_of(&self, var: Var) -> Option<(i64, i64)> {
        if self.fact(var).dtype.is_float() {
            return None;
        }
        if let Some(numbers) = self.known_numbers(var) {
            let bounds = numbers.iter().map(|dim| self.bounded(|bounds| bounds.of(dim)));
            return bounds.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        }
        let mut node = self.maker(self.fact(var).value()?)?;
        while matches!(node.op, Op::Reshape | Op::Broadcast | Op::Transpose(_)) {
            node = self.maker(node.inputs[0])?;
        }
        let Op::Range(range) = &node.op else { return None };
        let start = self.bounded(|bounds| bounds.of(&range.start));
        match range.stride.as_fixed()? {
            0.. => Some((start.0, i64::MAX)),
            _ => Some((i64::MIN, start.1)),
        }
    }

    /// Returns one of two dimensions that must be equal. If that cannot be proved, each run checks it; `what` names the
    /// dimensions in the message for inputs that violate it.
    ///
    /// # Errors
    /// They are never equal.
    pub(super) fn same(&mut self, name: &str, what: &str, a: &Dim, b: &Dim) -> Result<Dim> {
        if a == b {
            return Ok(a.clone());
        }
        let differ = self.bounded(|bounds| bounds.differ(a, b));
        if differ {
            let (a, b) = (self.dim_text(a), self.dim_text(b));
            bail!("{what} must be equal, and are {a} and {b}");
        }
        let is_there = self.draft.checks.iter().any(|check| {
            let sides = (&check.left, &check.right);
            sides == (a, b) || sides == (b, a)
        });
        if !is_there {
            let (left, right) = (a.clone(), b.clone());
            let (node, what) = (name.to_owned(), what.to_owned());
            self.draft.checks.push(Check { node, what, left, right });
        }
        // A number is more useful than an expression, and a short one more than a long one.
        let length =
            |dim: &Dim| (dim.as_fixed().is_none(), dim.symbols().len(), symbolic::parts(dim));
        Ok(if length(b) < length(a) { b.clone() } else { a.clone() })
    }

    /// A dimension as text.
    pub(super) fn dim_text(&self, dim: &Dim) -> String {
        flotilla_program::dim_text(dim, &|symbol| {
            self.draft
                .symbols
                .get(symbol.0 as usize)
                .map_or_else(String::new, |info| info.name.clone())
        })
    }

    /// A shape as text.
    pub(super) fn shape_text(&self, shape: &[Dim]) -> String {
        let dims: Vec<String> = shape.iter().map(|dim| self.dim_text(dim)).collect();
        format!("[{}]", dims.join(","))
    }

    /// The shape that shapes broadcast to. If a dimension may or may not be 1, each run decides. If neither of two dimensions
    /// can be 1 alone, they must be equal. Source: ONNX, "Broadcasting in ONNX".
    ///
    /// # Errors
    /// Numbers that differ and are not 1.
    pub(super) fn broadcast(&mut self, name: &str, shapes: &[Vec<Dim>]) -> Result<Vec<Dim>> {
        let rank = shapes.iter().map(Vec::len).max().unwrap_or(0);
        let mut result = Vec::with_capacity(rank);
        for axis in 0..rank {
            let mut dims: Vec<&Dim> = Vec::new();
            for shape in shapes {
                let Some(own) = (axis + shape.len()).checked_sub(rank) else { continue };
                let dim = &shape[own];
                if dim.as_fixed() != Some(1) && !dims.contains(&dim) {
                    dims.push(dim);
                }
            }
            let fixed: Vec<i64> = dims.iter().filter_map(|dim| dim.as_fixed()).collect();
            result.push(match (fixed.as_slice(), dims.as_slice()) {
                (_, []) => Dim::Fixed(1),
                (_, [only]) => (*only).clone(),
                ([], [first, rest @ ..]) => {
                    let mut all = (*first).clone();
                    for dim in rest {
                        all = match self.are_one_together(&all, dim) {
                            true => self.same(name, "dimensions that broadcast", &all, dim)?,
                            false => all.broadcast(*dim),
                        };
                    }
                    all
                }
                // The others can only be 1 or equal to it.
                ([only], _) => Dim::Fixed(*only),
                _ => {
                    let shapes: Vec<String> =
                        shapes.iter().map(|shape| self.shape_text(shape)).collect();
                    bail!("{} do not broadcast", shapes.join(" and "));
                }
            });
        }
        Ok(result)
    }

    /// Whether two dimensions are 1 only together: one is the size of a slice of the other, and the slice would leave more than
    /// 1.
    fn are_one_together(&self, a: &Dim, b: &Dim) -> bool {
        let cut = |cut: &Dim, whole: &Dim| match cut {
            Dim::Min(dims) => {
                dims.iter().all(|dim| dim == whole || self.bounded(|bounds| bounds.of(dim).0 > 1))
            }
            _ => false,
        };
        cut(a, b) || cut(b, a)
    }

    /// A result that is known during import.
    fn evaluated(&mut self, op: &Op, inputs: &[Var], dtype: DType, shape: &[Dim]) -> Option<Var> {
        if !op.regions().is_empty() {
            return None;
        }
        // A constant under another shape has the same data, however large they are.
        if let (Op::Reshape, [input]) = (op, inputs)
            && let Some(Known::Constant(constant)) = &self.fact(*input).known
            && let Some(sizes) = fixed(shape)
            && sizes.iter().product::<usize>() == constant.shape.iter().product::<usize>()
        {
            let constant = Constant { shape: sizes, ..constant.clone() };
            return Some(self.constant_of(dtype, constant));
        }
        let known = |walk: &Self, input: &Var| match &walk.fact(*input).known {
            Some(Known::Constant(constant)) => Some(constant.data.elements() <= FOLDED_IN_MAX),
            Some(Known::Numbers(_)) => Some(true),
            Some(Known::Sequence(_) | Known::Nothing) | None => None,
        };
        if !inputs.iter().all(|input| known(self, input) == Some(true)) {
            return None;
        }
        let sizes = fixed(shape)?;
        let elements: usize = sizes.iter().product();
        let most = match op {
            // Quantized integers stay as narrow as they are, unless there are few of them.
            Op::Dequantize(_) => DEQUANTIZED_MAX,
            _ => FOLDED_OUT_MAX,
        };
        if elements > most {
            return None;
        }
        let constants: Option<Vec<Constant>> = inputs
            .iter()
            .map(|input| match &self.fact(*input).known {
                Some(Known::Constant(constant)) => Some(constant.clone()),
                _ => None,
            })
            .collect();
        if let Some(order) = self.order(op, inputs, &sizes) {
            return self.moved(inputs, &order, dtype, &sizes);
        }
        let integers = inputs.iter().all(|input| !self.fact(*input).dtype.is_float());
        if integers && !dtype.is_float() {
            let known = match op {
                Op::Elementwise(expr) => self.expression(expr, inputs, &sizes),
                Op::Reduce(reduce) => self.reduction(reduce.kind, &reduce.axes, inputs[0], &sizes),
                _ => None,
            };
            if let Some(dims) = known {
                let wrapped = dims.into_iter().map(|dim| wrapped(dim, dtype));
                return Some(self.numbers(dtype, &sizes, wrapped.collect::<Option<_>>()?));
            }
        }
        let constants = constants?;
        if let Op::Elementwise(expr) = op
            && let Some(constant) = self.widened(expr, inputs, &constants, &sizes)
        {
            return Some(self.constant_of(dtype, constant));
        }
        let words = computed(
            op,
            inputs.iter().map(|input| self.fact(*input).dtype),
            &constants,
            dtype,
            &sizes,
        )?;
        let data = Data::of_words(dtype, &words);
        let constant = Constant { shape: sizes, data, small: None, strings: None };
        Some(self.constant_of(dtype, constant))
    }

    /// For an operator that only moves elements: the operand and element that each element of the result is.
    fn order(&self, op: &Op, inputs: &[Var], sizes: &[usize]) -> Option<Vec<(usize, usize)>> {
        let data: Vec<usize> = match op {
            Op::Reshape
            | Op::Transpose(_)
            | Op::Broadcast
            | Op::Slice(_)
            | Op::Gather(_)
            | Op::GatherElements(_)
            | Op::GatherNd(_) => vec![0],
            Op::Pad(pad) if pad.mode == PadMode::Constant => vec![0, 1],
            Op::Pad(_) => vec![0],
            Op::Concat(_) => (0..inputs.len()).collect(),
            Op::ScatterElements(_) | Op::ScatterNd(_) if op.moves_elements() => vec![0, 2],
            _ => return None,
        };
        let mut starts = vec![0usize; inputs.len()];
        let mut words: Vec<Vec<u32>> = Vec::new();
        let mut shapes: Vec<Vec<usize>> = Vec::new();
        let mut count = 0;
        for (index, input) in inputs.iter().enumerate() {
            let shape = fixed(&self.fact(*input).shape)?;
            let elements: usize = shape.iter().product();
            if data.contains(&index) {
                starts[index] = count;
                words.push((count..count + elements).map(|at| at as u32).collect());
                count += elements;
            } else {
                let numbers = self.known_numbers_of_any_length(*input)?;
                let narrow = numbers.iter().map(|&number| i32::try_from(number).ok());
                words.push(narrow.map(|number| number.map(|x| x as u32)).collect::<Option<_>>()?);
            }
            shapes.push(shape);
        }
        let operands: Vec<Words<'_>> = words
            .iter()
            .zip(&shapes)
            .map(|(words, shape)| Words { dtype: DType::I32, shape, words })
            .collect();
        let moved = compute(op, &operands, DType::I32, sizes).ok()?;
        let places = moved.into_iter().map(|at| {
            let at = at as usize;
            let operand = data.iter().rev().find(|operand| starts[**operand] <= at)?;
            Some((*operand, at - starts[*operand]))
        });
        places.collect()
    }

    fn known_numbers_of_any_length(&self, var: Var) -> Option<Vec<i64>> {
        match self.fact(var).known.as_ref()? {
            Known::Constant(constant) => constant.integers(),
            Known::Numbers(dims) => dims.iter().map(Dim::as_fixed).collect(),
            Known::Sequence(_) | Known::Nothing => None,
        }
    }

    /// Elements of operands in another order.
    fn moved(
        &mut self,
        inputs: &[Var],
        order: &[(usize, usize)],
        dtype: DType,
        sizes: &[usize],
    ) -> Option<Var> {
        let parts: Vec<Option<&Constant>> = inputs
            .iter()
            .map(|input| match &self.fact(*input).known {
                Some(Known::Constant(constant)) => Some(constant),
                _ => None,
            })
            .collect();
        let mut used: Vec<usize> = order.iter().map(|(operand, _)| *operand).collect();
        used.sort_unstable();
        used.dedup();
        let types = used.iter().map(|&operand| Some(parts[operand]?.data.dtype));
        let types: Option<Vec<DType>> = types.collect();
        if let Some(types) = types
            && types.windows(2).all(|pair| pair[0] == pair[1])
        {
            let stored = types.first().copied().unwrap_or(dtype);
            let width = stored.wire_bytes();
            let mut bytes = Vec::with_capacity(order.len() * width);
            for &(operand, at) in order {
                bytes.extend_from_slice(&parts[operand]?.data.bytes[at * width..][..width]);
            }
            return Some(self.constant_of(dtype, Constant::new(stored, sizes, bytes)));
        }
        if order.len() > NUMBERS_MAX {
            return None;
        }
        let numbers: Vec<Option<Vec<Dim>>> =
            inputs.iter().map(|input| self.known_numbers(*input)).collect();
        let dims = order.iter().map(|&(operand, at)| numbers[operand].as_ref()?.get(at).cloned());
        let dims = dims.collect::<Option<Vec<Dim>>>()?;
        Some(self.numbers(dtype, sizes, dims))
    }

    /// An expression of integers, element by element.
    fn expression(&self, expr: &Expr, inputs: &[Var], sizes: &[usize]) -> Option<Vec<Dim>> {
        let elements: usize = sizes.iter().product();
        if elements > NUMBERS_MAX {
            return None;
        }
        let numbers: Vec<Vec<Dim>> =
            inputs.iter().map(|input| self.known_numbers(*input)).collect::<Option<_>>()?;
        let shapes: Vec<Vec<usize>> =
            inputs.iter().map(|input| fixed(&self.fact(*input).shape)).collect::<Option<_>>()?;
        let strides: Vec<Vec<usize>> = shapes
            .iter()
            .map(|shape| flotilla_kernels::broadcast_strides(shape, sizes).ok())
            .collect::<Option<_>>()?;
        let element = |flat: usize| {
            let (mut rest, mut places) = (flat, vec![0; inputs.len()]);
            for axis in (0..sizes.len()).rev() {
                let index = rest % sizes[axis];
                rest /= sizes[axis];
                places
                    .iter_mut()
                    .zip(&strides)
                    .for_each(|(at, strides)| *at += index * strides[axis]);
            }
            let input = |index: u32| {
                let index = index as usize;
                (numbers[index][places[index]].clone(), self.fact(inputs[index]).dtype)
            };
            self.bounded(|bounds| symbolic::evaluated(expr, input, bounds))
        };
        (0..elements).map(element).collect()
    }

    fn reduction(
        &self,
        kind: ReduceKind,
        axes: &[u32],
        input: Var,
        sizes: &[usize],
    ) -> Option<Vec<Dim>> {
        let numbers = self.known_numbers(input)?;
        let shape = fixed(&self.fact(input).shape)?;
        let strides = flotilla_kernels::strides(sizes);
        let mut groups: Vec<Vec<Dim>> = vec![Vec::new(); sizes.iter().product()];
        for (flat, number) in numbers.into_iter().enumerate() {
            let (mut rest, mut at) = (flat, 0);
            for axis in (0..shape.len()).rev() {
                let index = rest % shape[axis];
                rest /= shape[axis];
                if !axes.contains(&(axis as u32)) {
                    at += index * strides[axis];
                }
            }
            groups.get_mut(at)?.push(number);
        }
        let each = groups.iter();
        each.map(|group| self.bounded(|bounds| symbolic::reduced(kind, group, bounds))).collect()
    }

    /// Floats of integers that do not fit 32 bits.
    fn widened(
        &self,
        expr: &Expr,
        inputs: &[Var],
        constants: &[Constant],
        sizes: &[usize],
    ) -> Option<Constant> {
        let ([Step::Input(0), Step::Cast(to, 0)], [constant]) = (expr.steps.as_slice(), constants)
        else {
            return None;
        };
        let wide = self.fact(inputs[0]).dtype.wire_bytes() == 8;
        if !to.is_float() || !wide || self.fact(inputs[0]).dtype.is_float() {
            return None;
        }
        let floats: Vec<f32> =
            constant.integers()?.into_iter().map(|number| number as f32).collect();
        let words: Vec<u32> = floats.iter().map(|number| number.to_bits()).collect();
        let rounded = match to {
            DType::F16 | DType::BF16 => {
                let expr = Expr { steps: vec![Step::Input(0), Step::Cast(*to, 0)] };
                let operand = Words { dtype: DType::F32, shape: sizes, words: &words };
                compute(&Op::Elementwise(expr), &[operand], DType::F32, sizes).ok()?
            }
            _ => words,
        };
        let data = Data::of_words(DType::F32, &rounded);
        Some(Constant { shape: sizes.to_vec(), data, small: None, strings: None })
    }

    /// Single numbers from shapes go into the expression itself.
    fn with_numbers_inside(&self, expr: Expr, inputs: &[Var]) -> (Expr, Vec<Var>) {
        let number = |input: &Var| match &self.fact(*input).known {
            Some(Known::Numbers(dims)) if dims.len() == 1 => Some(dims[0].clone()),
            _ => None,
        };
        let rank = |input: &Var| self.fact(*input).shape.len();
        let most = inputs.iter().map(rank).max().unwrap_or(0);
        let left: Vec<Var> =
            inputs.iter().copied().filter(|input| number(input).is_none()).collect();
        // The other operands must still determine the result's rank.
        if left.len() == inputs.len() || left.iter().map(rank).max().unwrap_or(0) != most {
            return (expr, inputs.to_vec());
        }
        let mut places: Vec<u32> = Vec::with_capacity(expr.steps.len());
        let mut steps: Vec<Step> = Vec::new();
        for step in &expr.steps {
            let at = |id: &u32| places[*id as usize];
            let step = match step {
                Step::Input(index) => {
                    let input = inputs[*index as usize];
                    match number(&input) {
                        Some(dim) => {
                            steps.push(Step::Dim(dim));
                            let dtype = self.fact(input).dtype;
                            if dtype.storage() == DType::I32 {
                                places.push(steps.len() as u32 - 1);
                                continue;
                            }
                            Step::Cast(dtype, steps.len() as u32 - 1)
                        }
                        None => {
                            let at = left.iter().position(|own| *own == input).unwrap_or(0);
                            Step::Input(at as u32)
                        }
                    }
                }
                Step::Unary(function, a) => Step::Unary(*function, at(a)),
                Step::Binary(function, a, b) => Step::Binary(*function, at(a), at(b)),
                Step::Select(condition, yes, no) => Step::Select(at(condition), at(yes), at(no)),
                Step::Cast(dtype, a) => Step::Cast(*dtype, at(a)),
                Step::Bits(dtype, a) => Step::Bits(*dtype, at(a)),
                Step::Test(test, a) => Step::Test(*test, at(a)),
                Step::Float(_) | Step::Int(_) | Step::Dim(_) => step.clone(),
            };
            steps.push(step);
            places.push(steps.len() as u32 - 1);
        }
        (Expr { steps }, left)
    }
}

/// Sizes, if all are numbers.
pub(super) fn fixed(shape: &[Dim]) -> Option<Vec<usize>> {
    shape.iter().map(|dim| usize::try_from(dim.as_fixed()?).ok()).collect()
}

/// Refuses values that are too large for any page, if their shape is known.
fn check_size(shape: &[Dim]) -> Result<()> {
    if shape.len() > RANK_MAX {
        bail!("its result has {} dimensions, the limit is {RANK_MAX}", shape.len());
    }
    if let Some(size) = shape.iter().filter_map(Dim::as_fixed).find(|size| *size < 0) {
        bail!("its result would have a dimension of {size}");
    }
    let Some(sizes) = fixed(shape) else { return Ok(()) };
    let bytes = sizes.iter().try_fold(4u64, |bytes, &size| bytes.checked_mul(size as u64));
    match bytes {
        Some(bytes) if bytes <= VALUE_BYTES_MAX => Ok(()),
        _ => bail!("its result of shape {sizes:?} is over the limit of {VALUE_BYTES_MAX} bytes"),
    }
}

/// The result of an operator on constants, as a page would compute it.
fn computed(
    op: &Op,
    types: impl Iterator<Item = DType>,
    constants: &[Constant],
    dtype: DType,
    sizes: &[usize],
) -> Option<Vec<u32>> {
    let stored: Vec<Data> = constants.iter().map(|constant| constant.data.stored()).collect();
    if stored.iter().any(|data| data.dtype.wire_bytes() > 4) {
        return None;
    }
    let words: Vec<Vec<u32>> = stored.iter().map(Data::to_words).collect();
    let operands: Vec<Words<'_>> = words
        .iter()
        .zip(constants)
        .zip(types)
        .map(|((words, constant), dtype)| Words { dtype, shape: &constant.shape, words })
        .collect();
    let op = match op {
        Op::Elementwise(expr) => Op::Elementwise(narrowed(expr.clone(), dtype)),
        op => op.clone(),
    };
    // A node that cannot be computed here is refused, or fails, where it runs.
    compute(&op, &operands, dtype, sizes).ok()
}

/// An integer wrapped to its type; for 64 bits, only values that fit are known.
fn wrapped(dim: Dim, dtype: DType) -> Option<Dim> {
    let Some(number) = dim.as_fixed() else { return Some(dim) };
    let constant = integers_of(dtype, &[], &[number]);
    let bits = 8 * dtype.wire_bytes() as u32;
    let number = match dtype {
        DType::Bool => constant.integers()?[0],
        DType::I64 => number,
        DType::U64 => (number >= 0).then_some(number)?,
        _ if dtype.storage() == DType::I32 => number << (64 - bits) >> (64 - bits),
        _ => number & ((1 << bits) - 1),
    };
    Some(Dim::Fixed(number))
}

/// Whether results of a type must be wrapped to it: integers that are narrower than a word. Halves are computed with the
/// precision of words, and rounded where the model rounds them.
fn wraps(dtype: DType) -> bool {
    dtype.is_integer() && dtype.is_narrow()
}

/// An expression whose result is wrapped to its type.
fn narrowed(mut expr: Expr, dtype: DType) -> Expr {
    if wraps(dtype) && !fits(&expr.steps, dtype) {
        expr.steps.push(Step::Cast(dtype, expr.steps.len() as u32 - 1));
    }
    expr
}

/// Whether an expression over operands of this type gives only values of the type.
fn fits(steps: &[Step], dtype: DType) -> bool {
    let mut fitting: Vec<bool> = Vec::with_capacity(steps.len());
    for step in steps {
        let of = |id: &u32| fitting[*id as usize];
        fitting.push(match step {
            Step::Input(_) => true,
            Step::Select(_, a, b) => of(a) && of(b),
            Step::Unary(function, a) => {
                matches!(function, Unary::Relu | Unary::Sign | Unary::Floor | Unary::Ceil) && of(a)
            }
            Step::Binary(function, a, b) => match function {
                Binary::Min
                | Binary::Max
                | Binary::And
                | Binary::Or
                | Binary::Xor
                | Binary::Rem => of(a) && of(b),
                Binary::ShiftRight => of(a),
                _ => false,
            },
            Step::Cast(to, _) => *to == dtype,
            Step::Float(_) | Step::Int(_) | Step::Dim(_) | Step::Bits(..) | Step::Test(..) => false,
        });
    }
    fitting.last().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_not_fit_is_wrapped() {
        let of = |function: Binary| Expr {
            steps: vec![Step::Input(0), Step::Input(1), Step::Binary(function, 0, 1)],
        };
        for dtype in [DType::I8, DType::U16] {
            let sum = narrowed(of(Binary::Add), dtype).steps;
            assert_eq!(sum[2..], [Step::Binary(Binary::Add, 0, 1), Step::Cast(dtype, 2)]);
            assert_eq!(narrowed(of(Binary::Max), dtype).steps.len(), 3);
            assert_eq!(narrowed(of(Binary::Rem), dtype).steps.len(), 3);
        }
        for dtype in [DType::F16, DType::I64, DType::F32] {
            assert_eq!(narrowed(of(Binary::Add), dtype).steps.len(), 3);
        }
    }
}
