//! Convolutions and what is made of them.

use tract_onnx::{
    prelude::{DatumType, OutletId, TDim, TVec, Tensor, TractResult},
    tract_hir::internal::{
        ToDim, TractErrorContext as _, bail, ensure,
        tract_core::ops::{
            cnn::{Conv, Deconv, KernelFormat, PaddingSpec, PoolSpec},
            nn::{DataFormat, sigmoid},
        },
    },
};

use super::window::{self, Sliding, numbers, sizes};
use crate::import::onnx::{
    convolve::Convolve,
    wiring::{Wire, Wiring},
};
use flotilla_program as program;

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("Conv", conv),
    ("ConvTranspose", conv_transpose),
    ("DeformConv", deform_conv),
    ("Col2Im", col2im),
    ("CausalConvWithState", causal_conv_with_state),
];

fn conv(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, weights, bias) = (w.input(0)?, w.input(1)?, w.optional(2));
    Ok(vec![convolution(w, x, weights, bias)?])
}

/// The convolution that a node's attributes describe, of these operands; of integers, too.
pub(super) fn convolution(
    w: &mut Wiring<'_, '_>,
    x: OutletId,
    weights: OutletId,
    bias: Option<OutletId>,
) -> TractResult<OutletId> {
    let groups = groups(w)?;
    let shape = w.fixed_shape(weights)?;
    let &[outputs, inputs, ref kernel @ ..] = shape.as_slice() else {
        bail!("weights of shape {shape:?}");
    };
    let spatial = w.shape(x).get(2..).unwrap_or_default().to_vec();
    let sliding = Sliding::of(w, kernel.to_vec(), &spatial)?;
    ensure!(outputs % groups == 0, "{outputs} channels in {groups} groups");
    let inputs = inputs * groups;
    let from = w.shape(x);
    ensure!(from[1] == inputs.to_dim(), "{} channels for {inputs}", from[1]);
    if w.dtype(x) == DatumType::I32 {
        // tract's convolution of integers quantizes, too.
        let conv = program::Op::Conv(program::Conv {
            window: sliding.window(),
            groups: u32::try_from(groups)?,
            transposed: false,
            bias: bias.is_some(),
            residual: false,
            activation: None,
        });
        let order: Vec<usize> = [0].into_iter().chain(2..w.rank(weights)).chain([1]).collect();
        let weights = w.transpose(weights, &order)?;
        let operands: Vec<OutletId> = [x, weights].into_iter().chain(bias).collect();
        let shape = sliding.output(&from[0], outputs);
        return w.program_op(conv, &operands, DatumType::I32, shape);
    }
    convolve(w, sliding.spec(inputs, outputs), groups, x, weights, bias)
}

fn convolve(
    w: &mut Wiring<'_, '_>,
    pool_spec: PoolSpec,
    group: usize,
    x: OutletId,
    weights: OutletId,
    bias: Option<OutletId>,
) -> TractResult<OutletId> {
    let bias = match bias {
        Some(bias) => bias,
        None => w.scalar(w.dtype(x), 0.0)?,
    };
    let conv = Conv { pool_spec, kernel_fmt: KernelFormat::OIHW, group, q_params: None };
    w.wire(Convolve(conv), &[x, weights, bias])
}

fn groups(w: &Wiring<'_, '_>) -> TractResult<usize> {
    let groups = w.node.get_attr_opt::<i64>("group")?.unwrap_or(1);
    let groups = usize::try_from(groups).with_context(|| format!("{groups} groups"))?;
    ensure!(groups > 0, "there are no groups");
    Ok(groups)
}

