// The magnitude of a row's element in the column.
fn size_of(matrix: u32, row: u32) -> f32 {
    let at = u32(abs(output[matrix * params.size + row])) - 1u;
    return abs(elements[(matrix * params.size + at) * params.size + params.column]);
}

// Each invocation finds the row of one matrix with the largest element in a column, two rows at a time, and puts it first.
// Rows are not moved: a list keeps their order, counted from 1, and negative where the sign has changed.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let matrix = index_of(id, groups);
    if (matrix >= params.total) {
        return;
    }
    var pivot = params.column;
    var largest = size_of(matrix, pivot);
    for (var row = params.column + 1u; row < params.size; row += 2u) {
        let own = size_of(matrix, row);
        if (own > largest) {
            pivot = row;
            largest = own;
        }
        let next = size_of(matrix, min(row + 1u, params.size - 1u));
        if (next > largest) {
            pivot = row + 1u;
            largest = next;
        }
    }
    if (pivot != params.column) {
        let upper = matrix * params.size + params.column;
        let row = output[upper];
        output[upper] = output[matrix * params.size + pivot];
        output[matrix * params.size + pivot] = -row;
    }
}
