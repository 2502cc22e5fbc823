//! The ONNX backend test suite as yardstick: its cases are exported by `export.py`, [`scope`] says which of them count, and
//! each is imported and lowered natively and then run by `browser-runtime`, natively or inside a real browser. What tract
//! would compute is never looked at.

#[cfg(feature = "browsers")]
pub mod browser;
pub mod case;
pub mod compare;
pub mod expected;
pub mod export;
pub mod guard;
pub mod native;
pub mod outcome;
pub mod prepare;
pub mod readme;
pub mod report;
pub mod scope;
pub mod suite;
