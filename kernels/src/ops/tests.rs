//! Every shader of every table is valid WGSL.

use super::*;

#[test]
fn naga_accepts_every_shader_of_the_tables() {
    let mut shaders = std::collections::BTreeMap::new();
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
