//! The cases of web-platform-tests' `webnn` suite, run through `flotilla-webnn` in one page of a real browser.
//!
//! The cases come with the source of the Python package `pywebnn`, which contains them as JSON. The page
//! (`flotilla-wpt-page`) reads a case and decides whether it passes. This crate serves the page, starts its browser, and
//! compares the results with the table of expected outcomes.

pub mod browser;
pub mod expected;
pub mod outcome;
pub mod report;
pub mod source;