fn conv_transpose(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, weights, bias) = (w.input(0)?, w.input(1)?, w.optional(2));
    let groups = groups(w)?;
    let shape = w.fixed_shape(weights)?;
    let &[inputs, per_group, ref kernel @ ..] = shape.as_slice() else {
        bail!("weights of shape {shape:?}");
    };
    ensure!(inputs % groups == 0, "{inputs} channels in {groups} groups");
    let rank = kernel.len();
    let spatial = w.shape(x).get(2..).unwrap_or_default().to_vec();
    ensure!(spatial.len() == rank, "a window of {rank} dimensions over {}", spatial.len());
    let (strides, dilations) = (sizes(w, "strides", rank, 1)?, sizes(w, "dilations", rank, 1)?);
    let mut behind = sizes(w, "output_padding", rank, 0)?;
    let (mut before, mut after) = window::pads(w, rank)?;
    let auto = w.text("auto_pad")?.unwrap_or("NOTSET").to_owned();
    let wanted = w.node.get_attr_opt_vec::<i64>("output_shape")?;
    for axis in 0..rank {
        let extent = (kernel[axis] - 1) * dilations[axis] + 1;
        // What the result would be without padding.
        let full = (spatial[axis].clone() - 1) * strides[axis] + extent + behind[axis];
        let wanted = match (&wanted, auto.as_str()) {
            (Some(shape), _) => {
                // It may have the batch and the channels in front.
                let spatial = shape.len().checked_sub(rank).context("output_shape is too short")?;
                Some(shape[spatial + axis].to_dim())
            }
            (None, "SAME_UPPER" | "SAME_LOWER") => Some(spatial[axis].clone() * strides[axis]),
            (None, "VALID") => {
                (before[axis], after[axis]) = (0, 0);
                None
            }
            (None, _) => None,
        };
        let Some(wanted) = wanted else { continue };
        let padding = full - wanted;
        let padding = padding
            .to_i64()
            .with_context(|| format!("the padding {padding} is only known when it runs"))?;
        // A result that is larger than the elements reach has zeros at its end.
        behind[axis] += usize::try_from(-padding).unwrap_or(0);
        let padding = usize::try_from(padding).unwrap_or(0);
        let small = padding / 2;
        (before[axis], after[axis]) = match auto.as_str() {
            "SAME_UPPER" => (small, padding - small),
            _ => (padding - small, small),
        };
    }
    // tract has a transposed convolution's weights in the order of the convolution's.
    let mut grouped = vec![groups.to_dim(), (inputs / groups).to_dim(), per_group.to_dim()];
    grouped.extend(kernel.iter().map(|size| size.to_dim()));
    let weights = w.reshape(weights, &grouped)?;
    let order: Vec<usize> = [0, 2, 1].into_iter().chain(3..rank + 3).collect();
    let weights = w.transpose(weights, &order)?;
    let mut plain = vec![(groups * per_group).to_dim(), (inputs / groups).to_dim()];
    plain.extend(kernel.iter().map(|size| size.to_dim()));
    let weights = w.reshape(weights, &plain)?;
    let list = |sizes: &[usize]| -> TVec<usize> { sizes.iter().copied().collect() };
    let pool_spec = PoolSpec {
        data_format: DataFormat::NCHW,
        kernel_shape: list(kernel),
        padding: PaddingSpec::Explicit(list(&before), list(&after)),
        dilations: Some(list(&dilations)),
        strides: Some(list(&strides)),
        input_channels: inputs,
        output_channels: groups * per_group,
    };
    Ok(vec![deconvolve(w, pool_spec, groups, list(&behind), x, weights, bias)?])
}

fn deconvolve(
    w: &mut Wiring<'_, '_>,
    pool_spec: PoolSpec,
    group: usize,
    adjustments: TVec<usize>,
    x: OutletId,
    weights: OutletId,
    bias: Option<OutletId>,
) -> TractResult<OutletId> {
    let bias = match bias {
        Some(bias) => bias,
        None => w.scalar(w.dtype(x), 0.0)?,
    };
    let kernel_format = KernelFormat::OIHW;
    w.wire(Deconv { pool_spec, kernel_format, adjustments, group }, &[x, weights, bias])
}

