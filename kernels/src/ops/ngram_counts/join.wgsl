// Each invocation sums up the counts of some n-grams of one column.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let column = index % params.columns;
    let row = index / params.columns * params.grams;
    let start = u32(starts[column]);
    let end = min(u32(starts[column + 1u]), start + params.last);
    var count = 0.0;
    if (params.first > 0u) {
        count = output[index];
    }
    for (var gram = start + params.first; gram < end; gram++) {
        count += counts[row + gram];
    }
    output[index] = count;
}
