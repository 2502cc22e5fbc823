//! Convolutions and operators that are composed of them.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{
    self as program, Op, Unary,
    dim::{Dim, ToDim as _},
};
use flotilla_tensor::DType;

use super::window::{self, Sliding, numbers, sizes};
use crate::import::onnx::{
    constant::Constant,
    facts::Var,
    wiring::{SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("Conv", conv),
    ("ConvTranspose", conv_transpose),
    ("DeformConv", deform_conv),
    ("Col2Im", col2im),
    ("CausalConvWithState", causal_conv_with_state),
];

fn conv(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, weights, bias) = (w.input(0)?, w.input(1)?, w.optional(2));
    Ok(vec![convolution(w, x, weights, bias)?])
}

/// The convolution that a node's attributes describe, of these operands; also for integers.
pub(super) fn convolution(
    w: &mut Wiring<'_, '_>,
    x: Var,
    weights: Var,
    bias: Option<Var>,
) -> Result<Var> {
    let groups = groups(w)?;
    let shape = w.fixed_shape(weights)?;
    let &[outputs, inputs, ref kernel @ ..] = shape.as_slice() else {
        bail!("weights of shape {shape:?}");
    };
    let from = w.shape(x);
    ensure!(from.len() == shape.len(), "{} dimensions, and weights of {}", from.len(), shape.len());
    let sliding = Sliding::of(w, kernel.to_vec(), from.get(2..).unwrap_or_default())?;
    ensure!(outputs % groups == 0, "{outputs} channels in {groups} groups");
    w.same("the channels of the input and of the weights", &from[1], &(inputs * groups).to_dim())?;
    let shape = sliding.output(&from[0], outputs);
    convolve(w, sliding.window(), groups, [x, weights], bias, shape)
}

/// A convolution with weights `[m, c / groups, k..]`.
fn convolve(
    w: &mut Wiring<'_, '_>,
    window: program::Window,
    groups: usize,
    [x, weights]: [Var; 2],
    bias: Option<Var>,
    shape: Vec<Dim>,
) -> Result<Var> {
    let conv = Op::Conv(program::Conv {
        window,
        groups: u32::try_from(groups)?,
        transposed: false,
        bias: bias.is_some(),
        residual: false,
        activation: None,
    });
    let order: Vec<usize> = [0].into_iter().chain(2..w.rank(weights)).chain([1]).collect();
    let weights = w.transpose(weights, &order)?;
    let operands: Vec<Var> = [x, weights].into_iter().chain(bias).collect();
    w.op(conv, &operands, w.dtype(x), shape)
}

fn groups(w: &Wiring<'_, '_>) -> Result<usize> {
    let groups = w.int("group")?.unwrap_or(1);
    let groups = usize::try_from(groups).with_context(|| format!("{groups} groups"))?;
    ensure!(groups > 0, "there are no groups");
    Ok(groups)
}

fn conv_transpose(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, weights, bias) = (w.input(0)?, w.input(1)?, w.optional(2));
    Ok(vec![deconvolution(w, [x, weights], bias, None)?])
}

/// The transposed convolution that a node's attributes describe; padding before and after may be given.
pub(super) fn deconvolution(
    w: &mut Wiring<'_, '_>,
    [x, weights]: [Var; 2],
    bias: Option<Var>,
    given: Option<(Vec<Dim>, Vec<Dim>)>,
) -> Result<Var> {
    let groups = groups(w)?;
    let shape = w.fixed_shape(weights)?;
    let &[inputs, per_group, ref kernel @ ..] = shape.as_slice() else {
        bail!("weights of shape {shape:?}");
    };
    ensure!(inputs % groups == 0, "{inputs} channels in {groups} groups");
    let rank = kernel.len();
    let from = w.shape(x);
    let spatial = from.get(2..).unwrap_or_default();
    ensure!(
        from.len() > 1 && spatial.len() == rank,
        "a window of {rank} dimensions over {}",
        spatial.len()
    );
    w.same("the channels of the input and of the weights", &from[1], &inputs.to_dim())?;
    let (strides, dilations) = (sizes(w, "strides", rank, 1)?, sizes(w, "dilations", rank, 1)?);
    let behind = sizes(w, "output_padding", rank, 0)?;
    let (mut before, after) = match given {
        Some(given) => given,
        None => {
            let (before, after) = window::pads(w, rank)?;
            let dims = |pads: Vec<usize>| pads.iter().map(|pad| pad.to_dim()).collect();
            (dims(before), dims(after))
        }
    };
    let auto = w.text("auto_pad")?.unwrap_or("NOTSET");
    let wanted = w.ints("output_shape")?.filter(|shape| !shape.is_empty());
    if auto == "VALID" {
        before.fill(Dim::Fixed(0));
    }
    let mut pads: Vec<Dim> = Vec::new();
    let mut places: Vec<Dim> = Vec::new();
    for axis in 0..rank {
        let extent = (kernel[axis] - 1) * dilations[axis] + 1;
        // The size of the result without padding.
        let full = (&spatial[axis] - 1) * strides[axis] + extent + behind[axis];
        let wanted = match (&wanted, auto) {
            (Some(shape), _) => {
                // It may contain the batch and the channels in front.
                let spatial = shape.len().checked_sub(rank).context("output_shape is too short")?;
                shape[spatial + axis].to_dim()
            }
            (None, "SAME_UPPER" | "SAME_LOWER") => &spatial[axis] * strides[axis],
            (None, _) => {
                let after = if auto == "VALID" { Dim::Fixed(0) } else { after[axis].clone() };
                pads.push(before[axis].clone());
                places.push(full - &before[axis] - after);
                continue;
            }
        };
        // If the result is larger than the elements reach, it has zeros at its end.
        let padding = w.walk.bounded(|bounds| (full - &wanted).most(0, bounds));
        let small = padding.over(2);
        pads.push(if auto == "SAME_UPPER" { small } else { padding - small });
        places.push(wanted);
    }
    let window =
        program::Window { strides: numbers(&strides), dilations: numbers(&dilations), pads };
    let outputs = groups * per_group;
    let shape = [vec![from[0].clone(), outputs.to_dim()], places].concat();
    deconvolve(w, window, groups, [x, weights], bias, shape)
}

