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
    // Positions that this launch goes through.
    first: u32,
    last: u32,
}

const DIM = {{key_dim}}u;
const UNITS = {{units}}u;

// One column of one head's state, in units of four rows; rows behind the last one are 0. Columns are independent, so each
// invocation updates one of them, position by position. Between launches it is stored in the output for the final state.
var<private> state: array<vec4<f32>, {{units}}>;

// Four elements at a distance of `step`, from `start` on: those of a unit's rows.
{{functions}}
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
    let start = batch * (answers + params.key_heads * DIM * params.value_dim);
    let end = start + answers + head * DIM * params.value_dim + column;
    for (var unit = 0u; unit < UNITS; unit++) {
        if (params.first > 0u) {
            state[unit] = from_output(end, params.value_dim, unit);
        } else {
            state[unit] = {{past}};
        }
    }
    for (var step = params.first; step < params.last; step++) {
        let row = batch * params.length + step;
        let key_at = (row * params.key_heads + head) * DIM;
        var written = value[(row * params.key_heads + head) * params.value_dim + column];
{{correct}}        for (var unit = 0u; unit < UNITS; unit++) {
            state[unit] += from_key(key_at, 1u, unit) * written;
        }
        for (var member = 0u; member < group; member++) {
            let reader = head * group + member;
            let query_at = (row * params.heads + reader) * DIM;
            var sum = vec4<f32>();
            for (var unit = 0u; unit < UNITS; unit++) {
                sum += from_query(query_at, 1u, unit) * state[unit];
            }
            output[start + (step * params.heads + reader) * params.value_dim + column] = (sum.x + sum.y + sum.z + sum.w) * params.scale;
        }
    }
    for (var unit = 0u; unit < UNITS; unit++) {
        for (var lane = 0u; lane < min(4u, DIM - 4u * unit); lane++) {
            output[end + (4u * unit + lane) * params.value_dim] = state[unit][lane];
        }
    }
}
