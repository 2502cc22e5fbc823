// Each invocation counts the n-grams of one column in one row.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let column = index % params.columns;
    let row = index / params.columns * params.length;
    var count = 0u;
    for (var gram = starts[column]; gram < starts[column + 1u]; gram++) {
        let size = u32(lengths[gram]);
        // An n-gram of one item has no distance.
        let farthest = select(params.distance_max, 1u, size == 1u);
        for (var distance = 1u; distance <= farthest; distance++) {
            for (var first = 0u; first + (size - 1u) * distance < params.length; first++) {
                var same = true;
                for (var item = 0u; item < size && same; item++) {
                    same = x[row + first + item * distance] == grams[u32(gram) * params.longest + item];
                }
                count += u32(same);
            }
        }
    }
    output[index] = f32(count);
}
