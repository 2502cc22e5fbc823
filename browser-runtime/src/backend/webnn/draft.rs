//! A graph before it is built: operations over operands whose shapes are known, checked against the context's limits.
//!
//! It does not depend on a browser, so that the lowering of a program can be tested anywhere; `emit` builds it in the
//! browser.

use super::limits::Limits;

/// Sizes of an operand's dimensions.
pub(crate) type Shape = [u32];

/// `MLOperandDataType`, as far as programs need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Float32,
    Float16,
    Int32,
    Int8,
    Uint8,
}

impl Type {
    pub(crate) const ALL: [Type; 5] =
        [Type::Float32, Type::Float16, Type::Int32, Type::Int8, Type::Uint8];

    /// The W3C name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Type::Float32 => "float32",
            Type::Float16 => "float16",
            Type::Int32 => "int32",
            Type::Int8 => "int8",
            Type::Uint8 => "uint8",
        }
    }

    /// Bytes of one element.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Type::Float32 | Type::Int32 => 4,
            Type::Float16 => 2,
            Type::Int8 | Type::Uint8 => 1,
        }
    }
}

/// An operand of a draft, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(pub(crate) usize);

/// The operators with one operand and no options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary {
    Abs,
    Ceil,
    Cos,
    Erf,
    Exp,
    Floor,
    Gelu,
    IsInfinite,
    IsNan,
    Log,
    LogicalNot,
    Neg,
    Reciprocal,
    Relu,
    RoundEven,
    Sigmoid,
    Sign,
    Sin,
    Sqrt,
    Tan,
    Tanh,
}

impl Unary {
    /// The W3C name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unary::Abs => "abs",
            Unary::Ceil => "ceil",
            Unary::Cos => "cos",
            Unary::Erf => "erf",
            Unary::Exp => "exp",
            Unary::Floor => "floor",
            Unary::Gelu => "gelu",
            Unary::IsInfinite => "isInfinite",
            Unary::IsNan => "isNaN",
            Unary::Log => "log",
            Unary::LogicalNot => "logicalNot",
            Unary::Neg => "neg",
            Unary::Reciprocal => "reciprocal",
            Unary::Relu => "relu",
            Unary::RoundEven => "roundEven",
            Unary::Sigmoid => "sigmoid",
            Unary::Sign => "sign",
            Unary::Sin => "sin",
            Unary::Sqrt => "sqrt",
            Unary::Tan => "tan",
            Unary::Tanh => "tanh",
        }
    }
}

/// The operators with two operands, which broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Div,
    Equal,
    Greater,
    GreaterOrEqual,
    Lesser,
    LesserOrEqual,
    LogicalAnd,
    LogicalOr,
    LogicalXor,
    Max,
    Min,
    Mul,
    NotEqual,
    Pow,
    Sub,
}

impl Binary {
    /// The W3C name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Div => "div",
            Binary::Equal => "equal",
            Binary::Greater => "greater",
            Binary::GreaterOrEqual => "greaterOrEqual",
            Binary::Lesser => "lesser",
            Binary::LesserOrEqual => "lesserOrEqual",
            Binary::LogicalAnd => "logicalAnd",
            Binary::LogicalOr => "logicalOr",
            Binary::LogicalXor => "logicalXor",
            Binary::Max => "max",
            Binary::Min => "min",
            Binary::Mul => "mul",
            Binary::NotEqual => "notEqual",
            Binary::Pow => "pow",
            Binary::Sub => "sub",
        }
    }

    fn gives_truth(self) -> bool {
        match self {
            Binary::Equal
            | Binary::Greater
            | Binary::GreaterOrEqual
            | Binary::Lesser
            | Binary::LesserOrEqual
            | Binary::LogicalAnd
            | Binary::LogicalOr
            | Binary::LogicalXor
            | Binary::NotEqual => true,
            Binary::Add
            | Binary::Div
            | Binary::Max
            | Binary::Min
            | Binary::Mul
            | Binary::Pow
            | Binary::Sub => false,
        }
    }
}

/// The reductions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    Max,
    Mean,
    Min,
    Product,
    Sum,
    SumSquare,
}

