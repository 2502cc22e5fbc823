// Each invocation compares one candidate of a block with boxes that were selected before the block.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let line = index / BLOCK;
    let state = state_of(line);
    let flag = state + 1u + params.slots + index % BLOCK;
    let place = params.first + index % BLOCK;
    let taken = u32(output[state]);
    var free = place < params.boxes && taken < params.slots && (params.slot_first == 0u || output[flag] == 1);
    if (free) {
        let start = line / params.classes * params.boxes;
        let candidate = u32(order[line * params.boxes + place]);
        free = !HAS_SCORE_MIN || scores[line * params.boxes + candidate] > params.score_min;
        let own = corners(start + candidate);
        for (var slot = params.slot_first; slot < min(params.slot_last, taken) && free; slot++) {
            free = !overlap(own, corners(start + u32(output[state + 1u + slot])));
        }
    }
    output[flag] = select(0, 1, free);
}
