//! Windows that slide over the spatial dimensions `[n, c, spatial..]`.

use tract_onnx::pb::AttributeProto;

use super::{is_filled, reductions::dot};
use crate::{
    graph::{Graph, Spread, Var},
    proto::{float, int, ints, text},
    value::{Dim, Facts, Type, Value},
};

/// How a window slides.
pub(super) struct Window {
    pub(super) kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    before: Vec<usize>,
    after: Vec<usize>,
    auto: &'static str,
    ceil: bool,
}

/// The features that an operator has.
#[derive(Clone, Copy, Default)]
pub(super) struct Allowed {
    pub(super) dilations: bool,
    pub(super) ceil: bool,
    pub(super) auto: bool,
}

impl Window {
    pub(super) fn any(g: &mut Graph, spatial: &[Dim], allowed: Allowed) -> Option<Window> {
        let auto = match g.rng.below(10) {
            0 if allowed.auto => "SAME_UPPER",
            1 if allowed.auto => "SAME_LOWER",
            2 if allowed.auto => "VALID",
            _ => "NOTSET",
        };
        let mut window = Window {
            kernel: Vec::new(),
            strides: Vec::new(),
            dilations: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
            auto,
            ceil: allowed.ceil && auto == "NOTSET" && g.rng.percent(30),
        };
        let dilated = allowed.dilations && !auto.starts_with("SAME") && g.rng.percent(30);
        for dim in spatial {
            let kernel = g.rng.between(1, 3) as usize;
            let dilation = if dilated { g.rng.between(1, 2) as usize } else { 1 };
            let extent = (kernel - 1) * dilation + 1;
            let pad = |g: &mut Graph| match auto {
                "NOTSET" => g.rng.below(kernel),
                _ => 0,
            };
            let (before, after) = (pad(g), pad(g));
            let strides: Vec<usize> = [1, 1, 2, 3]
                .into_iter()
                .filter(|&by| !auto.starts_with("SAME") || by <= extent)
                .collect();
            if auto != "SAME_UPPER" && auto != "SAME_LOWER" && dim.least() + before + after < extent
            {
                return None;
            }
            window.kernel.push(kernel);
            window.strides.push(g.rng.pick(&strides));
            window.dilations.push(dilation);
            window.before.push(before);
            window.after.push(after);
        }
        Some(window)
    }

    /// Places along an axis.
    fn places(&self, axis: usize, dim: Dim) -> Option<Dim> {
        let stride = self.strides[axis] as i64;
        let extent = ((self.kernel[axis] - 1) * self.dilations[axis] + 1) as i64;
        let (before, after) = (self.before[axis] as i64, self.after[axis] as i64);
        Dim::of(&[dim], |size| {
            if self.auto.starts_with("SAME") {
                return (size[0] + stride - 1) / stride;
            }
            let rest = size[0] + before + after - extent;
            if !self.ceil {
                return rest / stride + 1;
            }
            let last = (rest + stride - 1) / stride;
            // The last place must not lie in the padding after the input.
            if last * stride >= size[0] + before { last } else { last + 1 }
        })
    }

    /// Whether every place covers an element, in every run. The result for an empty window is not
    /// defined.
    fn sees_everywhere(&self, from: &[Dim], shape: &[Dim]) -> bool {
        let mut axes = from[2..].iter().zip(&shape[2..]).enumerate();
        axes.all(|(axis, (dim, places))| {
            let (Some(sizes), Some(places)) = (dim.sizes(), places.sizes()) else { return false };
            let stride = self.strides[axis];
            let extent = (self.kernel[axis] - 1) * self.dilations[axis] + 1;
            sizes.into_iter().zip(places).all(|(size, places)| {
                let before = match self.auto {
                    "SAME_UPPER" | "SAME_LOWER" => {
                        let all = ((places.max(1) - 1) * stride + extent).saturating_sub(size);
                        if self.auto == "SAME_UPPER" { all / 2 } else { all - all / 2 }
                    }
                    _ => self.before[axis],
                };
                let is_inside = |place: usize, tap: usize| {
                    let at = place * stride + tap * self.dilations[axis];
                    (before..before + size).contains(&at)
                };
                (0..places).all(|place| (0..self.kernel[axis]).any(|tap| is_inside(place, tap)))
            })
        })
    }

