// Each invocation goes through a block's free candidates and selects each that overlaps none selected before it.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let line = index_of(id, groups);
    if (line >= params.total) {
        return;
    }
    let state = state_of(line);
    let start = line / params.classes * params.boxes;
    let before = u32(output[state]);
    var taken = before;
    for (var at = 0u; at < BLOCK && taken < params.slots; at++) {
        var free = output[state + 1u + params.slots + at] == 1;
        if (free) {
            let candidate = order[line * params.boxes + params.first + at];
            let own = corners(start + u32(candidate));
            for (var slot = before; slot < taken && free; slot++) {
                free = !overlap(own, corners(start + u32(output[state + 1u + slot])));
            }
            if (free) {
                output[state + 1u + taken] = candidate;
                taken++;
            }
        }
    }
    output[state] = i32(taken);
}