/// The elements where the offsets point as columns, times the weights.
fn deform_conv(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
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
    let offset_groups = w.node.get_attr_opt::<i64>("offset_group")?.unwrap_or(1);
    let columns = program::Op::DeformableColumns(program::DeformableColumns {
        kernel: numbers(&sliding.kernel),
        window: sliding.window(),
        offset_groups: u32::try_from(offset_groups).context("groups of offsets")?,
        mask: mask.is_some(),
    });
    let taps = height * width;
    let mut unfolded = vec![from[0].clone(), from[1].clone(), taps.to_dim()];
    unfolded.extend(sliding.places.iter().cloned());
    let operands: Vec<OutletId> = [x, offset].into_iter().chain(mask).collect();
    let columns = w.program_op(columns, &operands, w.dtype(x), unfolded)?;
    let places: TDim = sliding.places.iter().product();
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

/// Every block is added to its place in the image: the transposed convolution whose weights send each element of a
/// column to its own place of the window.
fn col2im(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let known = |w: &Wiring<'_, '_>, index: usize| -> TractResult<Vec<usize>> {
        w.known_i64s(index)?.iter().map(|&size| Ok(usize::try_from(size)?)).collect()
    };
    let (image, kernel) = (known(w, 1)?, known(w, 2)?);
    let rank = kernel.len();
    ensure!(image.len() == rank && !kernel.contains(&0), "blocks {kernel:?} of {image:?}");
    let (strides, dilations) = (sizes(w, "strides", rank, 1)?, sizes(w, "dilations", rank, 1)?);
    let (before, after) = window::pads(w, rank)?;
    let shape = w.shape(x);
    let taps: usize = kernel.iter().product();
    let columns = shape.get(1).and_then(|dim| dim.to_i64().ok()).unwrap_or(0) as usize;
    ensure!(
        columns > 0 && columns.is_multiple_of(taps),
        "{columns} lines of columns for {taps} elements"
    );
    let channels = columns / taps;
    let (mut blocks, mut rests) = (Vec::new(), TVec::new());
    for axis in 0..rank {
        let extent = (kernel[axis] - 1) * dilations[axis] + 1;
        let room = (image[axis] + before[axis] + after[axis])
            .checked_sub(extent)
            .with_context(|| format!("a block of {extent} does not fit {}", image[axis]))?;
        blocks.push((room / strides[axis] + 1).to_dim());
        rests.push(room % strides[axis]);
    }
    let mut folded = vec![shape[0].clone(), columns.to_dim()];
    folded.extend(blocks);
    let x = w.reshape(x, &folded)?;
    let identity: Vec<f32> = (0..channels * taps * taps)
        .map(|flat| f32::from(u8::from(flat / taps % taps == flat % taps)))
        .collect();
    let weights_shape: Vec<usize> = [channels, taps].into_iter().chain(kernel.clone()).collect();
    let weights = Tensor::from_shape(&weights_shape, &identity)?;
    let weights = weights.cast_to_dt(w.dtype(x))?.into_owned();
    let weights = w.tensor(weights)?;
    let list = |sizes: &[usize]| -> TVec<usize> { sizes.iter().copied().collect() };
    let pool_spec = PoolSpec {
        data_format: DataFormat::NCHW,
        kernel_shape: list(&kernel),
        padding: PaddingSpec::Explicit(list(&before), list(&after)),
        dilations: Some(list(&dilations)),
        strides: Some(list(&strides)),
        input_channels: columns,
        output_channels: channels,
    };
    Ok(vec![deconvolve(w, pool_spec, channels, rests, x, weights, None)?])
}

/// A window over each channel's past, and the elements that the next call sees as past.
fn causal_conv_with_state(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (x, weights, bias, past) = (w.input(0)?, w.input(1)?, w.optional(2), w.optional(3));
    let (shape, kernel) = (w.shape(x), w.fixed_shape(weights)?);
    let &[channels, 1, taps] = kernel.as_slice() else {
        bail!("weights of shape {kernel:?}");
    };
    ensure!(shape.len() == 3 && taps > 0, "an input of {} dimensions", shape.len());
    let kept = taps - 1;
    let joined = if kept == 0 {
        x
    } else {
        let past = match past {
            Some(past) => past,
            None => {
                let zero = w.scalar(w.dtype(x), 0.0)?;
                w.broadcast_to(zero, &[shape[0].clone(), channels.to_dim(), kept.to_dim()])?
            }
        };
        w.concat(2, &[past, x])?
    };
    let spec = Sliding {
        kernel: vec![taps],
        strides: vec![1],
        dilations: vec![1],
        before: vec![0],
        after: vec![0],
        ceil: false,
        places: vec![shape[2].clone()],
    }
    .spec(channels, channels);
    let result = convolve(w, spec, channels, joined, weights, bias)?;
    let result = match w.text("activation")?.unwrap_or("none") {
        "none" | "" => result,
        "silu" | "swish" => silu(w, result)?,
        other => bail!("activation {other:?}"),
    };
    let length = shape[2].clone() + kept;
    let state = w.slice(joined, 2, shape[2].clone(), length)?;
    Ok(vec![result, state])
}

/// `x * sigmoid(x)`, computed in 32 bits.
fn silu(w: &mut Wiring<'_, '_>, x: OutletId) -> TractResult<OutletId> {
    let dtype = w.dtype(x);
    let wide = w.cast(x, DatumType::F32)?;
    let gate = w.unary(sigmoid(), wide)?;
    let result = w.mul(wide, gate)?;
    w.cast(result, dtype)
}