impl Reduction {
    /// The W3C name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reduction::Max => "reduceMax",
            Reduction::Mean => "reduceMean",
            Reduction::Min => "reduceMin",
            Reduction::Product => "reduceProduct",
            Reduction::Sum => "reduceSum",
            Reduction::SumSquare => "reduceSumSquare",
        }
    }
}

/// How a window slides over two spatial dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window2d {
    /// Beginning and end of the height, beginning and end of the width.
    pub(crate) padding: [u32; 4],
    pub(crate) strides: [u32; 2],
    pub(crate) dilations: [u32; 2],
}

/// How an operand is computed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation {
    /// The run's input of this index.
    Input(usize),
    /// The program's constant of this index, whose words are the elements.
    Constant(usize),
    /// Elements, one word each.
    Data(Vec<u32>),
    /// One element, as a number.
    Scalar(f64),
    Unary(Unary, Id),
    Binary(Binary, Id, Id),
    /// Condition, where true, where false.
    Where(Id, Id, Id),
    Cast(Id),
    Reshape(Id),
    Expand(Id),
    Transpose(Id, Vec<u32>),
    Concat(Vec<Id>, u32),
    Slice {
        input: Id,
        starts: Vec<u32>,
        sizes: Vec<u32>,
        strides: Vec<u32>,
    },
    Reverse(Id, u32),
    Gather {
        input: Id,
        indices: Id,
        axis: u32,
    },
    GatherNd {
        input: Id,
        indices: Id,
    },
    ScatterNd {
        input: Id,
        indices: Id,
        updates: Id,
    },
    Matmul(Id, Id),
    Gemm {
        a: Id,
        b: Id,
        c: Option<Id>,
        alpha: f32,
        b_transpose: bool,
    },
    Softmax(Id, u32),
    LayerNormalization {
        input: Id,
        scale: Id,
        bias: Id,
        axes: Vec<u32>,
        epsilon: f32,
    },
    Reduce(Reduction, Id, Vec<u32>),
    ArgReduce {
        input: Id,
        axis: u32,
        largest: bool,
    },
    CumulativeSum {
        input: Id,
        axis: u32,
        exclusive: bool,
        reversed: bool,
    },
    /// `nchw` input, `ohwi` filter.
    Conv2d {
        input: Id,
        filter: Id,
        bias: Option<Id>,
        window: Window2d,
        groups: u32,
    },
    /// `nchw` input, `ohwi` filter.
    ConvTranspose2d {
        input: Id,
        filter: Id,
        window: Window2d,
    },
    /// `nchw`.
    Pool2d {
        input: Id,
        largest: bool,
        kernel: [u32; 2],
        window: Window2d,
    },
}

/// An operation and the operand that it gives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Operand {
    pub(crate) operation: Operation,
    pub(crate) ty: Type,
    pub(crate) shape: Vec<u32>,
}

