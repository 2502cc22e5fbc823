//! The runner page and its runtime as embedded files.