    /// The shape of the result.
    pub(super) fn shape(&self, from: &[Dim], channels: Dim) -> Option<Vec<Dim>> {
        let places = from[2..].iter().enumerate().map(|(axis, &dim)| self.places(axis, dim));
        let places = places.collect::<Option<Vec<_>>>()?;
        Some([&[from[0], channels], places.as_slice()].concat())
    }

    pub(super) fn attributes(&self, g: &mut Graph, has_kernel: bool) -> Vec<AttributeProto> {
        let numbers = |sizes: &[usize]| sizes.iter().map(|&size| size as i64).collect::<Vec<_>>();
        let mut attributes = Vec::new();
        if has_kernel || g.rng.percent(50) {
            attributes.push(ints("kernel_shape", numbers(&self.kernel)));
        }
        if self.strides.iter().any(|stride| *stride != 1) || g.rng.percent(50) {
            attributes.push(ints("strides", numbers(&self.strides)));
        }
        if self.dilations.iter().any(|dilation| *dilation != 1) {
            attributes.push(ints("dilations", numbers(&self.dilations)));
        }
        if self.auto != "NOTSET" {
            attributes.push(text("auto_pad", self.auto));
        } else if self.before.iter().chain(&self.after).any(|pad| *pad != 0) {
            let pads = [numbers(&self.before), numbers(&self.after)].concat();
            attributes.push(ints("pads", pads));
        }
        if self.ceil {
            attributes.push(int("ceil_mode", 1));
        }
        attributes
    }

    /// Elements that it covers.
    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }
}

/// An image, a line or a volume.
fn is_spatial(value: &Value) -> bool {
    (3..6).contains(&value.rank()) && is_filled(value)
}

/// Such a value whose channels are the same in every run.
pub(super) fn with_channels(g: &mut Graph, types: &[Type]) -> Option<Var> {
    let there = g.find(|value| {
        types.contains(&value.of) && is_spatial(value) && value.shape[1].same_size().is_some()
    });
    if there.is_some() && g.rng.percent(70) {
        return there;
    }
    let of = g.rng.pick(types);
    let rank = g.rng.pick(&[3, 4, 4, 4, 5]);
    let mut shape = g.any_shape(rank);
    shape[1] = Dim::Fixed(g.rng.pick(&[1, 2, 3, 4, 6]));
    let spread = g.usual(of);
    let x = g.input(of, shape, spread)?;
    is_spatial(g.value(x)).then_some(x)
}

/// Groups of channels.
fn groups(g: &mut Graph, channels: usize) -> usize {
    let divisors: Vec<usize> = (1..=channels).filter(|by| channels.is_multiple_of(*by)).collect();
    if g.rng.percent(60) { 1 } else { g.rng.pick(&divisors) }
}

pub(super) fn conv(g: &mut Graph) -> Option<()> {
    let x = with_channels(g, &[Type::F32, Type::F32, Type::F32, Type::F16])?;
    let (of, shape) = (g.of(x), g.shape(x));
    let channels = shape[1].same_size()?;
    let groups = groups(g, channels);
    let outputs = groups * g.rng.between(1, 3) as usize;
    let window = Window::any(g, &shape[2..], Allowed { dilations: true, auto: true, ceil: false })?;
    let sizes = [&[outputs, channels / groups], window.kernel.as_slice()].concat();
    let weights = g.weights(of, &sizes, Spread::Grid(2, -1.5, 1.5))?;
    let mut facts = dot(channels / groups * window.taps(), &g.facts(x), &g.facts(weights));
    let mut inputs = vec![x, weights];
    if g.rng.percent(50) {
        let bias = g.weights(of, &[outputs], Spread::Grid(2, -2.0, 2.0))?;
        inputs.push(bias);
        facts = facts.plus(&g.facts(bias));
    }
    let mut attributes = window.attributes(g, false);
    if groups > 1 {
        attributes.push(int("group", groups as i64));
    }
    let made = window.shape(&shape, Dim::Fixed(outputs))?;
    g.one("Conv", &inputs, attributes, (of, made, facts))?;
    Some(())
}

