//! Sizes for a program's symbols if none are named, so that a backend that builds for known shapes can check at load what it
//! takes.

use flotilla_kernels::{Call, Shapes, Signature, kernel};
use flotilla_program::{
    Node, Program, SymbolSource,
    dim::{Dim, Symbol},
};

/// Sizes of a dimension that are tried if none is named: most models take them.
const USUAL_SIZES: [i64; 4] = [16, 4, 2, 1];
/// How many mixtures are tried if no usual sizes fit, and the sizes in them.
const MIXTURES: u64 = 128;
const MIXED_SIZES: [i64; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32];
/// Sizes up to this are tried for a symbol in a check of the program.
const TRIED_MAX: i64 = 64;
/// The other side of a check is tried up to this: unrealistic sizes would build graphs for which no page has memory.
const LIKELY_MAX: i64 = 4096;

/// Shapes for the sizes that a load names, or for usual ones; `None` if the program takes none of those that are tried.
pub(crate) fn usual_shapes(program: &Program, named: &[i64]) -> Option<Shapes> {
    let symbols = 0..program.symbols.len();
    let usual = USUAL_SIZES.into_iter().flat_map(|size| {
        // Most inputs start with a batch, and most batches have size 1.
        let batches = symbols.clone().map(|symbol| if leads(program, symbol) { 1 } else { size });
        [batches.collect(), vec![size; symbols.len()]]
    });
    let mixed = (0..MIXTURES)
        .map(|mixture| symbols.clone().map(|symbol| mixed_size(mixture, symbol)).collect());
    let named = std::iter::once(named.to_vec());
    let named = named.filter(|sizes| sizes.len() == program.symbols.len());
    let mut tried: Vec<Vec<Option<i64>>> = Vec::new();
    named.chain(usual).chain(mixed).find_map(|sizes| {
        let given = program.symbols.iter().zip(sizes);
        // Sizes that a run decides are not known before it.
        let given = given.map(|(info, size)| (info.source == SymbolSource::Input).then_some(size));
        let sizes = settled(program, given.collect());
        if tried.contains(&sizes) {
            return None;
        }
        tried.push(sizes.clone());
        fitting(program, sizes)
    })
}

/// The size of a symbol in a mixture, evenly distributed over [`MIXED_SIZES`] and reproducible.
fn mixed_size(mixture: u64, symbol: usize) -> i64 {
    /// 2^64 divided by the golden ratio: the multiplier of Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4).
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let spread = (mixture << 16 | symbol as u64).wrapping_add(1).wrapping_mul(GOLDEN);
    MIXED_SIZES[(spread >> 32) as usize % MIXED_SIZES.len()]
}

/// Whether an input begins with this symbol.
fn leads(program: &Program, symbol: usize) -> bool {
    let leading = Dim::Symbol(Symbol(symbol as u32));
    program.inputs.iter().any(|port| program.value(port.value).shape.first() == Some(&leading))
}

/// Sizes in which symbols that break a check have the first value that satisfies it. Each symbol is changed at most once.
fn settled(program: &Program, mut sizes: Vec<Option<i64>>) -> Vec<Option<i64>> {
    let mut changed = vec![false; sizes.len()];
    while let Some((symbol, size)) = first_change(program, &sizes, &changed) {
        (sizes[symbol], changed[symbol]) = (Some(size), true);
    }
    sizes
}

/// A symbol, not yet changed, and its size with which the first broken check that can be repaired holds.
fn first_change(
    program: &Program,
    sizes: &[Option<i64>],
    changed: &[bool],
) -> Option<(usize, i64)> {
    program.checks.iter().find_map(|check| {
        let current = |symbol: Symbol| sizes[symbol.0 as usize];
        let sides = |changed: Option<(Symbol, i64)>| {
            let of = |symbol| match changed {
                Some((other, size)) if other == symbol => Some(size),
                _ => current(symbol),
            };
            (check.left.eval_with(&of), check.right.eval_with(&of))
        };
        let symbols = || check.left.symbols().into_iter().chain(check.right.symbols());
        let (left, right) = sides(None);
        if left.is_some() && left == right || symbols().any(|symbol| current(symbol).is_none()) {
            return None;
        }
        let likely = [left, right].into_iter().flatten();
        let tried: Vec<i64> = (1..=TRIED_MAX)
            .chain(likely.filter(|size| (TRIED_MAX..=LIKELY_MAX).contains(size)))
            .collect();
        symbols().filter(|symbol| !changed[symbol.0 as usize]).find_map(|symbol| {
            let keeps = |size: &i64| {
                let (left, right) = sides(Some((symbol, *size)));
                left.is_some() && left == right
            };
            tried.iter().copied().find(keeps).map(|size| (symbol.0 as usize, size))
        })
    })
}

