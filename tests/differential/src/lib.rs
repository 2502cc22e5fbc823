//! Random small ONNX graphs, computed by us and by onnxruntime, which shares nothing with us.
//!
//! A seed makes a [`Case`](case::Case): a well-typed graph and the inputs of two runs, whose sizes differ. The generator keeps
//! count of shapes, of ranges and of how far two right engines may be apart, and makes nothing whose results hang by a
//! rounding error: what compares, rounds or orders floats is given exact ones. [`Judge`](judge::Judge) imports the graph as a
//! user does, loads it once, runs it for each set of inputs and compares. What fails is made small by [`shrink`].

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
