//! Dictionaries: descriptors and the options of operators.

use js_sys::{Array, Float32Array, Object, Uint32Array};
use wasm_bindgen::prelude::*;

use crate::MlOperand;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(extends = Object)]
    type Dictionary;

    #[wasm_bindgen(method, structural, indexing_setter)]
    fn put(this: &Dictionary, name: &str, value: &JsValue);
}

/// The types of a member. Sequences are copied, because a view of wasm memory becomes invalid when that
/// memory grows.
trait Member {
    fn into_js(self) -> JsValue;
}

macro_rules! members {
    ($($type:ty: $value:ident => $js:expr;)+) => {
        $(impl Member for $type {
            fn into_js(self) -> JsValue {
                let $value = self;
                $js
            }
        })+
    };
}

members! {
    bool: flag => flag.into();
    f64: number => number.into();
    i32: number => number.into();
    u32: number => number.into();
    &str: text => text.into();
    &JsValue: number => number.clone();
    &MlOperand: operand => operand.into();
    &[u32]: numbers => Uint32Array::from(numbers).into();
    &[f32]: numbers => Float32Array::from(numbers).into();
    &[&str]: texts => texts.iter().copied().map(JsValue::from).collect::<Array>().into();
}

/// A dictionary: `w3cName: setter(type)` for every member.
macro_rules! dictionary {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$member_doc:meta])* $js:ident: $setter:ident($type:ty);)*
    }) => {
        #[wasm_bindgen]
        extern "C" {
            $(#[$doc])*
            #[wasm_bindgen(extends = Object)]
            #[derive(Clone, Debug)]
            pub type $name;
        }

        impl $name {
            $($(#[$member_doc])*
            pub fn $setter(&self, value: $type) {
                self.unchecked_ref::<Dictionary>().put(stringify!($js), &value.into_js());
            })*
        }
    };
}

/// Dictionaries without required members.
macro_rules! options {
    ($($(#[$doc:meta])* $name:ident {$($members:tt)*})+) => {
        $(
            dictionary! { $(#[$doc])* $name {$($members)*} }

            impl $name {
                /// Without members.
                pub fn new() -> Self {
                    Object::new().unchecked_into()
                }
            }

            impl Default for $name {
                fn default() -> Self {
                    Self::new()
                }
            }
        )+
    };
}

/// Options of operators, all of which have a label.
macro_rules! operator_options {
    ($($(#[$doc:meta])* $name:ident {$($members:tt)*})+) => {
        options! {
            $($(#[$doc])* $name {
                /// Name of the operator in the browser's messages.
                label: set_label(&str);
                $($members)*
            })+
        }
    };
}

options! {
    /// The requested properties of a context. The browser chooses its device.
    MlContextOptions {
        /// Whether the context should compute on more than the CPU; true unless set.
        accelerated: set_accelerated(bool);
        /// `"cpu"`, `"gpu"` or `"npu"`. A member of earlier drafts that browsers still read.
        deviceType: set_device_type(&str);
        /// `"default"`, `"high-performance"` or `"low-power"`.
        powerPreference: set_power_preference(&str);
    }
}

dictionary! {
    /// The data type and the shape of an input or a constant.
    MlOperandDescriptor {
        /// `"float32"`, `"float16"`, `"int32"`, `"uint32"`, `"int64"`, `"uint64"`, `"int8"` or `"uint8"`.
        dataType: set_data_type(&str);
        /// Sizes, outermost first; none for a scalar.
        shape: set_shape(&[u32]);
    }
}

impl MlOperandDescriptor {
    /// With its members, which are required.
    pub fn new(data_type: &str, shape: &[u32]) -> Self {
        let descriptor: Self = Object::new().unchecked_into();
        descriptor.set_data_type(data_type);
        descriptor.set_shape(shape);
        descriptor
    }
}

dictionary! {
    /// The data type, the shape and the use of a tensor.
    MlTensorDescriptor {
        /// As an operand's.
        dataType: set_data_type(&str);
        /// Sizes, outermost first; none for a scalar.
        shape: set_shape(&[u32]);
        /// Whether it can be read; false unless set.
        readable: set_readable(bool);
        /// Whether it can be written; false unless set.
        writable: set_writable(bool);
    }
}

impl MlTensorDescriptor {
    /// With the members that are required.
    pub fn new(data_type: &str, shape: &[u32]) -> Self {
        let descriptor: Self = Object::new().unchecked_into();
        descriptor.set_data_type(data_type);
        descriptor.set_shape(shape);
        descriptor
    }
}

operator_options! {
    /// Options of operators that have none of their own.
    MlOperatorOptions {}

    /// Options of `arg_max` and `arg_min`.
    MlArgMinMaxOptions {
        /// Whether the axis stays, with the size 1; false unless set.
        keepDimensions: set_keep_dimensions(bool);
        /// `"int32"` unless set, or `"int64"`.
        outputDataType: set_output_data_type(&str);
    }

    /// Options of `batch_normalization`.
    MlBatchNormalizationOptions {
        /// `[channels]`
        scale: set_scale(&MlOperand);
        /// `[channels]`
        bias: set_bias(&MlOperand);
        /// Where the channels are; 1 unless set.
        axis: set_axis(u32);
        /// 1e-5 unless set.
        epsilon: set_epsilon(f64);
    }

    /// Options of `clamp`.
    MlClampOptions {
        /// A number or a `BigInt`; no limit unless set.
        minValue: set_min_value(&JsValue);
        /// A number or a `BigInt`; no limit unless set.
        maxValue: set_max_value(&JsValue);
    }

    /// Options of `conv_2d`.
    MlConv2dOptions {
        /// Rows before and after, columns before and after; zeros unless set.
        padding: set_padding(&[u32]);
        /// Of rows and columns; ones unless set.
        strides: set_strides(&[u32]);
        /// Of rows and columns; ones unless set.
        dilations: set_dilations(&[u32]);
        /// Groups of channels; 1 unless set.
        groups: set_groups(u32);
        /// `"nchw"` unless set, or `"nhwc"`; the output's too.
        inputLayout: set_input_layout(&str);
        /// `"oihw"` unless set, `"hwio"`, `"ohwi"` or `"ihwo"`.
        filterLayout: set_filter_layout(&str);
        /// `[output channels]`
        bias: set_bias(&MlOperand);
    }

    /// Options of `conv_transpose_2d`.
    MlConvTranspose2dOptions {
        /// Rows before and after, columns before and after; zeros unless set.
        padding: set_padding(&[u32]);
        /// Of rows and columns; ones unless set.
        strides: set_strides(&[u32]);
        /// Of rows and columns; ones unless set.
        dilations: set_dilations(&[u32]);
        /// Added to the output's rows and columns at their ends; zeros unless set.
        outputPadding: set_output_padding(&[u32]);
        /// The output's rows and columns; then `outputPadding` is ignored.
        outputSizes: set_output_sizes(&[u32]);
        /// Groups of channels; 1 unless set.
        groups: set_groups(u32);
        /// `"nchw"` unless set, or `"nhwc"`; the output's too.
        inputLayout: set_input_layout(&str);
        /// `"iohw"` unless set, `"hwoi"` or `"ohwi"`.
        filterLayout: set_filter_layout(&str);
        /// `[output channels]`
        bias: set_bias(&MlOperand);
    }

    /// Options of `cumulative_sum`.
    MlCumulativeSumOptions {
        /// Whether an element is left out of its own sum; false unless set.
        exclusive: set_exclusive(bool);
        /// Whether sums begin at the end; false unless set.
        reversed: set_reversed(bool);
    }

    /// Options of `elu`.
    MlEluOptions {
        /// 1 unless set.
        alpha: set_alpha(f64);
    }

    /// Options of `gather` and `gather_elements`.
    MlGatherOptions {
        /// 0 unless set.
        axis: set_axis(u32);
    }

    /// Options of `gemm`.
    MlGemmOptions {
        /// Broadcast to `[m, n]`.
        c: set_c(&MlOperand);
        /// 1 unless set.
        alpha: set_alpha(f64);
        /// 1 unless set.
        beta: set_beta(f64);
        /// Whether `a` is `[k, m]`; false unless set.
        aTranspose: set_a_transpose(bool);
        /// Whether `b` is `[n, k]`; false unless set.
        bTranspose: set_b_transpose(bool);
    }

    /// Options of `gru`.
    MlGruOptions {
        /// `[directions, 3 * hidden]`
        bias: set_bias(&MlOperand);
        /// `[directions, 3 * hidden]`
        recurrentBias: set_recurrent_bias(&MlOperand);
        /// `[directions, batch, hidden]`; zeros unless set.
        initialHiddenState: set_initial_hidden_state(&MlOperand);
        /// Whether the reset gate comes after the product; true unless set.
        resetAfter: set_reset_after(bool);
        /// Whether the states of all steps are given too; false unless set.
        returnSequence: set_return_sequence(bool);
        /// `"forward"` unless set, `"backward"` or `"both"`.
        direction: set_direction(&str);
        /// The order of gates: `"zrn"` unless set, or `"rzn"`.
        layout: set_layout(&str);
        /// Two of `"relu"`, `"sigmoid"`, `"tanh"`; sigmoid and tanh unless set.
        activations: set_activations(&[&str]);
    }

    /// Options of `gru_cell`.
    MlGruCellOptions {
        /// `[3 * hidden]`
        bias: set_bias(&MlOperand);
        /// `[3 * hidden]`
        recurrentBias: set_recurrent_bias(&MlOperand);
        /// Whether the reset gate comes after the product; true unless set.
        resetAfter: set_reset_after(bool);
        /// The order of gates: `"zrn"` unless set, or `"rzn"`.
        layout: set_layout(&str);
        /// Two of `"relu"`, `"sigmoid"`, `"tanh"`; sigmoid and tanh unless set.
        activations: set_activations(&[&str]);
    }

    /// Options of `hard_sigmoid`.
    MlHardSigmoidOptions {
        /// 0.2 unless set.
        alpha: set_alpha(f64);
        /// 0.5 unless set.
        beta: set_beta(f64);
    }

    /// Options of `instance_normalization`.
    MlInstanceNormalizationOptions {
        /// `[channels]`
        scale: set_scale(&MlOperand);
        /// `[channels]`
        bias: set_bias(&MlOperand);
        /// 1e-5 unless set.
        epsilon: set_epsilon(f64);
        /// `"nchw"` unless set, or `"nhwc"`.
        layout: set_layout(&str);
    }

    /// Options of `layer_normalization`.
    MlLayerNormalizationOptions {
        /// The sizes of the axes, in their order.
        scale: set_scale(&MlOperand);
        /// The sizes of the axes, in their order.
        bias: set_bias(&MlOperand);
        /// All but the first one unless set.
        axes: set_axes(&[u32]);
        /// 1e-5 unless set.
        epsilon: set_epsilon(f64);
    }

    /// Options of `leaky_relu`.
    MlLeakyReluOptions {
        /// 0.01 unless set.
        alpha: set_alpha(f64);
    }

    /// Options of `linear`.
    MlLinearOptions {
        /// 1 unless set.
        alpha: set_alpha(f64);
        /// 0 unless set.
        beta: set_beta(f64);
    }

    /// Options of `lstm`.
    MlLstmOptions {
        /// `[directions, 4 * hidden]`
        bias: set_bias(&MlOperand);
        /// `[directions, 4 * hidden]`
        recurrentBias: set_recurrent_bias(&MlOperand);
        /// `[directions, 3 * hidden]`, of the gates input, output and forget.
        peepholeWeight: set_peephole_weight(&MlOperand);
        /// `[directions, batch, hidden]`; zeros unless set.
        initialHiddenState: set_initial_hidden_state(&MlOperand);
        /// `[directions, batch, hidden]`; zeros unless set.
        initialCellState: set_initial_cell_state(&MlOperand);
        /// Whether the hidden states of all steps are given too; false unless set.
        returnSequence: set_return_sequence(bool);
        /// `"forward"` unless set, `"backward"` or `"both"`.
        direction: set_direction(&str);
        /// The order of gates: `"iofg"` unless set, or `"ifgo"`.
        layout: set_layout(&str);
        /// Three of `"relu"`, `"sigmoid"`, `"tanh"`; sigmoid, tanh and tanh unless set.
        activations: set_activations(&[&str]);
    }

    /// Options of `lstm_cell`.
    MlLstmCellOptions {
        /// `[4 * hidden]`
        bias: set_bias(&MlOperand);
        /// `[4 * hidden]`
        recurrentBias: set_recurrent_bias(&MlOperand);
        /// `[3 * hidden]`, of the gates input, output and forget.
        peepholeWeight: set_peephole_weight(&MlOperand);
        /// The order of gates: `"iofg"` unless set, or `"ifgo"`.
        layout: set_layout(&str);
        /// Three of `"relu"`, `"sigmoid"`, `"tanh"`; sigmoid, tanh and tanh unless set.
        activations: set_activations(&[&str]);
    }

    /// Options of `pad`.
    MlPadOptions {
        /// `"constant"` unless set, `"edge"` or `"reflection"`.
        mode: set_mode(&str);
        /// A number or a `BigInt` for `"constant"`; 0 unless set.
        value: set_value(&JsValue);
    }

    /// Options of `average_pool_2d`, `l2_pool_2d` and `max_pool_2d`.
    MlPool2dOptions {
        /// Rows and columns; all of the input's unless set.
        windowDimensions: set_window_dimensions(&[u32]);
        /// Rows before and after, columns before and after; zeros unless set.
        padding: set_padding(&[u32]);
        /// Of rows and columns; ones unless set.
        strides: set_strides(&[u32]);
        /// Of rows and columns; ones unless set.
        dilations: set_dilations(&[u32]);
        /// `"nchw"` unless set, or `"nhwc"`.
        layout: set_layout(&str);
        /// `"floor"` unless set, or `"ceil"`.
        outputShapeRounding: set_output_shape_rounding(&str);
        /// The output's rows and columns; then the rounding is ignored.
        outputSizes: set_output_sizes(&[u32]);
    }

    /// Options of the reductions.
    MlReduceOptions {
        /// All unless set. No axes at all reduce nothing: the function is applied to every element.
        axes: set_axes(&[u32]);
        /// Whether the axes stay, with the size 1; false unless set.
        keepDimensions: set_keep_dimensions(bool);
    }

    /// Options of `resample_2d`.
    MlResample2dOptions {
        /// `"nearest-neighbor"` unless set, or `"linear"`.
        mode: set_mode(&str);
        /// Factors of the two axes; ones unless set.
        scales: set_scales(&[f32]);
        /// New sizes of the two axes; then the scales are ignored.
        sizes: set_sizes(&[u32]);
        /// The two axes; 2 and 3 unless set.
        axes: set_axes(&[u32]);
    }

    /// Options of `reverse`.
    MlReverseOptions {
        /// All unless set.
        axes: set_axes(&[u32]);
    }

    /// Options of `scatter_elements`.
    MlScatterOptions {
        /// 0 unless set.
        axis: set_axis(u32);
    }

    /// Options of `slice`.
    MlSliceOptions {
        /// Of every dimension; ones unless set.
        strides: set_strides(&[u32]);
    }

    /// Options of `split` and `split_sizes`.
    MlSplitOptions {
        /// 0 unless set.
        axis: set_axis(u32);
    }

    /// Options of `transpose`.
    MlTransposeOptions {
        /// Which dimension of the input comes to each place; reversed unless set.
        permutation: set_permutation(&[u32]);
    }

    /// Options of `triangular`.
    MlTriangularOptions {
        /// Whether the upper triangle is kept, or else the lower one; true unless set.
        upper: set_upper(bool);
        /// How far above the main diagonal the triangle begins, or below for negative numbers; 0 unless set.
        diagonal: set_diagonal(i32);
    }
}
