
// Each invocation multiplies every `parts`-th weight of a unit in a gate with the state before this step, or with the state
// that was reset.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let part = index % params.parts;
    let unit = index / params.parts % params.hidden;
    let gate = params.gate + index / (params.parts * params.hidden) % params.gates;
    let row = index / (params.parts * params.hidden * params.gates);
    step = u32(states[count_of(row, unit)]);
    if (step >= length_of(row)) {
        return;
    }
    let first = (gate * params.hidden + unit) * params.hidden;
    var sum = 0.0;
    if (!RESET && step == 0u) {
        let start = row * params.initial_width;
        for (var other = part; other < params.hidden; other += params.parts) {
            sum += weights[first + other] * initial[start + other];
        }
    } else {
        let time = time_of(select(step - 1u, step, RESET), row);
        let start = place_of(time, row) + select(0u, params.hidden, RESET);
        for (var other = part; other < params.hidden; other += params.parts) {
            sum += weights[first + other] * states[start + other];
        }
    }
    output[((row * GATES + gate) * params.hidden + unit) * params.parts + part] = sum;
}
