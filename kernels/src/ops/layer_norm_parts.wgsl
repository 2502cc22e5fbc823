struct Params {
    total: u32,
    units: u32,
    parts: u32,
}

// Each invocation reads every `parts`-th unit of a row. It writes their mean as two numbers, the second of which is the
// rounding error of the first, then the sum of the squared distances from the mean, and the number of elements.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let part = index % params.parts;
    let row = index / params.parts * params.units;
    let count = f32((params.units + params.parts - 1u - part) / params.parts * WIDTH);
    var total = Element();
    for (var unit = part; unit < params.units; unit += params.parts) {
        total += value(row + unit);
    }
    let mean = sum(total) / count;
    var differences = Element();
    var squares = Element();
    for (var unit = part; unit < params.units; unit += params.parts) {
        let difference = value(row + unit) - mean;
        differences += difference;
        squares += difference * difference;
    }
    let rest = sum(differences) / count;
    output[index] = vec4<f32>(mean, rest, max(sum(squares) - rest * rest * count, 0.0), count);
}
