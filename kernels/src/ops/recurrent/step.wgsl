
// Each invocation computes one unit of one sequence. A step behind the end of a sequence writes zeros to its own time.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let row = index / params.hidden;
    let unit = index % params.hidden;
    step = u32(output[count_of(row, unit)]);
    // COUNT
    if (step >= length_of(row)) {
        let after = place_of(step, row);
        output[after + unit] = 0.0;
        output[after + params.hidden + unit] = 0.0;
        return;
    }
    let time = time_of(step, row);
    let place = place_of(time, row);
    // STEP
}
