//! Rewrites of a drafted program that change its speed and not its results, a file per rule.
//!
//! A rule reads one block of the draft through [`Formula`](crate::graph::Formula) and rewrites the last node of a
//! pattern in place, because all operands of the pattern are computed by then. The other nodes of the pattern are
//! dropped when nothing uses them any more. Each rule is run until it finds nothing.

mod activation;
mod attention;
mod broadcast;
mod conv;
mod elementwise;
mod fold;
mod gather;
mod layer_norm;
mod matmul;
mod quantized;
mod views;

use crate::graph::{Draft, Uses, drop_dead_nodes};

/// One rule: returns how often it has rewritten something in the current block.
type Rule = fn(&mut Draft, &Uses) -> usize;

/// In the order in which they run: the first ones bring different spellings into one form, the last one handles what
/// the others have left.
const RULES: [(&str, Rule); 16] = [
    ("fold", fold::apply),
    ("views", views::apply),
    ("fold", fold::apply),
    ("gather", gather::apply),
    ("views", views::apply),
    ("activation", activation::apply),
    ("layer_norm", layer_norm::apply),
    ("broadcast", broadcast::apply),
    ("attention", attention::apply),
    ("layer_norm residual", layer_norm::apply_residual),
    ("quantized", quantized::apply),
    ("fold", fold::apply_to_quantized),
    ("views", views::apply),
    ("matmul", matmul::apply),
    ("conv", conv::apply),
    ("elementwise", elementwise::apply),
];

/// Limit for a rule that would never stop; a program has far fewer places to rewrite.
const REWRITES_MAX: usize = 1 << 20;

/// Applies every rule.
pub(crate) fn fuse(draft: &mut Draft) {
    for (_, rule) in RULES {
        let mut rewrites = 0;
        loop {
            let uses = Uses::of(draft);
            let mut found = rule(draft, &uses);
            for region in 0..draft.regions.len() {
                draft.swap(region);
                found += rule(draft, &uses);
                draft.swap(region);
            }
            drop_dead_nodes(draft);
            rewrites += found;
            if found == 0 || rewrites > REWRITES_MAX {
                break;
            }
        }
    }
}
