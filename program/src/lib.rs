//! The lowered form of a model: a flat list of nodes over values with symbolic shapes.
//!
//! A [`Program`] contains what to compute and nothing about how: a backend supplies the launch. It is serialized with
//! postcard ([`Program::to_bytes`]) and sent to a page as bytes. The weights stay outside of it, in blobs that are
//! named by their blake3 hash.

mod checks;
mod decoder;
pub mod dim;
mod explain;
mod expr;
mod geometry;
mod op;
mod padding;
mod program;

pub use checks::{BindError, ProgramError};
pub use decoder::Decoder;
pub use explain::dim_text;
pub use expr::{Binary, Expr, Step, StepId, Test, Unary};
pub use geometry::{
    Branch, Dft, Gathered, GridSample, Interpolation, NgramCounts, Outside, Pad, PadMode, Resample,
    RoiAlign, Suppress, Trees,
};
pub use op::{
    Activation, ArgReduce, Attention, Cell, Combine, Concat, Conv, Cumulative, DeformableColumns,
    Gather, GatherElements, GatherNd, If, LayerNorm, Levels, LinearAttention, Loop, MatMul, Op,
    Pool, PoolKind, Quantized, Range, Recurrent, Reduce, ReduceKind, ScatterElements, ScatterNd,
    Sizes, Slice, Softmax, TopK, Transpose, Window,
};
pub use padding::{Guard, Limit, Padding};
pub use program::{
    Assumption, BlobId, BlobRef, Check, ConstantRef, InputBound, Node, PROGRAM_VERSION, Port,
    Program, Region, Source, SymbolInfo, SymbolSource, Value, ValueId,
};
