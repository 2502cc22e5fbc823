//! The attributes of operators whose window slides over the spatial dimensions `[n, c, spatial..]`.

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{
    self as program,
    dim::{Dim, ToDim},
};

use crate::import::onnx::wiring::Wiring;

/// How a window slides, one number per spatial dimension each.
#[derive(Clone, Debug)]
pub(super) struct Sliding {
    pub(super) kernel: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    pub(super) before: Vec<Dim>,
    pub(super) after: Vec<Dim>,
    /// Places per dimension.
    pub(super) places: Vec<Dim>,
}

/// A list of sizes, or as many of the default ones if there is none.
pub(super) fn sizes(
    w: &Wiring<'_, '_>,
    name: &str,
    rank: usize,
    default: usize,
) -> Result<Vec<usize>> {
    let sizes = match w.ints(name)?.filter(|given| !given.is_empty()) {
        Some(given) => given
            .iter()
            .map(|&size| usize::try_from(size).with_context(|| format!("{name} {size}")))
            .collect::<Result<Vec<_>>>()?,
        None => vec![default; rank],
    };
    ensure!(sizes.len() == rank, "{} {name} for {rank} spatial dimensions", sizes.len());
    Ok(sizes)
}

/// Padding before and after, if it is given as numbers.
pub(super) fn pads(w: &Wiring<'_, '_>, rank: usize) -> Result<(Vec<usize>, Vec<usize>)> {
    let mut before = sizes(w, "pads", 2 * rank, 0)?;
    let after = before.split_off(rank);
    Ok((before, after))
}

impl Sliding {
    /// From a node's attributes, for a window of this size over these spatial dimensions.
    pub(super) fn of(w: &Wiring<'_, '_>, kernel: Vec<usize>, spatial: &[Dim]) -> Result<Sliding> {
        let rank = kernel.len();
        ensure!(rank == spatial.len(), "a window of {rank} dimensions over {}", spatial.len());
        ensure!(!kernel.contains(&0), "the window is empty");
        let strides = sizes(w, "strides", rank, 1)?;
        let dilations = sizes(w, "dilations", rank, 1)?;
        ensure!(!strides.contains(&0) && !dilations.contains(&0), "a stride or a dilation is 0");
        let ceil = w.flag("ceil_mode")?;
        let (before, after) = pads(w, rank)?;
        let fixed = |pads: Vec<usize>| pads.iter().map(ToDim::to_dim).collect::<Vec<Dim>>();
        let (mut before, mut after) = (fixed(before), fixed(after));
        let mut places = Vec::new();
        let auto = w.text("auto_pad")?.unwrap_or("NOTSET");
        for axis in 0..rank {
            let (input, stride) = (&spatial[axis], strides[axis]);
            let extent = (kernel[axis] - 1) * dilations[axis] + 1;
            match auto {
                "SAME_UPPER" | "SAME_LOWER" => {
                    let count = input.over_up(stride);
                    let padding = (&count - 1) * stride + extent - input;
                    let padding = w.walk.bounded(|bounds| padding.most(0, bounds));
                    let small = padding.over(2);
                    let large = padding - &small;
                    (before[axis], after[axis]) =
                        if auto == "SAME_UPPER" { (small, large) } else { (large, small) };
                    places.push(count);
                }
                "NOTSET" | "" | "VALID" => {
                    if auto == "VALID" {
                        (before[axis], after[axis]) = (Dim::Fixed(0), Dim::Fixed(0));
                    }
                    let whole = input + &before[axis];
                    let rest = &whole + &after[axis] - extent;
                    if rest.as_fixed().is_some_and(|rest| rest < 0) {
                        bail!("a window of {extent} does not fit {}", w.walk.dim_text(input));
                    }
                    if !ceil {
                        places.push(rest.over(stride) + 1);
                        continue;
                    }
                    // The last place must not lie in the padding after the input.
                    let last = rest.over_up(stride);
                    let never = after[axis]
                        .as_fixed()
                        .is_some_and(|after| after + stride as i64 <= extent as i64);
                    places.push(if never {
                        last + 1
                    } else {
                        w.walk.bounded(|bounds| {
                            let counts = (&last * stride).less(whole, bounds);
                            counts.select(&last + 1, &last)
                        })
                    });
                }
                other => bail!("auto_pad {other:?}"),
            }
        }
        Ok(Sliding { kernel, strides, dilations, before, after, places })
    }

    pub(super) fn window(&self) -> program::Window {
        program::Window {
            strides: numbers(&self.strides),
            dilations: numbers(&self.dilations),
            pads: self.before.clone(),
        }
    }

    /// `[n, c, places..]`.
    pub(super) fn output(&self, batch: &Dim, channels: impl ToDim) -> Vec<Dim> {
        [batch.clone(), channels.to_dim()].into_iter().chain(self.places.iter().cloned()).collect()
    }
}

/// Sizes as a program has them.
pub(super) fn numbers(sizes: &[usize]) -> Vec<u32> {
    sizes.iter().map(|&size| size as u32).collect()
}
