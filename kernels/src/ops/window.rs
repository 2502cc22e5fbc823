//! Windows that slide over one to three spatial dimensions, which kernels treat as three.

use flotilla_program::Window;
#[cfg(not(target_arch = "wasm32"))]
use flotilla_program::dim::Dim;

use crate::call::Call;

/// Most spatial dimensions.
pub(super) const SPATIAL_MAX: usize = 3;

/// The fields of a shader's `Params` that [`Sliding::params`] fills; the fourth element of sizes is their product.
pub(super) const FIELDS: &str = "    input_size: vec4<u32>,
    output_size: vec4<u32>,
    kernel_size: vec4<u32>,
    strides: vec4<i32>,
    dilations: vec4<i32>,
    pads: vec4<i32>,
";

/// A window with its sizes; if it has fewer than three dimensions, leading dimensions of 1 are added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sliding {
    pub(super) input: [usize; SPATIAL_MAX],
    pub(super) output: [usize; SPATIAL_MAX],
    pub(super) kernel: [usize; SPATIAL_MAX],
    pub(super) strides: [usize; SPATIAL_MAX],
    pub(super) dilations: [usize; SPATIAL_MAX],
    pub(super) pads: [i64; SPATIAL_MAX],
}

/// Refuses a window whose number of dimensions differs from the spatial dimensions of a value of this rank.
pub(super) fn check(window: &Window, rank: usize) -> Result<(), String> {
    let spatial = rank.saturating_sub(2);
    if !(1..=SPATIAL_MAX).contains(&spatial) {
        return Err(format!("{spatial} spatial dimensions, 1 to {SPATIAL_MAX} can be had"));
    }
    for (name, count) in [
        ("strides", window.strides.len()),
        ("dilations", window.dilations.len()),
        ("pads", window.pads.len()),
    ] {
        if count != spatial {
            return Err(format!("{count} {name} for {spatial} spatial dimensions"));
        }
    }
    if window.strides.iter().chain(&window.dilations).any(|&step| step == 0) {
        return Err("a stride or a dilation is 0".to_owned());
    }
    Ok(())
}

/// Paddings of a case, which are fixed numbers.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn fixed(pads: &[i32]) -> Vec<Dim> {
    pads.iter().map(|&pad| i64::from(pad).into()).collect()
}

impl Sliding {
    /// From the spatial dimensions of a checked window's operands.
    pub(super) fn new(
        call: &Call<'_>,
        window: &Window,
        input: &[usize],
        kernel: &[usize],
        output: &[usize],
    ) -> Result<Sliding, String> {
        if input.len() != output.len() || input.len() != kernel.len() {
            return Err(format!(
                "a window {kernel:?} over {input:?} does not give {output:?}: their ranks differ"
            ));
        }
        Ok(Sliding {
            input: three(input, 1),
            output: three(output, 1),
            kernel: three(kernel, 1),
            strides: three(&sizes(&window.strides), 1),
            dilations: three(&sizes(&window.dilations), 1),
            pads: three(&call.numbers(&window.pads)?, 0),
        })
    }

    /// Elements of the input of one channel.
    pub(super) fn plane(&self) -> usize {
        self.input.iter().product()
    }

    /// Elements of the output of one channel.
    pub(super) fn places(&self) -> usize {
        self.output.iter().product()
    }

    /// Elements of the window.
    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Index along `axis` of the element at a tap of the window's place, if it lies inside of the input.
    pub(super) fn source(&self, axis: usize, place: usize, tap: usize) -> Option<usize> {
        let at = (place * self.strides[axis] + tap * self.dilations[axis]) as i64 - self.pads[axis];
        usize::try_from(at).ok().filter(|&at| at < self.input[axis])
    }

    /// The contents of [`FIELDS`].
    pub(super) fn params(&self) -> Vec<u32> {
        let with_product = |sizes: [usize; 3]| {
            let [a, b, c] = sizes.map(|size| size as u32);
            [a, b, c, sizes.iter().product::<usize>() as u32]
        };
        let plain = |numbers: [usize; 3]| {
            let [a, b, c] = numbers.map(|number| number as u32);
            [a, b, c, 0]
        };
        let [a, b, c] = self.pads.map(|pad| pad as i32 as u32);
        [
            with_product(self.input),
            with_product(self.output),
            with_product(self.kernel),
            plain(self.strides),
            plain(self.dilations),
            [a, b, c, 0],
        ]
        .concat()
    }
}

/// Row-major position of a flat index over three dimensions.
pub(super) fn position(flat: usize, sizes: [usize; SPATIAL_MAX]) -> [usize; SPATIAL_MAX] {
    [flat / (sizes[1] * sizes[2]), flat / sizes[2] % sizes[1], flat % sizes[2]]
}

/// Numbers of a program as sizes.
pub(super) fn sizes(numbers: &[u32]) -> Vec<usize> {
    numbers.iter().map(|&number| number as usize).collect()
}

fn three<T: Copy>(numbers: &[T], missing: T) -> [T; SPATIAL_MAX] {
    let mut all = [missing; SPATIAL_MAX];
    all[SPATIAL_MAX - numbers.len().min(SPATIAL_MAX)..].copy_from_slice(numbers);
    all
}
