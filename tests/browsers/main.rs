//! Real browsers. One test runs at a time (nextest's configuration), because each uses the whole machine.

mod answers;
mod architectures;
mod builds;
mod check;
mod death;
mod edge;
mod faults;
mod kernels;
mod links;
mod recovery;
mod webnn;