/// A transposed convolution with weights `[c, m / groups, k..]`.
fn deconvolve(
    w: &mut Wiring<'_, '_>,
    window: program::Window,
    groups: usize,
    [x, weights]: [Var; 2],
    bias: Option<Var>,
    shape: Vec<Dim>,
) -> Result<Var> {
    let sizes = w.fixed_shape(weights)?;
    let (inputs, per_group, kernel) = (sizes[0], sizes[1], &sizes[2..]);
    let mut grouped = vec![groups.to_dim(), (inputs / groups).to_dim(), per_group.to_dim()];
    grouped.extend(kernel.iter().map(|size| size.to_dim()));
    let weights = w.reshape(weights, &grouped)?;
    let order: Vec<usize> = [0, 2].into_iter().chain(3..grouped.len()).chain([1]).collect();
    let weights = w.transpose(weights, &order)?;
    let mut plain = vec![(groups * per_group).to_dim()];
    plain.extend(kernel.iter().map(|size| size.to_dim()));
    plain.push((inputs / groups).to_dim());
    let weights = w.reshape(weights, &plain)?;
    let conv = Op::Conv(program::Conv {
        window,
        groups: u32::try_from(groups)?,
        transposed: true,
        bias: bias.is_some(),
        residual: false,
        activation: None,
    });
    let operands: Vec<Var> = [x, weights].into_iter().chain(bias).collect();
    w.op(conv, &operands, w.dtype(x), shape)
}

/// The elements at the offsets, as columns, times the weights.
fn deform_conv(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, weights, offset) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let (bias, mask) = (w.optional(3), w.optional(4));
    let (groups, shape) = (groups(w)?, w.fixed_shape(weights)?);
    let &[outputs, inputs, height, width] = shape.as_slice() else {
        bail!("weights of shape {shape:?}; there must be two spatial dimensions");
    };
    let from = w.shape(x);
    ensure!(from.len() == 4, "a deformable convolution of {} dimensions", from.len());
    ensure!(outputs % groups == 0, "{outputs} channels in {groups} groups");
    let sliding = Sliding::of(w, vec![height, width], &from[2..])?;
    let offset_groups = w.int("offset_group")?.unwrap_or(1);
    let columns = Op::DeformableColumns(program::DeformableColumns {
        kernel: numbers(&sliding.kernel),
        window: sliding.window(),
        offset_groups: u32::try_from(offset_groups).context("groups of offsets")?,
        mask: mask.is_some(),
    });
    let taps = height * width;
    let mut unfolded = vec![from[0].clone(), from[1].clone(), taps.to_dim()];
    unfolded.extend(sliding.places.iter().cloned());
    let operands: Vec<Var> = [x, offset].into_iter().chain(mask).collect();
    let columns = w.op(columns, &operands, w.dtype(x), unfolded)?;
    let places: Dim = sliding.places.iter().product();
    let line = (inputs * taps).to_dim();
    let columns = w.reshape(columns, &[from[0].clone(), groups.to_dim(), line.clone(), places])?;
    let weights =
        w.reshape(weights, &[1.to_dim(), groups.to_dim(), (outputs / groups).to_dim(), line])?;
    let product = w.matmul(weights, columns)?;
    let product = w.reshape(product, &sliding.output(&from[0], outputs))?;
    Ok(vec![match bias {
        Some(bias) => {
            let bias = w.reshape(bias, &[outputs.to_dim(), 1.to_dim(), 1.to_dim()])?;
            w.add(product, bias)?
        }
        None => product,
    }])
}

