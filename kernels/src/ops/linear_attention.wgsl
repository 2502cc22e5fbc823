struct Params {
    batches: u32,
    length: u32,
    heads: u32,
    key_heads: u32,
    value_dim: u32,
    scale: f32,
    decay_width: u32,
    decay_step: u32,
    rate_width: u32,
}

// One column of one head's state. Columns never meet, so each invocation carries one through the whole sequence.
var<private> state: array<f32, {{key_dim}}>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.batches * params.key_heads * params.value_dim) {
        return;
    }
    let column = index % params.value_dim;
    let head = index / params.value_dim % params.key_heads;
    let batch = index / params.value_dim / params.key_heads;
    let group = params.heads / params.key_heads;
    let answers = params.length * params.heads * params.value_dim;
    let start = batch * (answers + params.key_heads * {{key_dim}}u * params.value_dim);
    for (var at = 0u; at < {{key_dim}}u; at++) {
        state[at] = {{past}};
    }
    for (var step = 0u; step < params.length; step++) {
        let row = batch * params.length + step;
        let key_at = (row * params.key_heads + head) * {{key_dim}}u;
        var written = value[(row * params.key_heads + head) * params.value_dim + column];
{{forget}}{{correct}}        for (var at = 0u; at < {{key_dim}}u; at++) {
            state[at] += key[key_at + at] * written;
        }
        for (var member = 0u; member < group; member++) {
            let reader = head * group + member;
            let query_at = (row * params.heads + reader) * {{key_dim}}u;
            var sum = 0.0;
            for (var at = 0u; at < {{key_dim}}u; at++) {
                sum += query[query_at + at] * state[at];
            }
            output[start + (step * params.heads + reader) * params.value_dim + column] = sum * params.scale;
        }
    }
    for (var at = 0u; at < {{key_dim}}u; at++) {
        output[start + answers + (head * {{key_dim}}u + at) * params.value_dim + column] = state[at];
    }
}
