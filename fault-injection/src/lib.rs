//! What goes wrong, on purpose: faults as plain data, and the worlds in which they are played.

pub mod simulator;
