//! Operators by family: each function adds one or a few nodes whose results are the same in two right engines, or
//! gives up.

mod attention;
mod control;
mod counted;
mod elementwise;
mod indices;
mod matrices;
mod moves;
mod norms;
mod open;
mod quantized;
mod recurrent;
mod reductions;
mod resize;
mod sequences;
mod shapes;
mod signal;
mod windows;

use crate::{
    graph::Graph,
    value::{Dim, Value},
};

/// Adds nodes to a graph.
pub(crate) type Family = fn(&mut Graph) -> Option<()>;

/// Every family, with its weight.
pub(crate) const FAMILIES: &[(usize, Family)] = &[
    (16, elementwise::unary),
    (14, elementwise::arithmetic),
    (6, elementwise::comparison),
    (5, elementwise::logic),
    (7, elementwise::select),
    (8, elementwise::cast),
    (7, elementwise::several),
    (3, elementwise::power),
    (3, elementwise::remainder),
    (3, elementwise::bits),
    (4, elementwise::clip),
    (2, elementwise::prelu),
    (2, elementwise::special),
    (3, elementwise::same),
    (12, reductions::reduce),
    (5, reductions::position),
    (5, reductions::top_k),
    (5, reductions::softmax),
    (4, reductions::cumulative),
    (2, reductions::loss),
    (9, shapes::reshape),
    (6, shapes::transpose),
    (5, shapes::squeeze),
    (6, shapes::unsqueeze),
    (3, shapes::flatten),
    (6, shapes::expand),
    (4, shapes::filled),
    (4, shapes::range),
    (4, shapes::sizes),
    (8, moves::concat),
    (6, moves::split),
    (9, moves::slice),
    (4, moves::tile),
    (7, moves::pad),
    (3, moves::blocks),
    (3, moves::reverse),
    (2, moves::crop),
    (4, moves::triangle),
    (3, moves::diagonal),
    (7, indices::gather),
    (5, indices::gather_elements),
    (5, indices::gather_nd),
    (5, indices::scatter_elements),
    (5, indices::scatter_nd),
    (4, indices::one_hot),
    (3, counted::compress),
    (4, counted::non_zero),
    (4, counted::unique),
    (3, counted::suppress),
    (10, open::any),
    (9, matrices::matmul),
    (5, matrices::gemm),
    (6, matrices::einsum),
    (2, matrices::determinant),
    (9, windows::conv),
    (5, windows::conv_transpose),
    (9, windows::pool),
    (3, windows::global),
    (2, windows::unpool),
    (2, windows::columns),
    (2, windows::deformable),
    (2, windows::sample_grid),
    (2, windows::regions),
    (8, resize::resize),
    (4, norms::layer),
    (3, norms::batch),
    (3, norms::instance),
    (3, norms::group),
    (3, norms::local),
    (2, norms::others),
    (5, quantized::quantize),
    (5, quantized::dequantize),
    (2, quantized::dynamic),
    (3, quantized::products),
    (3, quantized::convolutions),
    (6, control::branch),
    (6, control::repeat),
    (4, control::scan),
    (6, recurrent::layer),
    (3, signal::fourier),
    (2, signal::windows),
    (3, sequences::sequence),
    (2, attention::attention),
    (2, attention::rotary),
    (2, attention::cache),
];

/// Runs one family.
pub(crate) fn grow(g: &mut Graph) -> Option<()> {
    let total: usize = FAMILIES.iter().map(|(weight, _)| weight).sum();
    let mut at = g.rng.below(total);
    let family = FAMILIES.iter().find_map(|&(weight, family)| {
        if at < weight {
            return Some(family);
        }
        at -= weight;
        None
    })?;
    g.attempt(family)
}

/// Whether all sizes are known, and none is 0.
fn is_filled(value: &Value) -> bool {
    value.is_filled()
}

/// One of the axes of a rank.
fn any_axis(g: &mut Graph, rank: usize) -> usize {
    g.rng.below(rank)
}

/// An axis as files contain it: counted from the front, or from the end.
fn written(g: &mut Graph, axis: usize, rank: usize) -> i64 {
    if g.rng.percent(40) { axis as i64 - rank as i64 } else { axis as i64 }
}

/// A shape that broadcasts to this one: trailing dimensions, some of them 1.
fn narrower(g: &mut Graph, shape: &[Dim]) -> Vec<Dim> {
    let from = if g.rng.percent(50) { 0 } else { g.rng.below(shape.len() + 1) };
    shape[from..]
        .iter()
        .map(|&dim| if dim.is_open() || g.rng.percent(25) { Dim::Fixed(1) } else { dim })
        .collect()
}
