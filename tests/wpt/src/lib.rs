//! The cases of web-platform-tests' `webnn` suite, run through `flotilla-webnn` in one page of a real browser.
//!
//! The cases come with the source of the Python package `pywebnn`, which has them as JSON. What a case is and whether it
//! passes is decided in the page (`flotilla-wpt-page`); here the page is served, its browser started, and what it tells
//! compared with the table of expected outcomes.

pub mod browser;
pub mod expected;
pub mod outcome;
pub mod report;
pub mod source;