/// A graph before it is built.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    limits: &'a Limits,
    operands: Vec<Operand>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(limits: &'a Limits) -> Draft<'a> {
        Draft { limits, operands: Vec::new() }
    }

    /// Every operand, each after its own operands.
    pub(crate) fn into_operands(self) -> Vec<Operand> {
        self.operands
    }

    pub(crate) fn ty(&self, id: Id) -> Type {
        self.operands[id.0].ty
    }

    pub(crate) fn shape(&self, id: Id) -> &Shape {
        &self.operands[id.0].shape
    }

    /// The value of an operand, if it is a scalar of the draft.
    pub(crate) fn known(&self, id: Id) -> Option<f64> {
        match self.operands[id.0].operation {
            Operation::Scalar(value) => Some(value),
            _ => None,
        }
    }

    /// Refuses an operand that an operator does not take.
    fn check(&self, operator: &str, operand: &str, id: Id) -> Result<(), String> {
        self.limits.check(operator, operand, self.ty(id), self.shape(id))
    }

    fn push(
        &mut self,
        operator: &str,
        operation: Operation,
        ty: Type,
        shape: Vec<u32>,
    ) -> Result<Id, String> {
        check_elements(&shape)?;
        self.limits.check(operator, "output", ty, &shape)?;
        self.operands.push(Operand { operation, ty, shape });
        Ok(Id(self.operands.len() - 1))
    }

    pub(crate) fn input(&mut self, index: usize, ty: Type, shape: &Shape) -> Result<Id, String> {
        self.push("input", Operation::Input(index), ty, shape.to_vec())
    }

    pub(crate) fn constant(&mut self, index: usize, ty: Type, shape: &Shape) -> Result<Id, String> {
        self.push("constant", Operation::Constant(index), ty, shape.to_vec())
    }

    /// Elements that are part of the draft itself, one word each.
    pub(crate) fn data(&mut self, words: Vec<u32>, ty: Type, shape: &Shape) -> Result<Id, String> {
        self.push("constant", Operation::Data(words), ty, shape.to_vec())
    }

    pub(crate) fn scalar(&mut self, value: f64, ty: Type) -> Result<Id, String> {
        self.push("constant", Operation::Scalar(value), ty, Vec::new())
    }

    pub(crate) fn unary(&mut self, unary: Unary, x: Id) -> Result<Id, String> {
        let (operand, ty) = match unary {
            Unary::IsInfinite | Unary::IsNan | Unary::LogicalNot => ("a", Type::Uint8),
            _ => ("input", self.ty(x)),
        };
        self.check(unary.name(), operand, x)?;
        let shape = self.shape(x).to_vec();
        self.push(unary.name(), Operation::Unary(unary, x), ty, shape)
    }

    pub(crate) fn binary(&mut self, binary: Binary, a: Id, b: Id) -> Result<Id, String> {
        let name = binary.name();
        self.check(name, "a", a)?;
        self.check(name, "b", b)?;
        if self.ty(a) != self.ty(b) {
            return Err(format!("{name} of {} and {}", self.ty(a).name(), self.ty(b).name()));
        }
        let shape = broadcast(self.shape(a), self.shape(b))?;
        let ty = if binary.gives_truth() { Type::Uint8 } else { self.ty(a) };
        self.push(name, Operation::Binary(binary, a, b), ty, shape)
    }

    /// Elements of `yes` where `condition` (uint8) is not 0, else of `no`.
    pub(crate) fn select(&mut self, condition: Id, yes: Id, no: Id) -> Result<Id, String> {
        let ty = self.ty(yes);
        if ty == Type::Uint8 {
            let (yes, no) = (self.cast(yes, Type::Int32)?, self.cast(no, Type::Int32)?);
            let selected = self.select(condition, yes, no)?;
            return self.cast(selected, Type::Uint8);
        }
        self.check("where", "condition", condition)?;
        self.check("where", "trueValue", yes)?;
        self.check("where", "falseValue", no)?;
        let shape = broadcast(self.shape(yes), self.shape(no))?;
        let shape = broadcast(self.shape(condition), &shape)?;
        self.push("where", Operation::Where(condition, yes, no), ty, shape)
    }

    pub(crate) fn cast(&mut self, x: Id, ty: Type) -> Result<Id, String> {
        if self.ty(x) == ty {
            return Ok(x);
        }
        self.check("cast", "input", x)?;
        let shape = self.shape(x).to_vec();
        self.push("cast", Operation::Cast(x), ty, shape)
    }

    pub(crate) fn reshape(&mut self, x: Id, shape: &Shape) -> Result<Id, String> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        if elements(self.shape(x)) != elements(shape) {
            return Err(format!("{:?} is no reshaped {shape:?}", self.shape(x)));
        }
        self.check("reshape", "input", x)?;
        let ty = self.ty(x);
        let reshaped = self.push("reshape", Operation::Reshape(x), ty, shape.to_vec())?;
        if ty == Type::Float32 {
            return Ok(reshaped);
        }
        // In Chromium 153 (TensorFlow Lite) a reshaped tensor shares its memory with the original tensor, and sums,
        // differences, products and quotients of integers are written over their first operand, although the other tensor may
        // be read later. An operator that copies keeps the two apart. Floats go to XNNPACK, which does not overwrite
        // operands.
        self.push("expand", Operation::Expand(reshaped), ty, shape.to_vec())
    }

    pub(crate) fn expand(&mut self, x: Id, shape: &Shape) -> Result<Id, String> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        if broadcast(self.shape(x), shape)? != shape {
            return Err(format!("{:?} does not broadcast to {shape:?}", self.shape(x)));
        }
        self.check("expand", "input", x)?;
        self.push("expand", Operation::Expand(x), self.ty(x), shape.to_vec())
    }

    pub(crate) fn transpose(&mut self, x: Id, permutation: &[u32]) -> Result<Id, String> {
        if permutation.iter().enumerate().all(|(at, &from)| at == from as usize) {
            return Ok(x);
        }
        self.check("transpose", "input", x)?;
        let own = self.shape(x);
        let picked = permutation.iter().map(|&from| own.get(from as usize).copied());
        let shape: Option<Vec<u32>> = picked.collect();
        let shape = shape.filter(|permuted| permuted.len() == own.len());
        let shape = shape.ok_or("a permutation of other dimensions")?;
        let operation = Operation::Transpose(x, permutation.to_vec());
        self.push("transpose", operation, self.ty(x), shape)
    }

    pub(crate) fn concat(&mut self, inputs: Vec<Id>, axis: u32) -> Result<Id, String> {
        if let &[only] = inputs.as_slice() {
            return Ok(only);
        }
        let first = *inputs.first().ok_or("nothing is concatenated")?;
        let mut shape = self.shape(first).to_vec();
        let at = axis as usize;
        let mut length = 0;
        for &input in &inputs {
            self.check("concat", "inputs", input)?;
            let size = self.shape(input).get(at).ok_or("a dimension that is not there")?;
            length += size;
        }
        shape[at] = length;
        self.push("concat", Operation::Concat(inputs, axis), self.ty(first), shape)
    }

    /// Elements `start, start + stride, ..` of each dimension, within `start..start + size`.
    pub(crate) fn slice(
        &mut self,
        input: Id,
        starts: Vec<u32>,
        sizes: Vec<u32>,
        strides: Vec<u32>,
    ) -> Result<Id, String> {
        let whole = starts.iter().all(|&start| start == 0)
            && sizes.as_slice() == self.shape(input)
            && strides.iter().all(|&stride| stride == 1);
        if whole {
            return Ok(input);
        }
        self.check("slice", "input", input)?;
        let ends = starts.iter().zip(&sizes).map(|(start, size)| start.checked_add(*size));
        let fits =
            ends.zip(self.shape(input)).all(|(end, size)| end.is_some_and(|end| end <= *size));
        if !fits || starts.len() != self.shape(input).len() {
            return Err(format!("{starts:?} and {sizes:?} of {:?}", self.shape(input)));
        }
        let shape =
            sizes.iter().zip(&strides).map(|(size, stride)| size.div_ceil(*stride)).collect();
        let ty = self.ty(input);
        self.push("slice", Operation::Slice { input, starts, sizes, strides }, ty, shape)
    }

    /// `size` elements of one dimension.
    pub(crate) fn slice_axis(
        &mut self,
        input: Id,
        axis: usize,
        start: u32,
        size: u32,
    ) -> Result<Id, String> {
        let mut sizes = self.shape(input).to_vec();
        let mut starts = vec![0; sizes.len()];
        (starts[axis], sizes[axis]) = (start, size);
        let strides = vec![1; sizes.len()];
        self.slice(input, starts, sizes, strides)
    }

    pub(crate) fn reverse(&mut self, input: Id, axis: u32) -> Result<Id, String> {
        self.check("reverse", "input", input)?;
        let shape = self.shape(input).to_vec();
        self.push("reverse", Operation::Reverse(input, axis), self.ty(input), shape)
    }

    pub(crate) fn gather(&mut self, input: Id, indices: Id, axis: u32) -> Result<Id, String> {
        self.check("gather", "input", input)?;
        self.check("gather", "indices", indices)?;
        let (data, at) = (self.shape(input), axis as usize);
        if at >= data.len() {
            return Err(format!("there is no dimension {axis}"));
        }
        let shape = [&data[..at], self.shape(indices), &data[at + 1..]].concat();
        let ty = self.ty(input);
        self.push("gather", Operation::Gather { input, indices, axis }, ty, shape)
    }

    pub(crate) fn gather_nd(&mut self, input: Id, indices: Id) -> Result<Id, String> {
        self.check("gatherND", "input", input)?;
        self.check("gatherND", "indices", indices)?;
        let (picked, data) = (self.shape(indices), self.shape(input));
        let (depth, picked) = picked.split_last().ok_or("indices without dimensions")?;
        let slice = data.get(*depth as usize..).ok_or("indices that are too deep")?;
        let shape = [picked, slice].concat();
        self.push("gatherND", Operation::GatherNd { input, indices }, self.ty(input), shape)
    }

    pub(crate) fn scatter_nd(&mut self, [input, indices, updates]: [Id; 3]) -> Result<Id, String> {
        self.check("scatterND", "input", input)?;
        self.check("scatterND", "indices", indices)?;
        self.check("scatterND", "updates", updates)?;
        let (ty, shape) = (self.ty(input), self.shape(input).to_vec());
        self.push("scatterND", Operation::ScatterNd { input, indices, updates }, ty, shape)
    }

    pub(crate) fn matmul(&mut self, a: Id, b: Id) -> Result<Id, String> {
        self.check("matmul", "a", a)?;
        self.check("matmul", "b", b)?;
        let ([batch_a @ .., m, k], [batch_b @ .., l, n]) = (self.shape(a), self.shape(b)) else {
            return Err("matmul needs two dimensions".to_owned());
        };
        if k != l {
            return Err(format!("a product over {k} and {l} elements"));
        }
        let mut shape = broadcast(batch_a, batch_b)?;
        shape.extend([*m, *n]);
        self.push("matmul", Operation::Matmul(a, b), self.ty(a), shape)
    }

    /// `alpha * a * b + c` of matrices, `c` broadcast.
    pub(crate) fn gemm(
        &mut self,
        a: Id,
        b: Id,
        c: Option<Id>,
        alpha: f32,
        b_transpose: bool,
    ) -> Result<Id, String> {
        self.check("gemm", "a", a)?;
        self.check("gemm", "b", b)?;
        if let Some(c) = c {
            self.check("gemm", "c", c)?;
        }
        let (&[m, k], &[rows, columns]) = (self.shape(a), self.shape(b)) else {
            return Err("gemm needs matrices".to_owned());
        };
        let (l, n) = if b_transpose { (columns, rows) } else { (rows, columns) };
        if k != l {
            return Err(format!("a product over {k} and {l} elements"));
        }
        let operation = Operation::Gemm { a, b, c, alpha, b_transpose };
        self.push("gemm", operation, self.ty(a), vec![m, n])
    }

    pub(crate) fn softmax(&mut self, x: Id, axis: u32) -> Result<Id, String> {
        self.check("softmax", "input", x)?;
        let shape = self.shape(x).to_vec();
        self.push("softmax", Operation::Softmax(x, axis), self.ty(x), shape)
    }

    pub(crate) fn layer_normalization(
        &mut self,
        [input, scale, bias]: [Id; 3],
        axes: Vec<u32>,
        epsilon: f32,
    ) -> Result<Id, String> {
        self.check("layerNormalization", "input", input)?;
        self.check("layerNormalization", "scale", scale)?;
        self.check("layerNormalization", "bias", bias)?;
        let (ty, shape) = (self.ty(input), self.shape(input).to_vec());
        let operation = Operation::LayerNormalization { input, scale, bias, axes, epsilon };
        self.push("layerNormalization", operation, ty, shape)
    }

    /// `axes` stay as dimensions of 1.
    pub(crate) fn reduce(&mut self, kind: Reduction, x: Id, axes: &[u32]) -> Result<Id, String> {
        self.check(kind.name(), "input", x)?;
        let mut shape = self.shape(x).to_vec();
        for &axis in axes {
            *shape.get_mut(axis as usize).ok_or("a dimension that is not there")? = 1;
        }
        self.push(kind.name(), Operation::Reduce(kind, x, axes.to_vec()), self.ty(x), shape)
    }

    /// Position (int32) of the first largest or smallest element; `axis` stays as a dimension of 1.
    pub(crate) fn arg_reduce(&mut self, input: Id, axis: u32, largest: bool) -> Result<Id, String> {
        let name = if largest { "argMax" } else { "argMin" };
        self.check(name, "input", input)?;
        let mut shape = self.shape(input).to_vec();
        *shape.get_mut(axis as usize).ok_or("a dimension that is not there")? = 1;
        self.push(name, Operation::ArgReduce { input, axis, largest }, Type::Int32, shape)
    }

    pub(crate) fn cumulative_sum(
        &mut self,
        input: Id,
        axis: u32,
        exclusive: bool,
        reversed: bool,
    ) -> Result<Id, String> {
        self.check("cumulativeSum", "input", input)?;
        let (ty, shape) = (self.ty(input), self.shape(input).to_vec());
        let operation = Operation::CumulativeSum { input, axis, exclusive, reversed };
        self.push("cumulativeSum", operation, ty, shape)
    }

    /// `[n, c, h, w]` with a filter `[o, kh, kw, c / groups]` gives `[n, o, oh, ow]`.
    pub(crate) fn conv_2d(
        &mut self,
        [input, filter]: [Id; 2],
        bias: Option<Id>,
        window: Window2d,
        groups: u32,
        output_sizes: [u32; 2],
    ) -> Result<Id, String> {
        self.check_conv("conv2d", input, filter, bias)?;
        let shape =
            vec![self.shape(input)[0], self.shape(filter)[0], output_sizes[0], output_sizes[1]];
        let operation = Operation::Conv2d { input, filter, bias, window, groups };
        self.push("conv2d", operation, self.ty(input), shape)
    }

    /// The transpose of a convolution without groups, padding and bias.
    pub(crate) fn conv_transpose_2d(
        &mut self,
        [input, filter]: [Id; 2],
        window: Window2d,
        output_sizes: [u32; 2],
    ) -> Result<Id, String> {
        self.check_conv("convTranspose2d", input, filter, None)?;
        let (batch, outputs) = (self.shape(input)[0], self.shape(filter)[0]);
        let shape = vec![batch, outputs, output_sizes[0], output_sizes[1]];
        let operation = Operation::ConvTranspose2d { input, filter, window };
        self.push("convTranspose2d", operation, self.ty(input), shape)
    }

    fn check_conv(
        &self,
        name: &str,
        input: Id,
        filter: Id,
        bias: Option<Id>,
    ) -> Result<(), String> {
        self.check(name, "input", input)?;
        self.check(name, "filter", filter)?;
        bias.map_or(Ok(()), |bias| self.check(name, "bias", bias))
    }

    pub(crate) fn pool_2d(
        &mut self,
        input: Id,
        largest: bool,
        kernel: [u32; 2],
        window: Window2d,
        output_sizes: [u32; 2],
    ) -> Result<Id, String> {
        let name = if largest { "maxPool2d" } else { "averagePool2d" };
        self.check(name, "input", input)?;
        let &[n, c, ..] = self.shape(input) else { return Err("no batch and channels".into()) };
        let shape = vec![n, c, output_sizes[0], output_sizes[1]];
        let operation = Operation::Pool2d { input, largest, kernel, window };
        self.push(name, operation, self.ty(input), shape)
    }
}

/// Refuses a shape without elements.
pub(crate) fn check_elements(shape: &Shape) -> Result<(), String> {
    if shape.contains(&0) {
        return Err(format!("WebNN has no tensors without elements, and one is {shape:?}"));
    }
    Ok(())
}

/// The number of elements.
pub(crate) fn elements(shape: &Shape) -> u64 {
    shape.iter().map(|&size| u64::from(size)).product()
}

/// The shape that both broadcast to.
pub(crate) fn broadcast(a: &Shape, b: &Shape) -> Result<Vec<u32>, String> {
    let rank = a.len().max(b.len());
    let at = |shape: &Shape, index: usize| {
        index.checked_sub(rank - shape.len()).map_or(1, |own| shape[own])
    };
    (0..rank)
        .map(|index| match (at(a, index), at(b, index)) {
            (a, 1) => Ok(a),
            (1, b) => Ok(b),
            (same, other) if same == other => Ok(same),
            _ => Err(format!("{a:?} and {b:?} do not broadcast")),
        })
        .collect()
}