/// The shapes for these sizes, if the program and all kernels take them.
fn fitting(program: &Program, sizes: Vec<Option<i64>>) -> Option<Shapes> {
    let shapes = Shapes::new(program, sizes).ok()?;
    program.nodes.iter().all(|node| fits(program, node, &shapes)).then_some(shapes)
}

/// Whether a kernel takes a node's shapes, as far as those are known before a run.
fn fits(program: &Program, node: &Node, shapes: &Shapes) -> bool {
    let mut values = node.inputs.iter().chain(&node.outputs);
    let is_known = values.all(|value| shapes.is_known(*value))
        && shapes.has_symbols(node.op.dims())
        && node.op.regions().is_empty();
    let signature = Signature { program, node };
    !is_known || kernel(&node.op).launches(&Call { signature, shapes }).is_ok()
}

#[cfg(test)]
mod tests {
    use flotilla_program::{Check, Port, Source, SymbolInfo, Value, ValueId};
    use flotilla_tensor::DType;

    use super::*;

    /// A program of two symbols and an input of these dimensions.
    fn program(dims: Vec<Dim>, checks: Vec<Check>) -> Program {
        let symbol = |name: &str| SymbolInfo { name: name.to_owned(), source: SymbolSource::Input };
        Program {
            symbols: vec![symbol("a"), symbol("b")],
            values: vec![Value { dtype: DType::F32, shape: dims, source: Source::Input }],
            inputs: vec![Port {
                name: "x".to_owned(),
                dtype: DType::F32,
                value: ValueId(0),
                high: None,
            }],
            checks,
            ..Program::new("usual")
        }
    }

    fn symbols(program: &Program, named: &[i64]) -> Option<Vec<i64>> {
        let shapes = usual_shapes(program, named)?;
        shapes.symbols().iter().copied().collect()
    }

    fn dims() -> (Dim, Dim) {
        (Dim::Symbol(Symbol(0)), Dim::Symbol(Symbol(1)))
    }

    #[test]
    fn batches_are_one_and_others_are_usual() {
        let (a, b) = dims();
        let program = program(vec![a, b], Vec::new());
        assert_eq!(symbols(&program, &[]), Some(vec![1, 16]));
        assert_eq!(
            symbols(&program, &[3, 5]),
            Some(vec![3, 5]),
            "those that a load names go first"
        );
    }

    #[test]
    fn what_a_program_checks_decides_sizes() {
        let (a, b) = dims();
        let equal = |left: Dim, right: Dim| Check {
            node: "n".to_owned(),
            what: "a product".to_owned(),
            left,
            right,
        };
        let thrice = Dim::Product(vec![Dim::Fixed(3), b.clone()]);
        let checks = vec![equal(thrice, Dim::Fixed(21)), equal(a.clone(), b.clone())];
        let program = program(vec![Dim::Fixed(2), a, b], checks);
        assert_eq!(symbols(&program, &[]), Some(vec![7, 7]));
    }

    #[test]
    fn mixtures_find_what_usual_sizes_miss() {
        let (a, b) = dims();
        let minus_three_a = Dim::Product(vec![Dim::Fixed(-3), a.clone()]);
        let left = Dim::Sum(vec![b.clone(), minus_three_a]);
        let program = program(vec![Dim::Fixed(2), b, a, left], Vec::new());
        let found = symbols(&program, &[]).expect("sizes");
        assert!(found[1] >= 3 * found[0], "{found:?}");
    }
}
