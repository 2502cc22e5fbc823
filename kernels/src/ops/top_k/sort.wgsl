// One invocation per place; that of a pair's lower place puts both positions in order.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let place = (index / params.inner) % params.size;
    let other = place ^ params.mask;
    if (other <= place || other >= params.size) {
        return;
    }
    let start = index - place * params.inner;
    let first = u32(output[index]);
    let second = u32(output[start + other * params.inner]);
    let first_key = key(x[start + first * params.inner]);
    let second_key = key(x[start + second * params.inner]);
    if (second_key > first_key || (second_key == first_key && second < first)) {
        output[index] = i32(second);
        output[start + other * params.inner] = i32(first);
    }
}
