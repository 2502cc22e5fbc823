//! Rewrites of a drafted program that change its speed and not its results, a file per rule.
//!
//! A rule looks at one block of the draft through [`Formula`](crate::graph::Formula), rewrites the last node of what it
//! recognizes in place (its operands are all computed by then) and leaves the others to be dropped when nothing uses
//! them any more. Each is run until it finds nothing.

mod activation;
mod attention;
mod broadcast;
mod conv;
mod elementwise;
mod fold;
mod gather;
mod layer_norm;
mod matmul;
mod views;

use crate::graph::{Draft, Uses, drop_dead_nodes};

/// One rule: how often it has rewritten something in the block that is worked on.
type Rule = fn(&mut Draft, &Uses) -> usize;

/// In the order in which they run: the first ones bring different spellings into one form, the last one takes what
/// the others have left.
const RULES: [(&str, Rule); 13] = [
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
    ("matmul", matmul::apply),
    ("conv", conv::apply),
    ("elementwise", elementwise::apply),
];

/// Bounds a rule that would never be content; a program has far fewer places to rewrite.
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
