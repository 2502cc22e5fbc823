//! Calls an operator's typed method by its W3C name.

use flotilla_webnn::{
    MlBatchNormalizationOptions, MlClampOptions, MlConv2dOptions, MlConvTranspose2dOptions,
    MlEluOptions, MlGatherOptions, MlGraphBuilder, MlHardSigmoidOptions,
    MlInstanceNormalizationOptions, MlLayerNormalizationOptions, MlLeakyReluOptions,
    MlLinearOptions, MlOperand, MlOperatorOptions, MlReduceOptions, MlSliceOptions, MlSplitOptions,
    MlTransposeOptions,
};
use js_sys::Array;
use wasm_bindgen::{JsCast as _, JsValue};

use crate::{
    arguments::Arguments,
    graph::{Stop, refused},
};

/// A dictionary with the options of the case. A case with an option that is not listed here fails.
macro_rules! options {
    ($given:ident, $type:ident {
        $($member:literal: $setter:ident($(&$owned:ident)? $($copied:ident)?)),* $(,)?
    }) => {{
        let options = $type::new();
        for (member, value) in $given.options() {
            match member.as_str() {
                "label" => options.set_label($given.text(value)?),
                $($member => options.$setter($(&$given.$owned(value)?)? $($given.$copied(value)?)?),)*
                other => return Err(Stop::Failed(format!("{} has the option {other}", $given.name))),
            }
        }
        options
    }};
}