/// Every block is added at its place in the image: a transposed convolution whose weights move each element of a
/// column to its place in the window.
fn col2im(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let kernel = w.known_i64s(2)?;
    let kernel = kernel.into_iter().map(|size| Ok(usize::try_from(size)?));
    let kernel = kernel.collect::<Result<Vec<_>>>()?;
    let image = w.elements(1, SIZES)?;
    let rank = kernel.len();
    ensure!(
        image.len() == rank && !kernel.contains(&0),
        "blocks {kernel:?} of {} sizes",
        image.len()
    );
    let (strides, dilations) = (sizes(w, "strides", rank, 1)?, sizes(w, "dilations", rank, 1)?);
    let (before, after) = window::pads(w, rank)?;
    let shape = w.shape(x);
    ensure!(shape.len() == 3, "columns of {} dimensions", shape.len());
    let taps: usize = kernel.iter().product();
    let columns = w.number(&shape[1])?;
    ensure!(
        columns > 0 && columns.is_multiple_of(taps),
        "{columns} lines of columns for {taps} elements"
    );
    let channels = columns / taps;
    let mut folded = vec![shape[0].clone(), columns.to_dim()];
    for axis in 0..rank {
        let extent = (kernel[axis] - 1) * dilations[axis] + 1;
        let room = &image[axis] + before[axis] + after[axis] - extent;
        if room.as_fixed().is_some_and(|room| room < 0) {
            bail!("a block of {extent} does not fit {}", w.walk.dim_text(&image[axis]));
        }
        folded.push(room.over(strides[axis]) + 1);
    }
    let x = w.reshape(x, &folded)?;
    let identity: Vec<f32> = (0..channels * taps * taps)
        .map(|flat| f32::from(u8::from(flat / taps % taps == flat % taps)))
        .collect();
    // A weight for each line of columns, with the channels as groups.
    let weights_shape: Vec<usize> = [columns, 1].into_iter().chain(kernel).collect();
    let weights = w.known(Constant::f32s(&weights_shape, &identity));
    let weights = w.cast(weights, w.dtype(x))?;
    let pads = before.iter().map(|pad| pad.to_dim()).collect();
    let window =
        program::Window { strides: numbers(&strides), dilations: numbers(&dilations), pads };
    let shape = [vec![shape[0].clone(), channels.to_dim()], image].concat();
    Ok(vec![deconvolve(w, window, channels, [x, weights], None, shape)?])
}

/// A window over the past of each channel, and the elements that are the past of the next call.
fn causal_conv_with_state(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, past) = (w.input(0)?, w.optional(3));
    let (result, state) = causal(w, x, past, 1)?;
    Ok(vec![result, state])
}

/// The same of an input and a past `[batch, channels, length]`, with a distance between the elements of the window.
pub(super) fn causal(
    w: &mut Wiring<'_, '_>,
    x: Var,
    past: Option<Var>,
    dilation: u32,
) -> Result<(Var, Var)> {
    let (weights, bias) = (w.input(1)?, w.optional(2));
    let (shape, kernel) = (w.shape(x), w.fixed_shape(weights)?);
    let &[channels, 1, taps] = kernel.as_slice() else {
        bail!("weights of shape {kernel:?}");
    };
    ensure!(shape.len() == 3 && taps > 0, "an input of {} dimensions", shape.len());
    let kept = (taps - 1) * dilation as usize;
    let joined = if kept == 0 {
        x
    } else {
        let past = match past {
            Some(past) => past,
            None => {
                let zero = w.scalar(w.dtype(x), 0.0);
                w.broadcast_to(zero, &[shape[0].clone(), channels.to_dim(), kept.to_dim()])?
            }
        };
        w.concat(2, &[past, x])?
    };
    let window =
        program::Window { strides: vec![1], dilations: vec![dilation], pads: vec![Dim::Fixed(0)] };
    let result = convolve(w, window, channels, [joined, weights], bias, shape.clone())?;
    let result = match w.text("activation")?.unwrap_or("none") {
        "none" | "" => result,
        "silu" | "swish" => silu(w, result)?,
        other => bail!("activation {other:?}"),
    };
    let length = &shape[2] + kept;
    let state = w.slice(joined, 2, &shape[2], length)?;
    Ok((result, state))
}

/// `x * sigmoid(x)`.
pub(super) fn silu(w: &mut Wiring<'_, '_>, x: Var) -> Result<Var> {
    let dtype = w.dtype(x);
    let wide = w.unrounded(x, DType::F32)?;
    let gate = w.unary(Unary::Sigmoid, wide)?;
    let result = w.mul(wide, gate)?;
    w.unrounded(result, dtype)
}
