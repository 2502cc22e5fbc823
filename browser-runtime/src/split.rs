//! Splits a program whose nodes cannot all run on one backend into parts that run one after the other.

use flotilla_program::{Node, Port, Program, Source, ValueId};

use crate::flow::needs;

/// Nodes that run on one backend, as a program of their own. Its values have the numbers of the whole program's; values that
/// other parts compute are its inputs.
#[derive(Debug)]
pub(crate) struct Part {
    /// Whether it runs on the other backend, for nodes that the wanted backend cannot run.
    pub(crate) elsewhere: bool,
    pub(crate) program: Program,
}

/// Splits a program into the fewest parts of the wanted backend. `elsewhere` gives for each node whether it runs elsewhere.
///
/// A node's level counts how often the backend changes on the longest way to it, so that nodes of one level do not need each
/// other's backend; no order of execution has fewer changes. Both backends are tried for the first level.
pub(crate) fn split(program: &Program, elsewhere: &[bool]) -> Vec<Part> {
    let split_from = |first: bool| {
        let levels = levels(program, elsewhere, first);
        let wanted = |level: &usize| level.is_multiple_of(2) != first;
        let mut used: Vec<usize> = levels.clone();
        used.sort_unstable();
        used.dedup();
        let parts_wanted = used.iter().filter(|level| wanted(level)).count();
        (parts_wanted, used, levels)
    };
    let (a, b) = (split_from(false), split_from(true));
    let first = (b.0, b.1.len()) < (a.0, a.1.len());
    let (_, used, levels) = if first { b } else { a };
    let mut parts: Vec<Part> = used
        .iter()
        .map(|&level| Part {
            elsewhere: level.is_multiple_of(2) == first,
            program: Program {
                nodes: program
                    .nodes
                    .iter()
                    .zip(&levels)
                    .filter(|&(_, own)| *own == level)
                    .map(|(node, _)| node.clone())
                    .collect(),
                inputs: Vec::new(),
                outputs: Vec::new(),
                assumptions: Vec::new(),
                bounds: Vec::new(),
                allowed_paddings: Vec::new(),
                ..program.clone()
            },
        })
        .collect();
    connect(program, &mut parts);
    parts
}

/// The level of every node, where level 0 runs elsewhere if `first`.
fn levels(program: &Program, elsewhere: &[bool], first: bool) -> Vec<usize> {
    // By value: its node's level and whether that runs elsewhere.
    let mut made: Vec<Option<(usize, bool)>> = vec![None; program.values.len()];
    let nodes = program.nodes.iter().zip(elsewhere);
    nodes
        .map(|(node, &own)| {
            let start = usize::from(own != first);
            let inputs = needs(program, node);
            let level = inputs
                .into_iter()
                .filter_map(|input| made[input.index()])
                .map(|(level, theirs)| level + usize::from(theirs != own))
                .fold(start, usize::max);
            node.outputs.iter().for_each(|output| made[output.index()] = Some((level, own)));
            level
        })
        .collect()
}

/// Makes inputs and outputs of the values that cross from part to part.
fn connect(program: &Program, parts: &mut [Part]) {
    let mut maker: Vec<Option<usize>> = vec![None; program.values.len()];
    for (index, part) in parts.iter().enumerate() {
        for node in &part.program.nodes {
            made_by(program, node, &mut |value| maker[value.index()] = Some(index));
        }
    }
    let last = parts.len().saturating_sub(1);
    let mut leaves: Vec<bool> = vec![false; program.values.len()];
    for value in program.results() {
        leaves[value.index()] = true;
        // A result that is a constant belongs to the last part.
        if matches!(program.value(value).source, Source::Constant(_)) {
            maker[value.index()] = Some(last);
        }
    }
    let port = |value: ValueId| Port {
        name: format!("value {}", value.0),
        dtype: program.value(value).dtype,
        value,
        high: None,
    };
    for (index, part) in parts.iter_mut().enumerate() {
        let mut entered = vec![false; program.values.len()];
        let read: Vec<ValueId> =
            part.program.nodes.iter().flat_map(|node| needs(program, node)).collect();
        for input in read {
            let source = program.value(input).source;
            let crosses = match source {
                Source::Constant(_) => false,
                Source::Input => true,
                Source::Node => maker[input.index()] != Some(index),
            };
            if crosses && !entered[input.index()] {
                entered[input.index()] = true;
                part.program.values[input.index()].source = Source::Input;
                part.program.inputs.push(port(input));
                leaves[input.index()] |= source == Source::Node;
            }
        }
    }
    for (value, maker) in maker.iter().enumerate() {
        if let Some(maker) = maker
            && leaves[value]
        {
            parts[*maker].program.outputs.push(port(ValueId(value as u32)));
        }
    }
}

