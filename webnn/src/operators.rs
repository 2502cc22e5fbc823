//! The operators of the builder, one method each.

use js_sys::Array;
use wasm_bindgen::prelude::*;

use crate::{
    MlArgMinMaxOptions, MlBatchNormalizationOptions, MlClampOptions, MlConv2dOptions,
    MlConvTranspose2dOptions, MlCumulativeSumOptions, MlEluOptions, MlGatherOptions, MlGemmOptions,
    MlGraphBuilder, MlGruCellOptions, MlGruOptions, MlHardSigmoidOptions,
    MlInstanceNormalizationOptions, MlLayerNormalizationOptions, MlLeakyReluOptions,
    MlLinearOptions, MlLstmCellOptions, MlLstmOptions, MlOperand, MlOperatorOptions, MlPadOptions,
    MlPool2dOptions, MlReduceOptions, MlResample2dOptions, MlReverseOptions, MlScatterOptions,
    MlSliceOptions, MlSplitOptions, MlTransposeOptions, MlTriangularOptions,
};

/// Methods of the builder: `w3cName => rust_name(operands, numbers; options) -> what it gives`.
macro_rules! operators {
    ($(
        $(#[$doc:meta])*
        $js:ident => $name:ident($($argument:ident: $type:ty),+; $options:ty) -> $result:ty;
    )+) => {
        #[wasm_bindgen]
        extern "C" {
            $(
                $(#[$doc])*
                #[wasm_bindgen(method, catch, js_name = $js)]
                pub fn $name(
                    this: &MlGraphBuilder,
                    $($argument: $type,)+
                    options: &$options,
                ) -> Result<$result, JsValue>;
            )+
        }
    };
}

// One operand, element by element.
operators! {
    /// `|x|`
    abs => abs(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// The same values in another data type.
    cast => cast(input: &MlOperand, data_type: &str; MlOperatorOptions) -> MlOperand;
    /// Rounded up.
    ceil => ceil(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `min(max(x, min_value), max_value)`
    clamp => clamp(input: &MlOperand; MlClampOptions) -> MlOperand;
    /// The cosine of radians.
    cos => cos(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `max(0, x) + alpha * (exp(min(0, x)) - 1)`
    elu => elu(input: &MlOperand; MlEluOptions) -> MlOperand;
    /// The error function.
    erf => erf(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `e^x`
    exp => exp(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// Rounded down.
    floor => floor(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `0.5 * x * (1 + erf(x / sqrt(2)))`
    gelu => gelu(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `max(0, min(1, alpha * x + beta))`
    hardSigmoid => hard_sigmoid(input: &MlOperand; MlHardSigmoidOptions) -> MlOperand;
    /// `x * max(0, min(6, x + 3)) / 6`
    hardSwish => hard_swish(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `x`
    identity => identity(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// Whether it is an infinity; gives uint8.
    isInfinite => is_infinite(a: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// Whether it is NaN; gives uint8.
    isNaN => is_nan(a: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `max(0, x) + alpha * min(0, x)`
    leakyRelu => leaky_relu(input: &MlOperand; MlLeakyReluOptions) -> MlOperand;
    /// `alpha * x + beta`
    linear => linear(input: &MlOperand; MlLinearOptions) -> MlOperand;
    /// The natural logarithm.
    log => log(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// Whether it is zero; uint8 to uint8.
    logicalNot => logical_not(a: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `-x`
    neg => neg(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `1 / x`
    reciprocal => reciprocal(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `max(0, x)`
    relu => relu(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// Rounded to the nearest integer, and to the even one of two.
    roundEven => round_even(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `1 / (exp(-x) + 1)`
    sigmoid => sigmoid(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// -1, 0 or 1.
    sign => sign(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// The sine of radians.
    sin => sin(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `ln(1 + exp(x))`
    softplus => softplus(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `x / (1 + |x|)`
    softsign => softsign(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// The square root.
    sqrt => sqrt(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// The tangent of radians.
    tan => tan(input: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// The hyperbolic tangent.
    tanh => tanh(input: &MlOperand; MlOperatorOptions) -> MlOperand;
}

// Two operands that are broadcast to one shape, or three.
operators! {
    /// `a + b`
    add => add(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `a / b`
    div => div(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `a == b`; gives uint8, as all comparisons.
    equal => equal(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `a > b`
    greater => greater(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `a >= b`
    greaterOrEqual => greater_or_equal(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `a < b`
    lesser => lesser(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `a <= b`
    lesserOrEqual => lesser_or_equal(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// Whether both are other than zero; uint8 to uint8.
    logicalAnd => logical_and(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// Whether one is other than zero; uint8 to uint8.
    logicalOr => logical_or(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// Whether exactly one is other than zero; uint8 to uint8.
    logicalXor => logical_xor(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// The larger one.
    max => max(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// The smaller one.
    min => min(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `a * b`
    mul => mul(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `a != b`
    notEqual => not_equal(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `a^b`
    pow => pow(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `max(0, x) + slope * min(0, x)`
    prelu => prelu(input: &MlOperand, slope: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// `a - b`
    sub => sub(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// The first value where `condition`, of uint8, is other than zero, else the second.
    where => where_(
        condition: &MlOperand, true_value: &MlOperand, false_value: &MlOperand; MlOperatorOptions
    ) -> MlOperand;
}

// Products, convolutions and recurrent networks.
operators! {
    /// A convolution in two dimensions.
    conv2d => conv_2d(input: &MlOperand, filter: &MlOperand; MlConv2dOptions) -> MlOperand;
    /// A transposed convolution in two dimensions.
    convTranspose2d => conv_transpose_2d(
        input: &MlOperand, filter: &MlOperand; MlConvTranspose2dOptions
    ) -> MlOperand;
    /// `alpha * a * b + beta * c` for matrices `a: [m, k]` and `b: [k, n]`, either of them possibly transposed.
    gemm => gemm(a: &MlOperand, b: &MlOperand; MlGemmOptions) -> MlOperand;
    /// A gated recurrent unit over `steps`. Gives the last hidden state `[directions, batch, hidden]`, and all of them
    /// `[steps, directions, batch, hidden]` where asked for.
    gru => gru(
        input: &MlOperand, weight: &MlOperand, recurrent_weight: &MlOperand, steps: u32,
        hidden_size: u32; MlGruOptions
    ) -> Array;
    /// One step of a gated recurrent unit. Gives the hidden state `[batch, hidden]`.
    gruCell => gru_cell(
        input: &MlOperand, weight: &MlOperand, recurrent_weight: &MlOperand,
        hidden_state: &MlOperand, hidden_size: u32; MlGruCellOptions
    ) -> MlOperand;
    /// A long short-term memory over `steps`. Gives the last hidden state and the last cell state
    /// `[directions, batch, hidden]`, and all hidden states `[steps, directions, batch, hidden]` where asked for.
    lstm => lstm(
        input: &MlOperand, weight: &MlOperand, recurrent_weight: &MlOperand, steps: u32,
        hidden_size: u32; MlLstmOptions
    ) -> Array;
    /// One step of a long short-term memory. Gives the hidden state and the cell state, `[batch, hidden]` each.
    lstmCell => lstm_cell(
        input: &MlOperand, weight: &MlOperand, recurrent_weight: &MlOperand,
        hidden_state: &MlOperand, cell_state: &MlOperand, hidden_size: u32; MlLstmCellOptions
    ) -> Array;
    /// The products of the last two dimensions `[.., m, k] [.., k, n]`; the dimensions before are broadcast.
    matmul => matmul(a: &MlOperand, b: &MlOperand; MlOperatorOptions) -> MlOperand;
}

// Normalization, pooling, reduction and quantization.
operators! {
    /// The index of the largest element along an axis.
    argMax => arg_max(input: &MlOperand, axis: u32; MlArgMinMaxOptions) -> MlOperand;
    /// The index of the smallest element along an axis.
    argMin => arg_min(input: &MlOperand, axis: u32; MlArgMinMaxOptions) -> MlOperand;
    /// The means of windows; padding is not counted.
    averagePool2d => average_pool_2d(input: &MlOperand; MlPool2dOptions) -> MlOperand;
    /// `(x - mean) / sqrt(variance + epsilon) * scale + bias`, with statistics `[channels]` that are given.
    batchNormalization => batch_normalization(
        input: &MlOperand, mean: &MlOperand, variance: &MlOperand; MlBatchNormalizationOptions
    ) -> MlOperand;
    /// The sums along an axis up to each element.
    cumulativeSum => cumulative_sum(input: &MlOperand, axis: u32; MlCumulativeSumOptions) -> MlOperand;
    /// `(x - zero_point) * scale`
    dequantizeLinear => dequantize_linear(
        input: &MlOperand, scale: &MlOperand, zero_point: &MlOperand; MlOperatorOptions
    ) -> MlOperand;
    /// Normalization of every channel of every item by its own statistics.
    instanceNormalization => instance_normalization(
        input: &MlOperand; MlInstanceNormalizationOptions
    ) -> MlOperand;
    /// The square roots of the sums of squares of windows.
    l2Pool2d => l2_pool_2d(input: &MlOperand; MlPool2dOptions) -> MlOperand;
    /// Normalization of every item over `axes`, which are all but the first one unless set.
    layerNormalization => layer_normalization(
        input: &MlOperand; MlLayerNormalizationOptions
    ) -> MlOperand;
    /// The largest elements of windows.
    maxPool2d => max_pool_2d(input: &MlOperand; MlPool2dOptions) -> MlOperand;
    /// `clamp(round_even(x / scale) + zero_point)`, in the data type of the zero point.
    quantizeLinear => quantize_linear(
        input: &MlOperand, scale: &MlOperand, zero_point: &MlOperand; MlOperatorOptions
    ) -> MlOperand;
    /// The sum of absolute values; all reductions are over all axes unless set.
    reduceL1 => reduce_l1(input: &MlOperand; MlReduceOptions) -> MlOperand;
    /// The square root of the sum of squares.
    reduceL2 => reduce_l2(input: &MlOperand; MlReduceOptions) -> MlOperand;
    /// The logarithm of the sum.
    reduceLogSum => reduce_log_sum(input: &MlOperand; MlReduceOptions) -> MlOperand;
    /// The logarithm of the sum of exponentials.
    reduceLogSumExp => reduce_log_sum_exp(input: &MlOperand; MlReduceOptions) -> MlOperand;
    /// The largest element.
    reduceMax => reduce_max(input: &MlOperand; MlReduceOptions) -> MlOperand;
    /// The mean.
    reduceMean => reduce_mean(input: &MlOperand; MlReduceOptions) -> MlOperand;
    /// The smallest element.
    reduceMin => reduce_min(input: &MlOperand; MlReduceOptions) -> MlOperand;
    /// The product.
    reduceProduct => reduce_product(input: &MlOperand; MlReduceOptions) -> MlOperand;
    /// The sum.
    reduceSum => reduce_sum(input: &MlOperand; MlReduceOptions) -> MlOperand;
    /// The sum of squares.
    reduceSumSquare => reduce_sum_square(input: &MlOperand; MlReduceOptions) -> MlOperand;
    /// `exp(x) / sum(exp(x))` along an axis.
    softmax => softmax(input: &MlOperand, axis: u32; MlOperatorOptions) -> MlOperand;
}

// Operators that move elements.
operators! {
    /// The inputs, an array of [`MlOperand`], one after the other along an axis.
    concat => concat(inputs: &Array, axis: u32; MlOperatorOptions) -> MlOperand;
    /// Broadcast to a shape.
    expand => expand(input: &MlOperand, new_shape: &[u32]; MlOperatorOptions) -> MlOperand;
    /// The slices at these indices of an axis; the shape of `indices` takes the place of the axis.
    gather => gather(input: &MlOperand, indices: &MlOperand; MlGatherOptions) -> MlOperand;
    /// The elements at these indices of an axis, element by element.
    gatherElements => gather_elements(
        input: &MlOperand, indices: &MlOperand; MlGatherOptions
    ) -> MlOperand;
    /// The slices at coordinates, which are the last dimension of `indices`.
    gatherND => gather_nd(input: &MlOperand, indices: &MlOperand; MlOperatorOptions) -> MlOperand;
    /// The input with a border; both paddings have one number for every dimension.
    pad => pad(
        input: &MlOperand, beginning_padding: &[u32], ending_padding: &[u32]; MlPadOptions
    ) -> MlOperand;
    /// Resampled to other sizes along two axes.
    resample2d => resample_2d(input: &MlOperand; MlResample2dOptions) -> MlOperand;
    /// The same elements under another shape.
    reshape => reshape(input: &MlOperand, new_shape: &[u32]; MlOperatorOptions) -> MlOperand;
    /// In reverse order along axes.
    reverse => reverse(input: &MlOperand; MlReverseOptions) -> MlOperand;
    /// The input with updates at these indices of an axis, element by element.
    scatterElements => scatter_elements(
        input: &MlOperand, indices: &MlOperand, updates: &MlOperand; MlScatterOptions
    ) -> MlOperand;
    /// The input with updates at coordinates, which are the last dimension of `indices`.
    scatterND => scatter_nd(
        input: &MlOperand, indices: &MlOperand, updates: &MlOperand; MlOperatorOptions
    ) -> MlOperand;
    /// A part: where it starts and how long it is, before strides, in every dimension.
    slice => slice(
        input: &MlOperand, starts: &[u32], sizes: &[u32]; MlSliceOptions
    ) -> MlOperand;
    /// As many equal parts along an axis.
    split => split(input: &MlOperand, splits: u32; MlSplitOptions) -> Array;
    /// Parts of these sizes along an axis.
    split => split_sizes(input: &MlOperand, splits: &[u32]; MlSplitOptions) -> Array;
    /// The input repeated in every dimension.
    tile => tile(input: &MlOperand, repetitions: &[u32]; MlOperatorOptions) -> MlOperand;
    /// The dimensions in another order, reversed unless set.
    transpose => transpose(input: &MlOperand; MlTransposeOptions) -> MlOperand;
    /// The upper or lower triangle of the last two dimensions, and zeros.
    triangular => triangular(input: &MlOperand; MlTriangularOptions) -> MlOperand;
}
