// Each invocation computes one element right of a column and below its row. The column itself is left as it is.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let left = params.size - params.column - 1u;
    let matrix = index / (left * left);
    let row = params.column + 1u + index / left % left;
    let at = params.column + 1u + index % left;
    let upper = matrix * params.size + u32(abs(rows[matrix * params.size + params.column])) - 1u;
    let own = matrix * params.size + u32(abs(rows[matrix * params.size + row])) - 1u;
    let divisor = output[upper * params.size + params.column];
    let factor = select(0.0, output[own * params.size + params.column] / divisor, divisor != 0.0);
    output[own * params.size + at] -= factor * output[upper * params.size + at];
}