/// Calls the method of an operator; returns its outputs.
pub(crate) fn call(
    builder: &MlGraphBuilder,
    given: &Arguments<'_>,
) -> Result<Vec<MlOperand>, Stop> {
    let operand = |name: &str| given.operand(given.named(name)?);
    let (a, b, input) = (|| operand("a"), || operand("b"), || operand("input"));
    let plain = || Ok::<_, Stop>(options!(given, MlOperatorOptions {}));
    let reduction = || {
        Ok::<_, Stop>(options!(given, MlReduceOptions {
            "axes": set_axes(&sizes),
            "keepDimensions": set_keep_dimensions(flag),
        }))
    };
    let output = match given.name {
        "abs" => builder.abs(&input()?, &plain()?),
        "add" => builder.add(&a()?, &b()?, &plain()?),
        "batchNormalization" => {
            let options = options!(given, MlBatchNormalizationOptions {
                "scale": set_scale(&operand),
                "bias": set_bias(&operand),
                "axis": set_axis(size),
                "epsilon": set_epsilon(number),
            });
            let (mean, variance) = (operand("mean")?, operand("variance")?);
            builder.batch_normalization(&input()?, &mean, &variance, &options)
        }
        "cast" => builder.cast(&input()?, given.text(given.named("type")?)?, &plain()?),
        "ceil" => builder.ceil(&input()?, &plain()?),
        "clamp" => {
            let options = options!(given, MlClampOptions {
                "minValue": set_min_value(&scalar),
                "maxValue": set_max_value(&scalar),
            });
            builder.clamp(&input()?, &options)
        }
        "concat" => {
            let inputs = given.operands(given.named("inputs")?)?;
            builder.concat(&inputs, given.size(given.named("axis")?)?, &plain()?)
        }
        "conv2d" => {
            let options = options!(given, MlConv2dOptions {
                "padding": set_padding(&sizes),
                "strides": set_strides(&sizes),
                "dilations": set_dilations(&sizes),
                "groups": set_groups(size),
                "inputLayout": set_input_layout(text),
                "filterLayout": set_filter_layout(text),
                "bias": set_bias(&operand),
            });
            builder.conv_2d(&input()?, &operand("filter")?, &options)
        }
        "convTranspose2d" => {
            let options = options!(given, MlConvTranspose2dOptions {
                "padding": set_padding(&sizes),
                "strides": set_strides(&sizes),
                "dilations": set_dilations(&sizes),
                "outputPadding": set_output_padding(&sizes),
                "outputSizes": set_output_sizes(&sizes),
                "groups": set_groups(size),
                "inputLayout": set_input_layout(text),
                "filterLayout": set_filter_layout(text),
                "bias": set_bias(&operand),
            });
            builder.conv_transpose_2d(&input()?, &operand("filter")?, &options)
        }
        "div" => builder.div(&a()?, &b()?, &plain()?),
        "elu" => {
            let options = options!(given, MlEluOptions { "alpha": set_alpha(number) });
            builder.elu(&input()?, &options)
        }
        "equal" => builder.equal(&a()?, &b()?, &plain()?),
        "exp" => builder.exp(&input()?, &plain()?),
        "expand" => builder.expand(&input()?, &given.sizes(given.named("newShape")?)?, &plain()?),
        "floor" => builder.floor(&input()?, &plain()?),
        "gather" => {
            let options = options!(given, MlGatherOptions { "axis": set_axis(size) });
            builder.gather(&input()?, &operand("indices")?, &options)
        }
        "greater" => builder.greater(&a()?, &b()?, &plain()?),
        "greaterOrEqual" => builder.greater_or_equal(&a()?, &b()?, &plain()?),
        "hardSigmoid" => {
            let options = options!(given, MlHardSigmoidOptions {
                "alpha": set_alpha(number),
                "beta": set_beta(number),
            });
            builder.hard_sigmoid(&input()?, &options)
        }
        "hardSwish" => builder.hard_swish(&input()?, &plain()?),
        "instanceNormalization" => {
            let options = options!(given, MlInstanceNormalizationOptions {
                "scale": set_scale(&operand),
                "bias": set_bias(&operand),
                "epsilon": set_epsilon(number),
                "layout": set_layout(text),
            });
            builder.instance_normalization(&input()?, &options)
        }
        "layerNormalization" => {
            let options = options!(given, MlLayerNormalizationOptions {
                "scale": set_scale(&operand),
                "bias": set_bias(&operand),
                "axes": set_axes(&sizes),
                "epsilon": set_epsilon(number),
            });
            builder.layer_normalization(&input()?, &options)
        }
        "leakyRelu" => {
            let options = options!(given, MlLeakyReluOptions { "alpha": set_alpha(number) });
            builder.leaky_relu(&input()?, &options)
        }
        "lesser" => builder.lesser(&a()?, &b()?, &plain()?),
        "lesserOrEqual" => builder.lesser_or_equal(&a()?, &b()?, &plain()?),
        "linear" => {
            let options = options!(given, MlLinearOptions {
                "alpha": set_alpha(number),
                "beta": set_beta(number),
            });
            builder.linear(&input()?, &options)
        }
        "log" => builder.log(&input()?, &plain()?),
        "logicalNot" => builder.logical_not(&a()?, &plain()?),
        "matmul" => builder.matmul(&a()?, &b()?, &plain()?),
        "max" => builder.max(&a()?, &b()?, &plain()?),
        "min" => builder.min(&a()?, &b()?, &plain()?),
        "mul" => builder.mul(&a()?, &b()?, &plain()?),
        "neg" => builder.neg(&input()?, &plain()?),
        "pow" => builder.pow(&a()?, &b()?, &plain()?),
        "reduceL1" => builder.reduce_l1(&input()?, &reduction()?),
        "reduceL2" => builder.reduce_l2(&input()?, &reduction()?),
        "reduceLogSum" => builder.reduce_log_sum(&input()?, &reduction()?),
        "reduceLogSumExp" => builder.reduce_log_sum_exp(&input()?, &reduction()?),
        "reduceMax" => builder.reduce_max(&input()?, &reduction()?),
        "reduceMean" => builder.reduce_mean(&input()?, &reduction()?),
        "reduceMin" => builder.reduce_min(&input()?, &reduction()?),
        "reduceProduct" => builder.reduce_product(&input()?, &reduction()?),
        "reduceSum" => builder.reduce_sum(&input()?, &reduction()?),
        "reduceSumSquare" => builder.reduce_sum_square(&input()?, &reduction()?),
        "relu" => builder.relu(&input()?, &plain()?),
        "reshape" => builder.reshape(&input()?, &given.sizes(given.named("newShape")?)?, &plain()?),
        "sigmoid" => builder.sigmoid(&input()?, &plain()?),
        "slice" => {
            let options = options!(given, MlSliceOptions { "strides": set_strides(&sizes) });
            let starts = given.sizes(given.named("starts")?)?;
            let sizes = given.sizes(given.named("sizes")?)?;
            builder.slice(&input()?, &starts, &sizes, &options)
        }
        "softmax" => builder.softmax(&input()?, given.size(given.named("axis")?)?, &plain()?),
        "split" => return split(builder, given, &input()?),
        "sqrt" => builder.sqrt(&input()?, &plain()?),
        "sub" => builder.sub(&a()?, &b()?, &plain()?),
        "tanh" => builder.tanh(&input()?, &plain()?),
        "transpose" => {
            let options =
                options!(given, MlTransposeOptions { "permutation": set_permutation(&sizes) });
            builder.transpose(&input()?, &options)
        }
        other => return Err(Stop::Failed(format!("there is no call of {other} here"))),
    };
    output.map(|output| vec![output]).map_err(refused)
}

fn split(
    builder: &MlGraphBuilder,
    given: &Arguments<'_>,
    input: &MlOperand,
) -> Result<Vec<MlOperand>, Stop> {
    let options = options!(given, MlSplitOptions { "axis": set_axis(size) });
    let splits = given.named("splits")?;
    let outputs: Result<Array, JsValue> = if splits.is_array() {
        builder.split_sizes(input, &given.sizes(splits)?, &options)
    } else {
        builder.split(input, given.size(splits)?, &options)
    };
    let outputs = outputs.map_err(refused)?;
    Ok(outputs.iter().map(|output| output.unchecked_into()).collect())
}
