// Whether a row comes before another one: compares some columns, then the ranks by the columns behind them.
fn comes_before(a: u32, b: u32) -> bool {
    for (var at = params.first; at < params.last; at++) {
        let left = key(x[a * params.width + at]);
        let right = key(x[b * params.width + at]);
        if (left != right) {
            return left < right;
        }
    }
    return ranks[a] < ranks[b];
}

// One invocation per place; that of a pair's lower place puts both rows in order.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let place = index_of(id, groups);
    let other = place ^ params.mask;
    if (place >= params.total || other >= params.total || other <= place) {
        return;
    }
    let first = output[place];
    let second = output[other];
    if (comes_before(u32(second), u32(first))) {
        output[place] = second;
        output[other] = first;
    }
}