/// The values that a node computes, those of its regions included.
fn made_by(program: &Program, node: &Node, take: &mut impl FnMut(ValueId)) {
    node.outputs.iter().for_each(|output| take(*output));
    for region in node.op.regions() {
        let region = &program.regions[region as usize];
        region.parameters.iter().for_each(|parameter| take(*parameter));
        region.nodes.iter().for_each(|node| made_by(program, node, take));
    }
}

#[cfg(test)]
mod tests {
    use flotilla_program::{
        Op, SymbolInfo, SymbolSource, Value,
        dim::{Dim, Symbol},
    };
    use flotilla_tensor::DType;

    use super::*;
    use crate::flow::Flow;

    /// Value 0 is the input; node `i` makes value `i + 1` of the values listed.
    fn program(nodes: &[&[u32]], outputs: &[u32]) -> Program {
        let value = |source| Value { dtype: DType::F32, shape: vec![Dim::Fixed(2)], source };
        let port = |value: u32| Port {
            name: format!("port {value}"),
            dtype: DType::F32,
            value: ValueId(value),
            high: None,
        };
        let node = |(index, inputs): (usize, &&[u32])| Node {
            name: format!("node {index}"),
            op: Op::Reshape,
            inputs: inputs.iter().copied().map(ValueId).collect(),
            outputs: vec![ValueId(index as u32 + 1)],
        };
        let program = Program {
            values: std::iter::once(value(Source::Input))
                .chain(nodes.iter().map(|_| value(Source::Node)))
                .collect(),
            nodes: nodes.iter().enumerate().map(node).collect(),
            inputs: vec![port(0)],
            outputs: outputs.iter().copied().map(port).collect(),
            ..Program::new("split")
        };
        program.check().expect("a sound program");
        program
    }

    /// Each part as `backend: inputs -> nodes -> outputs`.
    fn told(parts: &[Part]) -> Vec<String> {
        let ports = |ports: &[Port]| {
            ports.iter().map(|port| port.value.0.to_string()).collect::<Vec<_>>().join(" ")
        };
        let told = |part: &Part| {
            part.program.check().expect("a sound part");
            let nodes: Vec<&str> = part.program.nodes.iter().map(|node| &node.name[5..]).collect();
            format!(
                "{}: {} -> {} -> {}",
                if part.elsewhere { "elsewhere" } else { "wanted" },
                ports(&part.program.inputs),
                nodes.join(" "),
                ports(&part.program.outputs)
            )
        };
        parts.iter().map(told).collect()
    }

    #[test]
    fn a_node_in_the_middle_makes_three_parts() {
        let program = program(&[&[0], &[1], &[2, 1]], &[3]);
        let parts = split(&program, &[false, true, false]);
        let want = ["wanted: 0 -> 0 -> 1", "elsewhere: 1 -> 1 -> 2", "wanted: 2 1 -> 2 -> 3"];
        assert_eq!(told(&parts), want);
    }

    #[test]
    fn branches_share_parts() {
        // Two chains that each go elsewhere once: still one part before and one after.
        let program = program(&[&[0], &[0], &[1], &[2], &[3], &[4], &[5, 6]], &[7]);
        let parts = split(&program, &[false, false, true, true, false, false, false]);
        assert_eq!(parts.iter().filter(|part| !part.elsewhere).count(), 2);
        assert_eq!(parts.len(), 3);
    }

    #[test]
    fn what_starts_elsewhere_needs_one_part() {
        // The second chain is elsewhere first: the nodes of the wanted backend wait for it and run as one part.
        let program = program(&[&[0], &[0], &[2], &[1, 3]], &[4, 2]);
        let parts = split(&program, &[false, true, false, false]);
        let want = ["elsewhere: 0 -> 1 -> 2", "wanted: 0 2 -> 0 2 3 -> 4"];
        assert_eq!(told(&parts), want);
    }

    #[test]
    fn what_decides_the_sizes_of_one_part_is_not_read_by_another() {
        let mut program = program(&[&[0], &[0]], &[1, 2]);
        program.values[2].shape = vec![Dim::Symbol(Symbol(0))];
        let source = SymbolSource::Element { value: ValueId(3), index: 0 };
        program.symbols.push(SymbolInfo { name: "count".to_owned(), source });
        let shape = vec![Dim::Fixed(1)];
        program.values.push(Value { dtype: DType::I32, shape, source: Source::Input });
        let name = "count".to_owned();
        program.inputs.push(Port { name, dtype: DType::I32, value: ValueId(3), high: None });
        let parts = split(&program, &[false, true]);
        assert_eq!(told(&parts), ["wanted: 0 -> 0 -> 1", "elsewhere: 0 3 -> 1 -> 2"]);
        let straight = |part: &Part| Flow::new(&part.program).is_straight();
        assert_eq!(parts.iter().map(straight).collect::<Vec<_>>(), [true, false]);
    }
}
