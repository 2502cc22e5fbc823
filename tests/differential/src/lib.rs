//! Random small ONNX graphs, computed by our engine and by onnxruntime, which shares no code with it.
//!
//! A seed makes a [`Case`](case::Case): a well-typed graph and the inputs of two runs with different sizes. The generator
//! tracks shapes, ranges and how far two right engines may differ. It makes nothing whose results depend on a rounding error:
//! operators that compare, round or order floats get exact ones. [`Judge`](judge::Judge) imports the graph as a user does,
//! loads it once, runs it for each set of inputs and compares. A case that fails is reduced by [`shrink`].

pub mod case;
mod families;
pub mod graph;
pub mod judge;
pub mod limits;
pub mod proto;
pub mod random;
pub mod shrink;
mod sizes;
pub mod tally;
pub mod text;
pub mod value;