pub(super) fn conv_transpose(g: &mut Graph) -> Option<()> {
    if g.opset < 11 {
        return None;
    }
    let x = with_channels(g, &[Type::F32])?;
    let shape = g.shape(x);
    let channels = shape[1].same_size()?;
    let groups = groups(g, channels);
    let per_group = g.rng.between(1, 3) as usize;
    let spatial = shape.len() - 2;
    let mut list = |low: i64, high: i64| -> Vec<usize> {
        (0..spatial).map(|_| g.rng.between(low, high) as usize).collect()
    };
    let (kernel, strides, dilations) = (list(1, 3), list(1, 3), list(1, 2));
    let auto = g.rng.pick(&["NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]);
    let mut behind = vec![0; spatial];
    let mut pads = vec![0; 2 * spatial];
    let mut made = Vec::new();
    for axis in 0..spatial {
        let extent = (kernel[axis] - 1) * dilations[axis] + 1;
        // If a result is larger than the elements reach, onnxruntime gives a smaller one.
        if auto.starts_with("SAME") && extent < strides[axis] {
            return None;
        }
        if auto == "NOTSET" {
            behind[axis] = g.rng.below(strides[axis].min(2));
            pads[axis] = g.rng.below(kernel[axis]);
            pads[spatial + axis] = g.rng.below(kernel[axis]);
        }
        let more = (extent + behind[axis]) as i64 - (pads[axis] + pads[spatial + axis]) as i64;
        let stride = strides[axis] as i64;
        made.push(if auto.starts_with("SAME") {
            Dim::of(&[shape[2 + axis]], |size| size[0] * stride)?
        } else {
            Dim::of(&[shape[2 + axis]], |size| (size[0] - 1) * stride + more)?
        });
    }
    if made.iter().any(|dim| dim.least() == 0) {
        return None;
    }
    let numbers = |sizes: &[usize]| sizes.iter().map(|&size| size as i64).collect::<Vec<_>>();
    let mut attributes = vec![ints("strides", numbers(&strides))];
    if dilations.iter().any(|dilation| *dilation != 1) {
        attributes.push(ints("dilations", numbers(&dilations)));
    }
    if behind.iter().any(|more| *more != 0) {
        attributes.push(ints("output_padding", numbers(&behind)));
    }
    if auto != "NOTSET" {
        attributes.push(text("auto_pad", auto));
    } else if g.rng.percent(70) {
        attributes.push(ints("pads", numbers(&pads)));
    } else {
        let all_zero = pads.iter().all(|pad| *pad == 0);
        let sizes: Option<Vec<usize>> = made.iter().map(|dim| dim.same_size()).collect();
        match sizes {
            Some(sizes) if behind.iter().all(|more| *more == 0) => {
                attributes.push(ints("output_shape", numbers(&sizes)));
                made = sizes.into_iter().map(Dim::Fixed).collect();
            }
            _ if all_zero => {}
            _ => return None,
        }
    }
    if groups > 1 {
        attributes.push(int("group", groups as i64));
    }
    let sizes = [&[channels, per_group], kernel.as_slice()].concat();
    let weights = g.weights(Type::F32, &sizes, Spread::Grid(2, -1.5, 1.5))?;
    let outputs = groups * per_group;
    let taps: usize = kernel.iter().product();
    let mut facts = dot(channels / groups * taps, &g.facts(x), &g.facts(weights));
    let mut inputs = vec![x, weights];
    if g.rng.percent(50) {
        let bias = g.weights(Type::F32, &[outputs], Spread::Grid(2, -2.0, 2.0))?;
        inputs.push(bias);
        facts = facts.plus(&g.facts(bias));
    }
    let made = [&[shape[0], Dim::Fixed(outputs)], made.as_slice()].concat();
    g.one("ConvTranspose", &inputs, attributes, (Type::F32, made, facts))?;
    Some(())
}

pub(super) fn pool(g: &mut Graph) -> Option<()> {
    let op = g.rng.pick(&["MaxPool", "MaxPool", "AveragePool", "AveragePool", "LpPool"]);
    let types: &[Type] = match op {
        "MaxPool" if g.opset >= 12 => &[Type::F32, Type::F32, Type::F32, Type::I8, Type::U8],
        _ => &[Type::F32],
    };
    let with_places = op == "MaxPool" && g.opset >= 8 && g.rng.percent(30);
    let x = g.value_of(types, |value| {
        is_spatial(value) && (value.is_exact() || !(with_places || op == "LpPool"))
    })?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let allowed = match op {
        "MaxPool" => Allowed { dilations: g.opset >= 10, ceil: g.opset >= 10, auto: true },
        "AveragePool" => Allowed { dilations: g.opset >= 19, ceil: g.opset >= 10, auto: true },
        _ => Allowed { dilations: g.opset >= 18, ceil: g.opset >= 18, auto: g.opset >= 11 },
    };
    let window = Window::any(g, &shape[2..], allowed)?;
    let made = window.shape(&shape, shape[1])?;
    if !window.sees_everywhere(&shape, &made) {
        return None;
    }
    let mut attributes = window.attributes(g, true);
    let number = window.taps() as f64;
    let mut outputs = Vec::new();
    match op {
        "MaxPool" => outputs.push((of, made.clone(), facts.moved())),
        "AveragePool" => {
            if g.rng.percent(40) {
                attributes.push(int("count_include_pad", 1));
            }
            let (low, high) = (facts.low.min(0.0), facts.high.max(0.0));
            let error = facts.error + facts.size() * 1e-6;
            outputs.push((of, made.clone(), Facts::about(low, high, error)));
        }
        _ => {
            let order = g.rng.pick(&[1, 2, 2, 3]);
            attributes.push(int("p", order));
            let size = facts.size() * number.powf(1.0 / order as f64);
            outputs.push((of, made.clone(), Facts::about(0.0, size, size * 4e-6)));
        }
    }
    if with_places {
        if g.rng.percent(30) {
            attributes.push(int("storage_order", 1));
        }
        let last = crate::value::count_most(&shape) as f64;
        outputs.push((Type::I64, made, Facts::whole(0.0, last)));
    }
    g.node(op, &[x], attributes, outputs)?;
    Some(())
}

pub(super) fn global(g: &mut Graph) -> Option<()> {
    let mut ops = vec!["GlobalAveragePool", "GlobalMaxPool"];
    if g.opset < 22 {
        ops.push("GlobalLpPool");
    }
    let op = g.rng.pick(&ops);
    let x = g.value_of(&[Type::F32], |value| {
        is_spatial(value) && (value.is_exact() || op != "GlobalLpPool")
    })?;
    let (of, shape, facts) = (g.of(x), g.shape(x), g.facts(x));
    let count = crate::value::count_most(&shape[2..]);
    let mut made = shape.clone();
    made[2..].fill(Dim::Fixed(1));
    let mut attributes = Vec::new();
    let facts = match op {
        "GlobalMaxPool" => facts.moved(),
        "GlobalAveragePool" => {
            let error = facts.sum(count).error / count as f64;
            Facts::about(facts.low, facts.high, error + facts.size() * 1e-6)
        }
        _ => {
            let order = g.rng.pick(&[1, 2, 3]);
            attributes.push(int("p", order));
            let size = facts.size() * (count as f64).powf(1.0 / order as f64);
            Facts::about(0.0, size, size * 4e-6)
        }
    };
    g.one(op, &[x], attributes, (of, made, facts))?;
    Some(())
}

/// A pool whose positions put its elements back.
pub(super) fn unpool(g: &mut Graph) -> Option<()> {
    if g.opset < 9 {
        return None;
    }
    let spatial = g.rng.between(1, 2) as usize;
    let mut shape = g.any_shape(2 + spatial);
    for dim in &mut shape[2..] {
        *dim = Dim::of(&[*dim], |size| size[0].max(1) * 2)?;
    }
    if shape.iter().any(|dim| dim.least() == 0) {
        return None;
    }
    let x = g.input(Type::F32, shape.clone(), Spread::Plain(-4.0, 4.0))?;
    let mut half = shape.clone();
    for dim in &mut half[2..] {
        *dim = Dim::of(&[*dim], |size| size[0] / 2)?;
    }
    let two = vec![2; spatial];
    let attributes = || vec![ints("kernel_shape", two.clone()), ints("strides", two.clone())];
    let facts = g.facts(x);
    let last = crate::value::count_most(&shape) as f64;
    let outputs = vec![
        (Type::F32, half.clone(), facts.moved()),
        (Type::I64, half.clone(), Facts::whole(0.0, last)),
    ];
    let pooled = g.node("MaxPool", &[x], attributes(), outputs)?;
    let back = facts.or(&Facts::whole(0.0, 0.0));
    let inputs = if g.rng.percent(30) {
        let row = g.row_of_dims(&shape)?;
        vec![pooled[0], pooled[1], row]
    } else {
        vec![pooled[0], pooled[1]]
    };
    g.one("MaxUnpool", &inputs, attributes(), (Type::F32, shape, back))?;
    Some(())
}

/// Blocks that are added to their places in an image.
pub(super) fn columns(g: &mut Graph) -> Option<()> {
    if g.opset < 18 {
        return None;
    }
    let spatial = g.rng.between(1, 3) as usize;
    let image: Vec<Dim> = (0..spatial).map(|_| Dim::Fixed(g.rng.between(2, 6) as usize)).collect();
    let window = Window::any(g, &image, Allowed { dilations: true, auto: false, ceil: false })?;
    // For other images, onnxruntime differs from ONNX's reference.
    let is_plain = window.before.iter().chain(&window.after).all(|pad| *pad == 0)
        && window.dilations.iter().all(|dilation| *dilation == 1);
    if spatial != 2 && !is_plain {
        return None;
    }
    let channels = g.rng.between(1, 3) as usize;
    let places = window.shape(&[&[Dim::Fixed(1); 2], image.as_slice()].concat(), Dim::Fixed(1))?;
    let count = crate::value::count(&places)?;
    let batch = g.any_dim();
    if batch.least() == 0 || count.least() == 0 {
        return None;
    }
    let shape = [batch, Dim::Fixed(channels * window.taps()), count];
    let x = g.given(Type::F32, &shape, Spread::Grid(3, -4.0, 4.0))?;
    let (sizes, block) = (g.row_of_dims(&image)?, {
        let kernel: Vec<i64> = window.kernel.iter().map(|&size| size as i64).collect();
        g.row(&kernel)?
    });
    let attributes: Vec<AttributeProto> = window
        .attributes(g, true)
        .into_iter()
        .filter(|attribute| attribute.name != "kernel_shape")
        .collect();
    let made = [&[batch, Dim::Fixed(channels)], image.as_slice()].concat();
    let facts = g.facts(x).sum(window.taps());
    g.one("Col2Im", &[x, sizes, block], attributes, (Type::F32, made, facts))?;
    Some(())
}

pub(super) fn deformable(g: &mut Graph) -> Option<()> {
    if g.opset < 19 {
        return None;
    }
    let mut shape = g.any_shape(4);
    let offset_groups = g.rng.between(1, 2) as usize;
    let groups = g.rng.between(1, 2) as usize;
    let channels = offset_groups * groups * g.rng.between(1, 2) as usize;
    shape[1] = Dim::Fixed(channels);
    if shape.iter().any(|dim| dim.least() == 0) {
        return None;
    }
    let x = g.given(Type::F32, &shape, Spread::Grid(3, -4.0, 4.0))?;
    let window =
        Window::any(g, &shape[2..], Allowed { dilations: true, auto: false, ceil: false })?;
    let outputs = groups * g.rng.between(1, 2) as usize;
    let sizes = [&[outputs, channels / groups], window.kernel.as_slice()].concat();
    let weights = g.weights(Type::F32, &sizes, Spread::Grid(2, -1.5, 1.5))?;
    let made = window.shape(&shape, Dim::Fixed(outputs))?;
    let taps = window.taps();
    let with = |channels: usize| [made[0], Dim::Fixed(channels), made[2], made[3]];
    let offset = g.given(Type::F32, &with(offset_groups * taps * 2), Spread::Plain(-1.5, 1.5))?;
    let mut inputs = vec![x, weights, offset, Var::NONE, Var::NONE];
    let mut facts = dot(channels / groups * taps, &g.facts(x), &g.facts(weights));
    if g.rng.percent(50) {
        let bias = g.weights(Type::F32, &[outputs], Spread::Grid(2, -2.0, 2.0))?;
        inputs[3] = bias;
        facts = facts.plus(&g.facts(bias));
    }
    if g.rng.percent(50) {
        inputs[4] = g.given(Type::F32, &with(offset_groups * taps), Spread::Plain(0.0, 1.0))?;
    }
    let mut attributes = window.attributes(g, true);
    attributes.push(int("group", groups as i64));
    attributes.push(int("offset_group", offset_groups as i64));
    let facts = Facts::about(facts.low, facts.high, facts.size() * 4e-6);
    g.one("DeformConv", &inputs, attributes, (Type::F32, made, facts))?;
    Some(())
}

pub(super) fn sample_grid(g: &mut Graph) -> Option<()> {
    if g.opset < 16 {
        return None;
    }
    let rank_max = if g.opset >= 20 { 5 } else { 4 };
    let x = g.value_of(&[Type::F32], |value| {
        is_filled(value) && (4..=rank_max).contains(&value.rank())
    })?;
    let (shape, facts) = (g.shape(x), g.facts(x));
    let spatial = shape.len() - 2;
    let places = g.any_shape(spatial);
    if places.iter().any(|dim| dim.least() == 0) {
        return None;
    }
    let of_grid = [&[shape[0]], places.as_slice(), &[Dim::Fixed(spatial)]].concat();
    let grid = g.given(Type::F32, &of_grid, Spread::Plain(-1.3, 1.3))?;
    let new = g.opset >= 20;
    let mode = match g.rng.below(4) {
        0 | 1 => {
            if new {
                "linear"
            } else {
                "bilinear"
            }
        }
        2 => "nearest",
        _ if spatial == 2 => {
            if new {
                "cubic"
            } else {
                "bicubic"
            }
        }
        _ => "nearest",
    };
    let padding = g.rng.pick(&["zeros", "border", "reflection"]);
    // Here onnxruntime clips coordinates, and ONNX's reference clips the positions of elements.
    if mode.ends_with("cubic") && padding == "border" {
        return None;
    }
    let attributes = vec![
        text("mode", mode),
        text("padding_mode", padding),
        int("align_corners", g.rng.below(2) as i64),
    ];
    let made = [&shape[..2], places.as_slice()].concat();
    let size = facts.size() * if mode.ends_with("cubic") { 2.0 } else { 1.0 };
    // Coordinates are rounded, and elements differ.
    let facts = Facts::about(-size, size, facts.error * 2.0 + size * 2e-5);
    g.one("GridSample", &[x, grid], attributes, (Type::F32, made, facts))?;
    Some(())
}

pub(super) fn regions(g: &mut Graph) -> Option<()> {
    if !(10..22).contains(&g.opset) {
        return None;
    }
    let x = g.value_of(&[Type::F32], |value| value.rank() == 4 && is_filled(value))?;
    let (shape, facts) = (g.shape(x), g.facts(x));
    let count = g.any_dim();
    if count.least() == 0 {
        return None;
    }
    let rois = g.given(Type::F32, &[count, Dim::Fixed(4)], Spread::Plain(0.0, 7.0))?;
    let last = shape[0].least() as i64 - 1;
    let images = g.given(Type::I64, &[count], Spread::whole(0, last))?;
    let (rows, columns) = (g.rng.between(1, 3), g.rng.between(1, 3));
    let mode = g.rng.pick(&["avg", "avg", "max"]);
    let mut attributes = vec![
        text("mode", mode),
        int("output_height", rows),
        int("output_width", columns),
        int("sampling_ratio", g.rng.between(1, 3)),
        float("spatial_scale", g.rng.pick(&[1.0, 0.5])),
    ];
    if g.opset >= 16 && g.rng.percent(60) {
        let mode = g.rng.pick(&["half_pixel", "output_half_pixel"]);
        attributes.push(text("coordinate_transformation_mode", mode));
    }
    let made = vec![count, shape[1], Dim::Fixed(rows as usize), Dim::Fixed(columns as usize)];
    let (low, high) = (facts.low.min(0.0), facts.high.max(0.0));
    let facts = Facts::about(low, high, facts.error + facts.size() * 2e-5);
    g.one("RoiAlign", &[x, rois, images], attributes, (Type::F32, made, facts))?;
    Some(())
}
