struct Params {
    total: u32,
    parts: u32,
{{fields}}}

// Each invocation compares the largest elements of one result's parts; they are given as positions, counted from 1.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let start = (index / params.output_size.w) * params.input_size.w;
    var found = 0u;
    var best = {{element}}();
    var position = 0u;
    for (var part = 0u; part < params.parts; part++) {
        let flat = positions[index * params.parts + part] - 1u;
        if (flat == 0xffffffffu) {
            continue;
        }
        let value = data[start + flat];
        // The first of equal elements wins.
        if (found == 0u || value > best || (value == best && flat < position)) {
            best = value;
            position = flat;
        }
        found++;
    }
    output[index] = {{finish}};
}
