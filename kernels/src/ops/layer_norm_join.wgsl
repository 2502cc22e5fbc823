struct Params {
    total: u32,
    units: u32,
    parts: u32,
}

// Joins the means and squared distances of a row's parts. Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise
// Algorithm for Computing Sample Variances".
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let part = index % params.parts;
    let row = index / params.parts * params.units;
    var total = 0.0;
    var count = 0.0;
    for (var at = part; at < params.units; at += params.parts) {
        total += found[row + at].x * found[row + at].w;
        count += found[row + at].w;
    }
    let mean = total / count;
    var differences = 0.0;
    var squares = 0.0;
    for (var at = part; at < params.units; at += params.parts) {
        let other = found[row + at];
        let difference = (other.x - mean) + other.y;
        differences += difference * other.w;
        squares += other.z + difference * difference * other.w;
    }
    let rest = differences / count;
    output[index] = vec4<f32>(mean, rest, max(squares - rest * rest * count, 0.0), count);
}
