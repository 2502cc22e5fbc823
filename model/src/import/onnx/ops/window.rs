//! The attributes of operators whose window slides over the spatial dimensions `[n, c, spatial..]`.

use tract_onnx::{
    prelude::{TDim, TVec, TractResult},
    tract_hir::internal::{
        DimLike as _, ToDim, TractErrorContext as _, bail, ensure,
        tract_core::ops::{
            cnn::{PaddingSpec, PoolSpec},
            nn::DataFormat,
        },
    },
};

use crate::import::onnx::wiring::Wiring;
use flotilla_program as program;

/// How a window slides, one number per spatial dimension each.
#[derive(Clone, Debug)]
pub(super) struct Sliding {
    pub(super) kernel: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    pub(super) before: Vec<usize>,
    pub(super) after: Vec<usize>,
    /// Whether a last place counts that the padding does not fill.
    pub(super) ceil: bool,
    /// Places per dimension.
    pub(super) places: Vec<TDim>,
}

/// A list of sizes, or as many of these where there is none.
pub(super) fn sizes(
    w: &Wiring<'_, '_>,
    name: &str,
    rank: usize,
    default: usize,
) -> TractResult<Vec<usize>> {
    let sizes = match w.node.get_attr_opt_vec::<i64>(name)? {
        Some(given) => given
            .iter()
            .map(|&size| usize::try_from(size).with_context(|| format!("{name} {size}")))
            .collect::<TractResult<Vec<_>>>()?,
        None => vec![default; rank],
    };
    ensure!(sizes.len() == rank, "{} {name} for {rank} spatial dimensions", sizes.len());
    Ok(sizes)
}

/// Padding before and behind, where it is given as numbers.
pub(super) fn pads(w: &Wiring<'_, '_>, rank: usize) -> TractResult<(Vec<usize>, Vec<usize>)> {
    let mut before = sizes(w, "pads", 2 * rank, 0)?;
    let after = before.split_off(rank);
    Ok((before, after))
}

impl Sliding {
    /// From a node's attributes, for a window of this size over these spatial dimensions.
    pub(super) fn of(
        w: &Wiring<'_, '_>,
        kernel: Vec<usize>,
        spatial: &[TDim],
    ) -> TractResult<Sliding> {
        let rank = kernel.len();
        ensure!(rank == spatial.len(), "a window of {rank} dimensions over {}", spatial.len());
        ensure!(!kernel.contains(&0), "the window is empty");
        let strides = sizes(w, "strides", rank, 1)?;
        let dilations = sizes(w, "dilations", rank, 1)?;
        ensure!(!strides.contains(&0) && !dilations.contains(&0), "a stride or a dilation is 0");
        let ceil = w.node.get_attr_opt::<i64>("ceil_mode")?.unwrap_or(0) != 0;
        let (mut before, mut after) = pads(w, rank)?;
        let mut places = Vec::new();
        let auto = w.text("auto_pad")?.unwrap_or("NOTSET").to_owned();
        for axis in 0..rank {
            let (input, stride) = (&spatial[axis], strides[axis]);
            let extent = (kernel[axis] - 1) * dilations[axis] + 1;
            match auto.as_str() {
                "SAME_UPPER" | "SAME_LOWER" => {
                    let count = input.divceil(stride);
                    let padding = (count.clone() - 1) * stride + extent - input.clone();
                    let padding = padding.to_i64().with_context(|| {
                        format!("the padding {padding} is only known when it runs")
                    })?;
                    let padding = usize::try_from(padding).unwrap_or(0);
                    let small = padding / 2;
                    let upper = auto == "SAME_UPPER";
                    (before[axis], after[axis]) =
                        if upper { (small, padding - small) } else { (padding - small, small) };
                    places.push(count);
                }
                "NOTSET" | "" | "VALID" => {
                    if auto == "VALID" {
                        (before[axis], after[axis]) = (0, 0);
                    }
                    let rest = input.clone() + before[axis] + after[axis] - extent;
                    let whole = if ceil { rest.divceil(stride) } else { rest.clone() / stride };
                    // In ceil mode the last place must not lie in the padding behind the input.
                    let drops = ceil
                        && match (whole.to_i64(), input.to_i64()) {
                            (Ok(last), Ok(input)) => {
                                last * stride as i64 >= input + before[axis] as i64
                            }
                            _ if after[axis] + stride <= extent => false,
                            _ => bail!("whether its last window counts is only known when it runs"),
                        };
                    places.push(if drops { whole } else { whole + 1 });
                    if let Ok(rest) = rest.to_i64() {
                        ensure!(rest >= 0, "a window of {extent} does not fit {input}");
                    }
                }
                other => bail!("auto_pad {other:?}"),
            }
        }
        Ok(Sliding { kernel, strides, dilations, before, after, ceil, places })
    }

    /// For tract's operators.
    pub(super) fn spec(&self, inputs: usize, outputs: usize) -> PoolSpec {
        let list = |sizes: &[usize]| -> TVec<usize> { sizes.iter().copied().collect() };
        let (before, after) = (list(&self.before), list(&self.after));
        PoolSpec {
            data_format: DataFormat::NCHW,
            kernel_shape: list(&self.kernel),
            padding: if self.ceil {
                PaddingSpec::ExplicitOnnxPool(before, after, true)
            } else {
                PaddingSpec::Explicit(before, after)
            },
            dilations: Some(list(&self.dilations)),
            strides: Some(list(&self.strides)),
            input_channels: inputs,
            output_channels: outputs,
        }
    }

    /// For our own operators.
    pub(super) fn window(&self) -> program::Window {
        program::Window {
            strides: numbers(&self.strides),
            dilations: numbers(&self.dilations),
            pads: self.before.iter().map(|&pad| pad as i32).collect(),
        }
    }

    /// `[n, c, places..]`.
    pub(super) fn output(&self, batch: &TDim, channels: impl ToDim) -> Vec<TDim> {
        [batch.clone(), channels.to_dim()].into_iter().chain(self.places.iter().cloned()).collect()
    }
}

/// Sizes as a program has them.
pub(super) fn numbers(sizes: &[usize]) -> Vec<u32> {
    sizes.iter().map(|&size| size as u32).collect()
}
