//! What runs of a program may pad.

use serde::{Deserialize, Serialize};

use crate::dim::{Dim, Symbol};

/// What must hold so that padding a symbol cannot change a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Padding {
    /// The symbol. Dimensions of inputs that depend on it are padded after their last element with zero words.
    pub symbol: Symbol,
    /// What must hold of a run's inputs before padding.
    pub guards: Vec<Guard>,
    /// What must hold of the larger sizes.
    pub limits: Vec<Limit>,
}

impl Padding {
    /// Whether the larger sizes, in the order of [`Program::symbols`](crate::Program::symbols), are within all limits.
    pub fn allows(&self, symbols: &[i64]) -> bool {
        self.limits
            .iter()
            .all(|limit| limit.dim.eval(symbols).is_some_and(|size| size <= limit.most))
    }
}

/// A mask that must keep something: each of its rows along `axis` has an element that is one.
///
/// If a row masks everything, padding changes the result: a softmax over scores that are all hidden gives padding as
/// much weight as the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Guard {
    /// Index in [`Program::inputs`](crate::Program::inputs).
    pub input: u32,
    /// Dimension of the input that a row lies along.
    pub axis: u32,
    /// One, as a word of the input's type.
    pub one: u32,
}

impl Guard {
    /// Whether it holds for the input's words under this shape, both without padding.
    pub fn holds(&self, words: &[u32], shape: &[usize]) -> bool {
        let axis = self.axis as usize;
        let (Some(&length), Some(behind)) = (shape.get(axis), shape.get(axis + 1..)) else {
            return false;
        };
        let inner: usize = behind.iter().product();
        if length == 0 || inner == 0 {
            return length > 0;
        }
        words.chunks(length * inner).all(|rows| {
            (0..inner).all(|row| rows[row..].iter().step_by(inner).any(|&word| word == self.one))
        })
    }
}

/// A size that must not become larger: above it a position is not in its table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Limit {
    /// The size.
    pub dim: Dim,
    /// The most that it may be.
    pub most: i64,
}
