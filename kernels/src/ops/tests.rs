//! Every shader of every table is valid WGSL, and every launch obeys the limits.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_program::{Node, Source, ValueId};
use flotilla_tensor::{DType, decode};

use super::*;
use crate::call::Shapes;

#[test]
fn naga_accepts_every_shader_of_the_tables() {
    let mut shaders = BTreeMap::new();
    for case in cases() {
        let program = &case.program;
        for node in &program.nodes {
            let signature = Signature { program, node };
            kernel(&node.op)
                .supports(&signature)
                .unwrap_or_else(|reason| panic!("{}: {reason}", case.name));
            for shader in kernel(&node.op).shaders(&signature) {
                shaders.entry(shader.wgsl).or_insert_with(|| case.name.clone());
            }
        }
    }
    assert!(shaders.len() > 60, "only {} shaders", shaders.len());
    for (wgsl, case) in shaders {
        let module = naga::front::wgsl::parse_str(&wgsl)
            .unwrap_or_else(|error| panic!("{case}: {}\n{wgsl}", error.emit_to_string(&wgsl)));
        naga::valid::Validator::new(
            naga::valid::ValidationFlags::all(),
            // Only `unpack2x16float`, which every WGSL has.
            naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32,
        )
        .validate(&module)
        .unwrap_or_else(|error| panic!("{case}: {}\n{wgsl}", error.emit_to_string(&wgsl)));
    }
}

#[test]
fn every_launch_of_the_tables_keeps_to_the_rules() {
    for case in cases() {
        let program = &case.program;
        let shapes = Shapes::new(program, Vec::new()).unwrap();
        // Data-dependent shapes are not known here.
        let has_kernel = |node: &&Node| {
            let decided = |id: &ValueId| shapes.is_known(*id);
            node.op.regions().is_empty() && node.outputs.iter().all(decided)
        };
        for node in program.nodes.iter().filter(has_kernel) {
            if kernel(&node.op).is_alias() {
                continue;
            }
            let signature = Signature { program, node };
            let shaders = kernel(&node.op).shaders(&signature);
            let call = Call { signature, shapes: &shapes };
            let launches = kernel(&node.op)
                .launches(&call)
                .unwrap_or_else(|reason| panic!("{}: {reason}", case.name));
            let mut written = BTreeSet::new();
            let mut sizes = BTreeMap::new();
            for launch in launches.iter().filter(|launch| launch.invocations > 0) {
                let fails = |what: &str| -> ! { panic!("{}: {what}: {launch:?}", case.name) };
                launch.check().unwrap_or_else(|reason| fails(&reason));
                launch.groups().unwrap_or_else(|reason| fails(&reason));
                match shaders.get(launch.shader) {
                    Some(shader) if shader.reads == launch.reads.len() => {}
                    _ => fails("there is no such shader"),
                }
                if launch.reads.contains(&launch.writes) {
                    fails("a buffer is bound twice");
                }
                for memory in launch.reads.iter().chain([&launch.writes]) {
                    match *memory {
                        Memory::Input(input) if input < node.inputs.len() => {}
                        Memory::Input(_) => fails("there is no such input"),
                        Memory::Output => {}
                        Memory::Scratch(Scratch { index, words }) => {
                            if *sizes.entry(index).or_insert(words) != words {
                                fails("scratch has two sizes");
                            }
                        }
                    }
                }
                for memory in &launch.reads {
                    let undefined = match *memory {
                        Memory::Input(_) => false,
                        Memory::Output => !written.contains(&None),
                        Memory::Scratch(scratch) => !written.contains(&Some(scratch.index)),
                    };
                    if undefined {
                        fails("what is read was never written");
                    }
                }
                written.insert(match launch.writes {
                    Memory::Input(_) => fails("an input is written"),
                    Memory::Output => None,
                    Memory::Scratch(scratch) => Some(scratch.index),
                });
            }
        }
    }
}

/// Runs a case of one node on the cpu.
fn on_the_cpu(case: &crate::suite::Case) -> Vec<u32> {
    let words = |bytes: &[u8]| decode(bytes, u32::from_le_bytes);
    let program = &case.program;
    let [node] = program.nodes.as_slice() else { panic!("{}: more than one node", case.name) };
    let shapes = Shapes::new(program, Vec::new()).unwrap();
    let call = Call { signature: Signature { program, node }, shapes: &shapes };
    let values = node.inputs.iter().map(|&value| {
        if let Source::Constant(constant) = &program.value(value).source {
            // Narrow constants are filled up to whole words.
            let bytes = constant.bytes.next_multiple_of(4) as usize;
            return words(&case.weights[&constant.blob][constant.offset as usize..][..bytes]);
        }
        let port = program.inputs.iter().position(|port| port.value == value).unwrap();
        words(&case.inputs[port].bytes)
    });
    let values: Vec<Vec<u32>> = values.collect();
    let operands: Vec<Operand<'_>> = values.iter().map(|words| Operand::Plain(words)).collect();
    let mut output = vec![0; call.elements()];
    kernel(&node.op).compute(&call, &operands, &mut output).unwrap();
    output
}

#[test]
fn long_sums_on_the_cpu_are_exact_to_a_millionth() {
    let mut checked = BTreeSet::new();
    for case in cases().iter().filter(|case| case.expected[0].dtype == DType::F32) {
        let elements = case.inputs.iter().map(|input| input.shape.iter().product::<usize>());
        let op = &case.program.nodes[0].op;
        // Operators of several steps add the errors of their activations, products those of their factors, and samples
        // those of their positions.
        let is_product = matches!(op, Op::Reduce(reduce) if reduce.kind == flotilla_program::ReduceKind::Product);
        let adds_up = matches!(op, Op::Recurrent(_) | Op::Triangular | Op::RoiAlign(_));
        if elements.max() < Some(1 << 14) || is_product || adds_up {
            continue;
        }
        checked.insert(op.name());
        let want = case.expected[0].to_f32().unwrap();
        let largest = want.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        for (got, want) in on_the_cpu(case).into_iter().map(f32::from_bits).zip(want) {
            let difference = (got - want).abs() / largest;
            let is_near = got == want || difference <= 1e-6;
            assert!(is_near, "{}: {got}, {want} expected, by {difference:e}", case.name);
        }
    }
    assert!(checked.len() >= 10, "{checked:?}");
}
