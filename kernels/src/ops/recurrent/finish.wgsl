
// The last row is the state after the last step of each sequence.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let row = index / params.hidden;
    let unit = index % params.hidden;
    let length = length_of(row);
    let to = place_of(params.steps, row);
    if (length == 0u) {
        output[to + unit] = initial[row * params.initial_width + unit];
        let has_beside = params.initial_width > params.hidden;
        let kept = initial[row * params.initial_width + select(unit, params.hidden + unit, has_beside)];
        output[to + params.hidden + unit] = select(0.0, kept, has_beside);
        return;
    }
    let source = place_of(time_of(length - 1u, row), row);
    output[to + unit] = output[source + unit];
    output[to + params.hidden + unit] = output[source + params.hidden + unit];
}
