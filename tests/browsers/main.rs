//! Real browsers. One test at a time: nextest's configuration sees to that, for these use the whole machine.

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
