//! Convolutions with what optimizers fuse into them, or with the channels in the last dimension.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::dim::ToDim as _;

use super::{
    super::convolution::{causal, convolution, deconvolution},
    activation::activated,
    standard::{reused, sides},
};
use crate::import::onnx::{
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("CausalConvWithState", causal_conv_with_state),
    ("ConvTransposeWithDynamicPads", conv_transpose_with_dynamic_pads),
    ("FusedConv", |w| fused_conv(w, false)),
    ("NhwcConv", |w| fused_conv(w, true)),
    ("NhwcFusedConv", |w| fused_conv(w, true)),
    ("NhwcMaxPool", nhwc_max_pool),
];

/// `activation(x * weights + bias + z)`.
fn fused_conv(w: &mut Wiring<'_, '_>, channels_last: bool) -> Result<Vec<Var>> {
    let (mut x, weights, bias) = (w.input(0)?, w.input(1)?, w.optional(2));
    check_kernel(w, weights)?;
    if channels_last {
        x = channels_second(w, x)?;
    }
    let mut y = convolution(w, x, weights, bias)?;
    if let Some(z) = w.optional(3) {
        let z = if channels_last { channels_second(w, z)? } else { z };
        let (own, other) = (w.shape(y), w.shape(z));
        ensure!(own.len() == other.len(), "a summand of {} dimensions", other.len());
        for (own, other) in own.iter().zip(&other) {
            w.same("the dimensions of the result and of its summand", own, other)?;
        }
        y = w.add(y, z)?;
    }
    let name = w.text("activation")?.unwrap_or_default();
    let parameters = w.floats("activation_params")?.unwrap_or_default();
    y = activated(w, y, name, &parameters)?;
    Ok(vec![if channels_last { channels_to_end(w, y)? } else { y }])
}

/// The attribute `kernel_shape` says what the weights do.
fn check_kernel(w: &mut Wiring<'_, '_>, weights: Var) -> Result<()> {
    let Some(kernel) = w.ints("kernel_shape")?.filter(|kernel| !kernel.is_empty()) else {
        return Ok(());
    };
    let shape = w.shape(weights);
    let own = shape.get(2..).unwrap_or_default();
    ensure!(own.len() == kernel.len(), "kernel_shape {kernel:?} for {} dimensions", own.len());
    for (own, given) in own.iter().zip(&kernel) {
        w.same("the sizes of weights and kernel_shape", own, &given.to_dim())?;
    }
    Ok(())
}

/// `[n, spatial.., c]` to `[n, c, spatial..]`.
fn channels_second(w: &mut Wiring<'_, '_>, x: Var) -> Result<Var> {
    let rank = w.rank(x);
    ensure!(rank > 2, "an input of {rank} dimensions");
    let order: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    w.transpose(x, &order)
}

/// `[n, c, spatial..]` to `[n, spatial.., c]`.
fn channels_to_end(w: &mut Wiring<'_, '_>, x: Var) -> Result<Var> {
    let rank = w.rank(x);
    let order: Vec<usize> = [0].into_iter().chain(2..rank).chain([1]).collect();
    w.transpose(x, &order)
}

fn nhwc_max_pool(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let x = channels_second(w, x)?;
    let y = w.with_inputs(&[Some(x)], |w| reused(w, "MaxPool"))?;
    Ok(vec![channels_to_end(w, y[0])?])
}

/// The standard's operator with its padding in an operand.
fn conv_transpose_with_dynamic_pads(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (x, weights, bias) = (w.input(0)?, w.input(1)?, w.optional(3));
    check_kernel(w, weights)?;
    let pads = match w.optional(2) {
        Some(_) => {
            let mut before = sides(w, 2)?;
            let rank = w.rank(weights).saturating_sub(2);
            ensure!(before.len() == 2 * rank, "{} pads for {rank} dimensions", before.len());
            let after = before.split_off(rank);
            Some((before, after))
        }
        None => None,
    };
    Ok(vec![deconvolution(w, [x, weights], bias, pads)?])
}

/// A window over the past of each channel.
fn causal_conv_with_state(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    for (name, usual) in [
        ("ndim", 1),
        ("input_channel_offset", 0),
        ("input_channels", 0),
        ("state_channels_last", -1),
        ("state_length", 0),
        ("state_update_capacity", 0),
        ("state_window", 0),
    ] {
        w.only(name, usual)?;
    }
    if w.wants(2) {
        bail!("its output state_update is not supported");
    }
    let dilation = w.int("dilation")?.unwrap_or(1);
    let dilation = u32::try_from(dilation).ok().filter(|&dilation| dilation > 0);
    let dilation = dilation.context("the dilation must be at least 1")?;
    let last = w.flag("channels_last")?;
    let (mut x, mut past) = (w.input(0)?, w.optional(3));
    if last {
        ensure!(w.rank(x) == 3, "an input of {} dimensions, three are supported", w.rank(x));
        x = channels_second(w, x)?;
        past = past.map(|past| channels_second(w, past)).transpose()?;
    }
    let (mut y, mut state) = causal(w, x, past, dilation)?;
    if last {
        (y, state) = (channels_to_end(w, y)?, channels_to_end(w, state)?);
    }
    Ok(vec![y, state])
}
