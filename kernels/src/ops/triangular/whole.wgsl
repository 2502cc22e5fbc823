// Each invocation eliminates one matrix.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let size = params.size;
    let start = index * size * size;
    for (var at = 0u; at < size * size; at++) {
        output[start + at] = x[start + at];
    }
    for (var column = 0u; column < size; column++) {
        var pivot = column;
        for (var row = column + 1u; row < size; row++) {
            if (abs(output[start + row * size + column]) > abs(output[start + pivot * size + column])) {
                pivot = row;
            }
        }
        if (pivot != column) {
            for (var at = column; at < size; at++) {
                let upper = output[start + column * size + at];
                output[start + column * size + at] = output[start + pivot * size + at];
                output[start + pivot * size + at] = -upper;
            }
        }
        let divisor = output[start + column * size + column];
        for (var row = column + 1u; row < size; row++) {
            let factor = select(0.0, output[start + row * size + column] / divisor, divisor != 0.0);
            output[start + row * size + column] = 0.0;
            for (var at = column + 1u; at < size; at++) {
                output[start + row * size + at] -= factor * output[start + column * size + at];
            }
        }
    }
}
