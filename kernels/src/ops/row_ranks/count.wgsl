// Each invocation counts the rows that come before its own.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    var rank = 0u;
    for (var other = 0u; other < params.total; other++) {
        // Equal rows keep their order.
        var before = other < index;
        for (var at = 0u; at < params.width; at++) {
            let a = key(x[other * params.width + at]);
            let b = key(x[index * params.width + at]);
            if (a != b) {
                before = a < b;
                break;
            }
        }
        rank += select(0u, 1u, before);
    }
    output[index] = i32(rank);
}
