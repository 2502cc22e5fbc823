struct Params {
    total: u32,
    channels: u32,
    depth: u32,
    height: u32,
    width: u32,
    points: u32,
}

fn reflected(x: f32, low: f32, high: f32) -> f32 {
    let range = high - low;
    if (range <= 0.0) {
        return low;
    }
    let distance = abs(x - low);
    let turns = floor(distance / range);
    let rest = distance - turns * range;
    return select(high - rest, low + rest, u32(turns) % 2u == 0u);
}

// Converts a coordinate in -1..1 to an index of elements.
fn position(grid_at: f32, size: u32) -> f32 {
    let length = f32(size);
    var x: f32;
    var low = -0.5;
    var high = length - 0.5;
    if (ALIGN_CORNERS) {
        x = (grid_at + 1.0) / 2.0 * (length - 1.0);
        low = 0.0;
        high = length - 1.0;
    } else {
        x = ((grid_at + 1.0) * length - 1.0) / 2.0;
    }
    if (INTERPOLATION == 0u) {
        x = round(x);
    }
    if (OUTSIDE == 1u && (x < low || x > high)) {
        x = clamp(x, 0.0, length - 1.0);
    } else if (OUTSIDE == 2u && (x < low || x > high)) {
        x = reflected(x, low, high);
    }
    // Positions farther out see only padding, so the limit changes no result.
    return clamp(x, -3.0, length + 2.0);
}

// The index of the element at a position; -1 if the value there is 0.
fn element(at: i32, size: u32) -> i32 {
    let last = i32(size) - 1;
    if (at >= 0 && at <= last) {
        return at;
    }
    if (OUTSIDE == 0u) {
        return -1;
    }
    if (OUTSIDE == 1u) {
        return clamp(at, 0, last);
    }
    var x: f32;
    if (ALIGN_CORNERS) {
        x = reflected(f32(at), 0.0, f32(last));
    } else {
        x = reflected(f32(at), -0.5, f32(last) + 0.5);
    }
    return clamp(i32(x), 0, last);
}

fn weight(tap: u32, fraction: f32) -> f32 {
    if (INTERPOLATION == 0u) {
        return 1.0;
    }
    if (INTERPOLATION == 1u) {
        return select(fraction, 1.0 - fraction, tap == 0u);
    }
    let a = -0.75;
    let x = abs(f32(tap) - 1.0 - fraction);
    if (x <= 1.0) {
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    }
    return ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let point = index % params.points;
    let plane = index / params.points;
    let image = plane / params.channels;
    let at = (image * params.points + point) * SPATIAL;
    let x = position(grid[at], params.width);
    let y = position(grid[at + 1u], params.height);
    var z = 0.0;
    if (SPATIAL == 3u) {
        z = position(grid[at + SPATIAL - 1u], params.depth);
    }
    let first = vec3<i32>(floor(vec3<f32>(x, y, z)));
    let fraction = vec3<f32>(x, y, z) - vec3<f32>(first);
    var sum = 0.0;
    for (var k = 0u; k < select(1u, TAPS, SPATIAL == 3u); k++) {
        var from_z = 0;
        var weight_z = 1.0;
        if (SPATIAL == 3u) {
            from_z = element(first.z + i32(k) - TAPS_BEFORE, params.depth);
            weight_z = weight(k, fraction.z);
        }
        for (var j = 0u; j < TAPS; j++) {
            let from_y = element(first.y + i32(j) - TAPS_BEFORE, params.height);
            for (var i = 0u; i < TAPS; i++) {
                let from_x = element(first.x + i32(i) - TAPS_BEFORE, params.width);
                if (from_x >= 0 && from_y >= 0 && from_z >= 0) {
                    let row = (plane * params.depth + u32(from_z)) * params.height + u32(from_y);
                    let factor = weight_z * weight(j, fraction.y) * weight(i, fraction.x);
                    sum += factor * data[row * params.width + u32(from_x)];
                }
            }
        }
    }
    output[index] = sum;
}
