//! Attributes of the operators for geometry and signals.

use serde::{Deserialize, Serialize};

use crate::dim::Dim;

/// See [`Op::Pad`](crate::Op::Pad).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pad {
    /// Elements put before each dimension; a negative number takes as many away.
    pub before: Vec<Dim>,
    /// The value of the new elements.
    pub mode: PadMode,
}

/// What a [`Pad`] adds around its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PadMode {
    /// The one element of the second input.
    Constant,
    /// The input mirrored at its first and last element, which are not repeated.
    Reflect,
    /// The nearest element of the input.
    Edge,
    /// The input, repeated.
    Wrap,
}

/// See [`Op::Resample`](crate::Op::Resample).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resample {
    /// Dimension that is resampled.
    pub axis: u32,
}

/// See [`Op::GridSample`](crate::Op::GridSample).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridSample {
    /// How an element between others is computed.
    pub interpolation: Interpolation,
    /// What lies outside of the input.
    pub outside: Outside,
    /// Whether -1 and 1 are the centres of the first and last element, not their outer edges.
    pub align_corners: bool,
}

/// How an element between others is computed from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Interpolation {
    /// The nearest one, halves to even.
    Nearest,
    /// Weighted by distance, from two in each dimension.
    Linear,
    /// Cubic convolution from four in each dimension, with `a` = -0.75.
    /// Source: Keys, "Cubic Convolution Interpolation for Digital Image Processing", eq. 15.
    Cubic,
}

/// The value that a [`GridSample`] reads outside of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outside {
    /// Zeros.
    Zeros,
    /// The nearest element.
    Border,
    /// The input mirrored at its border.
    Reflection,
}

/// See [`Op::RoiAlign`](crate::Op::RoiAlign).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoiAlign {
    /// Samples per cell in each dimension; 0 chooses as many as the region has elements there, rounded up.
    pub samples: u32,
    /// Factor from the regions' coordinates to the input's.
    pub scale: f32,
    /// Whether coordinates are moved by half an element, so that they name its centre.
    pub half_pixel: bool,
    /// Whether the largest weighted corner is taken instead of the mean of the samples.
    pub max: bool,
}

/// See [`Op::Dft`](crate::Op::Dft).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dft {
    /// Dimension that is transformed.
    pub axis: u32,
    /// Whether it is the inverse transform, which is divided by the length.
    pub inverse: bool,
    /// Whether the input is the first half of a spectrum whose second half is its conjugate mirror image.
    pub mirrored: bool,
}

/// See [`Op::Suppress`](crate::Op::Suppress).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suppress {
    /// Boxes that overlap a selected one by a larger part of their union are left out.
    pub overlap_max: f32,
    /// Boxes whose score is not above it are left out.
    pub score_min: Option<f32>,
    /// Whether a box is given by its centre and size (`x, y, width, height`), not by two opposite corners
    /// (`y, x, y, x`).
    pub centres: bool,
}

/// See [`Op::Trees`](crate::Op::Trees).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trees {
    /// How the leaves of all trees are combined.
    pub gathered: Gathered,
}

/// How the leaves of all trees are combined, in each column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant is named after what it computes")]
pub enum Gathered {
    Sum,
    /// The sum divided by the number of trees.
    Mean,
    Min,
    Max,
}

/// How a node of a tree compares a feature; the numbers are those of the ONNX standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is named after the comparison with the threshold")]
pub enum Branch {
    LessOrEqual = 0,
    Less = 1,
    GreaterOrEqual = 2,
    Greater = 3,
    Equal = 4,
    NotEqual = 5,
    /// Equal to one of the members.
    Member = 6,
}

/// See [`Op::NgramCounts`](crate::Op::NgramCounts).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NgramCounts {
    /// Largest distance between neighbours of an n-gram; all from 1 on are tried.
    pub distance_max: u32,
}
