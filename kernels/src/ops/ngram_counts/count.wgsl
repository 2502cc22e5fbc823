// Each invocation counts one n-gram in one row, for some pairs of a place and a distance between items. Pairs are ordered by
// distance, then by place.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let gram = index % params.grams;
    let row = index / params.grams * params.length;
    let size = u32(lengths[gram]);
    // An n-gram of one item has no distance.
    let farthest = select(params.distance_max, 1u, size == 1u);
    var count = 0.0;
    if (params.first > 0u) {
        count = output[index];
    }
    var distance = params.first / params.length + 1u;
    var place = params.first % params.length;
    for (var at = params.first; at < params.last && distance <= farthest; at++) {
        if (place + (max(size, 1u) - 1u) * distance < params.length) {
            var same = true;
            for (var item = 0u; item < size && same; item++) {
                same = x[row + place + item * distance] == grams[gram * params.longest + item];
            }
            count += f32(same);
        }
        place++;
        if (place == params.length) {
            place = 0u;
            distance++;
        }
    }
    output[index] = count;
}
