//! Executes Programs.
