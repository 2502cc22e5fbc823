//! Builds a draft with the browser's builder.

use flotilla_webnn::{
    MlArgMinMaxOptions, MlConv2dOptions, MlConvTranspose2dOptions, MlCumulativeSumOptions,
    MlGatherOptions, MlGemmOptions, MlGraphBuilder, MlLayerNormalizationOptions, MlOperand,
    MlOperandDescriptor, MlOperatorOptions, MlPool2dOptions, MlReduceOptions, MlReverseOptions,
    MlSliceOptions, MlTransposeOptions,
};
use js_sys::{Array, Object, Reflect};
use wasm_bindgen::JsValue;

use super::{
    draft::{Binary, Id, Operand, Operation, Reduction, Type, Unary, Window2d},
    lower::Lowered,
};

/// The source of a draft's constants.
pub(super) trait ConstantSource {
    fn constant(
        &self,
        builder: &MlGraphBuilder,
        index: usize,
        operand: &Operand,
    ) -> Result<MlOperand, JsValue>;
}

/// The parts from which a graph is built.
pub(super) struct Emitted {
    /// `MLNamedOperands`; the names are [`output_name`]s.
    pub(super) outputs: Object,
    /// The program's inputs that the graph has.
    pub(super) inputs: Vec<usize>,
}

pub(super) fn input_name(index: usize) -> String {
    format!("i{index}")
}

pub(super) fn output_name(index: usize) -> String {
    format!("o{index}")
}

/// The elements of a type that words hold, as a typed array.
pub(super) fn elements(words: &[u32], ty: Type) -> Object {
    match ty {
        Type::Float32 => js_sys::Float32Array::from(bytemuck::cast_slice::<u32, f32>(words)).into(),
        Type::Int32 => js_sys::Int32Array::from(bytemuck::cast_slice::<u32, i32>(words)).into(),
        Type::Uint8 => {
            let bytes: Vec<u8> = words.iter().map(|&word| word as u8).collect();
            js_sys::Uint8Array::from(bytes.as_slice()).into()
        }
        Type::Int8 => {
            let bytes: Vec<i8> = words.iter().map(|&word| word as i8).collect();
            js_sys::Int8Array::from(bytes.as_slice()).into()
        }
        Type::Float16 => {
            let halves: Vec<u16> = words
                .iter()
                .map(|&word| half::f16::from_f32(f32::from_bits(word)).to_bits())
                .collect();
            js_sys::Uint16Array::from(halves.as_slice()).into()
        }
    }
}

pub(super) fn descriptor(operand: &Operand) -> MlOperandDescriptor {
    MlOperandDescriptor::new(operand.ty.name(), &operand.shape)
}

/// Emits the operands that the results need. A result that is an input or a constant becomes an output by
/// `identity`.
pub(super) fn emit(
    builder: &MlGraphBuilder,
    lowered: &Lowered,
    constants: &impl ConstantSource,
) -> Result<Emitted, JsValue> {
    let operands = &lowered.operands;
    let mut needed = vec![false; operands.len()];
    lowered.results.iter().flatten().for_each(|id| needed[id.0] = true);
    for at in (0..operands.len()).rev() {
        if needed[at] {
            sources(&operands[at].operation).into_iter().for_each(|id| needed[id.0] = true);
        }
    }
    let mut made: Vec<Option<MlOperand>> = vec![None; operands.len()];
    let mut inputs = Vec::new();
    for (at, operand) in operands.iter().enumerate().filter(|(at, _)| needed[*at]) {
        if let Operation::Input(index) = operand.operation {
            inputs.push(index);
        }
        let emitter = Emitter { builder, made: &made };
        let operand = match &operand.operation {
            Operation::Constant(index) => constants.constant(builder, *index, operand)?,
            _ => emitter.operand(operand)?,
        };
        made[at] = Some(operand);
    }
    let outputs = Object::new();
    for (index, id) in lowered.results.iter().enumerate() {
        let Some(id) = id else { continue };
        let emitter = Emitter { builder, made: &made };
        let is_given = matches!(
            operands[id.0].operation,
            Operation::Input(_)
                | Operation::Constant(_)
                | Operation::Data(_)
                | Operation::Scalar(_)
        );
        let is_second = lowered.results[..index].contains(&Some(*id));
        let output = emitter.at(*id)?;
        let output = if is_given || is_second {
            builder.identity(output, &MlOperatorOptions::new())?
        } else {
            output.clone()
        };
        Reflect::set(&outputs, &output_name(index).into(), &output)?;
    }
    Ok(Emitted { outputs, inputs })
}

