// Each invocation selects the boxes of one class in one image.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let first = (index / params.classes) * params.boxes;
    let line = index * params.boxes;
    let start = index * params.slots;
    var taken = 0u;
    for (var at = 0u; at < params.boxes && taken < params.slots; at++) {
        let candidate = order[line + at];
        if (HAS_SCORE_MIN && !(scores[line + u32(candidate)] > params.score_min)) {
            break;
        }
        let own = corners(first + u32(candidate));
        var free = true;
        for (var slot = 0u; slot < taken && free; slot++) {
            free = !overlap(own, corners(first + u32(output[start + slot])));
        }
        if (free) {
            output[start + taken] = candidate;
            taken++;
        }
    }
    for (; taken < params.slots; taken++) {
        output[start + taken] = -1;
    }
}
