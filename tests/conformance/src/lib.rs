//! The ONNX backend test suite as a yardstick. Its cases are exported by `export.py`, and [`scope`] decides which of them
//! count. Each is imported and lowered natively and then run by `browser-runtime`, natively or inside a real browser.
//! Results of tract are never used.

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