/// The operands of an operation.
fn sources(operation: &Operation) -> Vec<Id> {
    match *operation {
        Operation::Input(_)
        | Operation::Constant(_)
        | Operation::Data(_)
        | Operation::Scalar(_) => Vec::new(),
        Operation::Unary(_, x)
        | Operation::Cast(x)
        | Operation::Reshape(x)
        | Operation::Expand(x)
        | Operation::Transpose(x, _)
        | Operation::Slice { input: x, .. }
        | Operation::Reverse(x, _)
        | Operation::Softmax(x, _)
        | Operation::Reduce(_, x, _)
        | Operation::ArgReduce { input: x, .. }
        | Operation::CumulativeSum { input: x, .. }
        | Operation::Pool2d { input: x, .. } => vec![x],
        Operation::Binary(_, a, b)
        | Operation::Matmul(a, b)
        | Operation::Gather { input: a, indices: b, .. }
        | Operation::GatherNd { input: a, indices: b } => vec![a, b],
        Operation::Where(a, b, c)
        | Operation::ScatterNd { input: a, indices: b, updates: c }
        | Operation::LayerNormalization { input: a, scale: b, bias: c, .. } => vec![a, b, c],
        Operation::Concat(ref inputs, _) => inputs.clone(),
        Operation::Gemm { a, b, c, .. } => [a, b].into_iter().chain(c).collect(),
        Operation::ConvTranspose2d { input, filter, .. } => vec![input, filter],
        Operation::Conv2d { input, filter, bias, .. } => {
            [input, filter].into_iter().chain(bias).collect()
        }
    }
}

struct Emitter<'a> {
    builder: &'a MlGraphBuilder,
    made: &'a [Option<MlOperand>],
}

