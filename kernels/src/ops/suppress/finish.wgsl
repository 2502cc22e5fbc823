// Each invocation writes one slot.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let state = state_of(index / params.slots);
    let slot = index % params.slots;
    output[index] = select(-1, states[state + 1u + slot], slot < u32(states[state]));
}
