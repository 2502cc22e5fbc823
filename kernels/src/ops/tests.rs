//! Every shader of every table is valid WGSL, and every launch keeps to the rules.

use std::collections::{BTreeMap, BTreeSet};

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
            naga::valid::Capabilities::empty(),
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
        for node in program.nodes.iter().filter(|node| !kernel(&node.op).is_alias()) {
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