impl Emitter<'_> {
    fn at(&self, id: Id) -> Result<&MlOperand, JsValue> {
        self.made[id.0].as_ref().ok_or_else(|| JsValue::from("an operand before it is made"))
    }

    fn operand(&self, operand: &Operand) -> Result<MlOperand, JsValue> {
        let b = self.builder;
        let plain = MlOperatorOptions::new();
        match &operand.operation {
            Operation::Input(index) => b.input(&input_name(*index), &descriptor(operand)),
            Operation::Constant(_) => Err(JsValue::from("a constant without its source")),
            Operation::Data(words) => {
                b.constant(&descriptor(operand), &elements(words, operand.ty))
            }
            Operation::Scalar(value) => b.constant_scalar(operand.ty.name(), &(*value).into()),
            Operation::Unary(unary, x) => self.unary(*unary, self.at(*x)?),
            Operation::Binary(binary, x, y) => self.binary(*binary, self.at(*x)?, self.at(*y)?),
            Operation::Where(condition, yes, no) => {
                b.where_(self.at(*condition)?, self.at(*yes)?, self.at(*no)?, &plain)
            }
            Operation::Cast(x) => b.cast(self.at(*x)?, operand.ty.name(), &plain),
            Operation::Reshape(x) => b.reshape(self.at(*x)?, &operand.shape, &plain),
            Operation::Expand(x) => b.expand(self.at(*x)?, &operand.shape, &plain),
            Operation::Transpose(x, permutation) => {
                let options = MlTransposeOptions::new();
                options.set_permutation(permutation);
                b.transpose(self.at(*x)?, &options)
            }
            Operation::Concat(inputs, axis) => {
                let list = Array::new();
                for input in inputs {
                    list.push(self.at(*input)?);
                }
                b.concat(&list, *axis, &plain)
            }
            Operation::Slice { input, starts, sizes, strides } => {
                let options = MlSliceOptions::new();
                options.set_strides(strides);
                b.slice(self.at(*input)?, starts, sizes, &options)
            }
            Operation::Reverse(x, axis) => {
                let options = MlReverseOptions::new();
                options.set_axes(&[*axis]);
                b.reverse(self.at(*x)?, &options)
            }
            Operation::Gather { input, indices, axis } => {
                let options = MlGatherOptions::new();
                options.set_axis(*axis);
                b.gather(self.at(*input)?, self.at(*indices)?, &options)
            }
            Operation::GatherNd { input, indices } => {
                b.gather_nd(self.at(*input)?, self.at(*indices)?, &plain)
            }
            Operation::ScatterNd { input, indices, updates } => {
                b.scatter_nd(self.at(*input)?, self.at(*indices)?, self.at(*updates)?, &plain)
            }
            Operation::Matmul(x, y) => b.matmul(self.at(*x)?, self.at(*y)?, &plain),
            Operation::Gemm { a, b: other, c, alpha, b_transpose } => {
                let options = MlGemmOptions::new();
                options.set_alpha(f64::from(*alpha));
                options.set_b_transpose(*b_transpose);
                if let Some(c) = c {
                    options.set_c(self.at(*c)?);
                }
                b.gemm(self.at(*a)?, self.at(*other)?, &options)
            }
            Operation::Softmax(x, axis) => b.softmax(self.at(*x)?, *axis, &plain),
            Operation::LayerNormalization { input, scale, bias, axes, epsilon } => {
                let options = MlLayerNormalizationOptions::new();
                options.set_scale(self.at(*scale)?);
                options.set_bias(self.at(*bias)?);
                options.set_axes(axes);
                options.set_epsilon(f64::from(*epsilon));
                b.layer_normalization(self.at(*input)?, &options)
            }
            Operation::Reduce(kind, x, axes) => self.reduce(*kind, self.at(*x)?, axes),
            Operation::ArgReduce { input, axis, largest } => {
                let options = MlArgMinMaxOptions::new();
                options.set_keep_dimensions(true);
                options.set_output_data_type(operand.ty.name());
                let input = self.at(*input)?;
                if *largest {
                    b.arg_max(input, *axis, &options)
                } else {
                    b.arg_min(input, *axis, &options)
                }
            }
            Operation::CumulativeSum { input, axis, exclusive, reversed } => {
                let options = MlCumulativeSumOptions::new();
                options.set_exclusive(*exclusive);
                options.set_reversed(*reversed);
                b.cumulative_sum(self.at(*input)?, *axis, &options)
            }
            Operation::Conv2d { input, filter, bias, window, groups } => {
                let Window2d { padding, strides, dilations } = window;
                let options = MlConv2dOptions::new();
                options.set_padding(padding);
                options.set_strides(strides);
                options.set_dilations(dilations);
                options.set_groups(*groups);
                options.set_input_layout("nchw");
                options.set_filter_layout("ohwi");
                if let Some(bias) = bias {
                    options.set_bias(self.at(*bias)?);
                }
                b.conv_2d(self.at(*input)?, self.at(*filter)?, &options)
            }
            Operation::ConvTranspose2d { input, filter, window } => {
                let Window2d { padding, strides, dilations } = window;
                let options = MlConvTranspose2dOptions::new();
                options.set_padding(padding);
                options.set_strides(strides);
                options.set_dilations(dilations);
                options.set_input_layout("nchw");
                options.set_filter_layout("ohwi");
                b.conv_transpose_2d(self.at(*input)?, self.at(*filter)?, &options)
            }
            Operation::Pool2d { input, largest, kernel, window } => {
                let Window2d { padding, strides, dilations } = window;
                let options = MlPool2dOptions::new();
                options.set_window_dimensions(kernel);
                options.set_padding(padding);
                options.set_strides(strides);
                options.set_dilations(dilations);
                options.set_layout("nchw");
                options.set_output_sizes(&operand.shape[2..]);
                let input = self.at(*input)?;
                if *largest {
                    b.max_pool_2d(input, &options)
                } else {
                    b.average_pool_2d(input, &options)
                }
            }
        }
        .and_then(|made| self.checked(operand, made))
    }

    /// The type and shape that the browser infers for an operation must be the draft's.
    fn checked(&self, operand: &Operand, made: MlOperand) -> Result<MlOperand, JsValue> {
        if made.shape() == operand.shape && made.data_type() == operand.ty.name() {
            return Ok(made);
        }
        let (shape, ty) = (made.shape(), made.data_type());
        Err(format!(
            "{:?} gives {ty} {shape:?}, not {} {:?}",
            operand.operation,
            operand.ty.name(),
            operand.shape
        )
        .into())
    }

    fn unary(&self, unary: Unary, x: &MlOperand) -> Result<MlOperand, JsValue> {
        let (b, options) = (self.builder, &MlOperatorOptions::new());
        match unary {
            Unary::Abs => b.abs(x, options),
            Unary::Ceil => b.ceil(x, options),
            Unary::Cos => b.cos(x, options),
            Unary::Erf => b.erf(x, options),
            Unary::Exp => b.exp(x, options),
            Unary::Floor => b.floor(x, options),
            Unary::Gelu => b.gelu(x, options),
            Unary::IsInfinite => b.is_infinite(x, options),
            Unary::IsNan => b.is_nan(x, options),
            Unary::Log => b.log(x, options),
            Unary::LogicalNot => b.logical_not(x, options),
            Unary::Neg => b.neg(x, options),
            Unary::Reciprocal => b.reciprocal(x, options),
            Unary::Relu => b.relu(x, options),
            Unary::RoundEven => b.round_even(x, options),
            Unary::Sigmoid => b.sigmoid(x, options),
            Unary::Sign => b.sign(x, options),
            Unary::Sin => b.sin(x, options),
            Unary::Sqrt => b.sqrt(x, options),
            Unary::Tan => b.tan(x, options),
            Unary::Tanh => b.tanh(x, options),
        }
    }

    fn binary(&self, binary: Binary, x: &MlOperand, y: &MlOperand) -> Result<MlOperand, JsValue> {
        let (b, options) = (self.builder, &MlOperatorOptions::new());
        match binary {
            Binary::Add => b.add(x, y, options),
            Binary::Div => b.div(x, y, options),
            Binary::Equal => b.equal(x, y, options),
            Binary::Greater => b.greater(x, y, options),
            Binary::GreaterOrEqual => b.greater_or_equal(x, y, options),
            Binary::Lesser => b.lesser(x, y, options),
            Binary::LesserOrEqual => b.lesser_or_equal(x, y, options),
            Binary::LogicalAnd => b.logical_and(x, y, options),
            Binary::LogicalOr => b.logical_or(x, y, options),
            Binary::LogicalXor => b.logical_xor(x, y, options),
            Binary::Max => b.max(x, y, options),
            Binary::Min => b.min(x, y, options),
            Binary::Mul => b.mul(x, y, options),
            Binary::NotEqual => b.not_equal(x, y, options),
            Binary::Pow => b.pow(x, y, options),
            Binary::Sub => b.sub(x, y, options),
        }
    }

    fn reduce(&self, kind: Reduction, x: &MlOperand, axes: &[u32]) -> Result<MlOperand, JsValue> {
        let b = self.builder;
        let options = MlReduceOptions::new();
        options.set_axes(axes);
        options.set_keep_dimensions(true);
        match kind {
            Reduction::Max => b.reduce_max(x, &options),
            Reduction::Mean => b.reduce_mean(x, &options),
            Reduction::Min => b.reduce_min(x, &options),
            Reduction::Product => b.reduce_product(x, &options),
            Reduction::Sum => b.reduce_sum(x, &options),
            Reduction::SumSquare => b.reduce_sum_square(x, &options),
        }
    }
}
