struct Params {
    total: u32,
    channels: u32,
    height: u32,
    width: u32,
    images: u32,
    cells_y: u32,
    cells_x: u32,
    samples: u32,
    scale: f32,
    offset: f32,
}

struct Pair {
    low: u32,
    high: u32,
    fraction: f32,
}

// The two elements around a place of one dimension.
fn around(at: f32, size: u32) -> Pair {
    let inside = max(at, 0.0);
    let low = u32(inside);
    if (low + 1u >= size) {
        return Pair(size - 1u, size - 1u, 0.0);
    }
    return Pair(low, low + 1u, inside - f32(low));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.total) {
        return;
    }
    let cell_x = index % params.cells_x;
    let cell_y = (index / params.cells_x) % params.cells_y;
    let channel = (index / (params.cells_x * params.cells_y)) % params.channels;
    let region = index / (params.cells_x * params.cells_y * params.channels);
    let image = u32(clamp(batches[region], 0, i32(params.images) - 1));
    let plane = (image * params.channels + channel) * params.height * params.width;

    let start_x = regions[region * 4u] * params.scale - params.offset;
    let start_y = regions[region * 4u + 1u] * params.scale - params.offset;
    var size_x = regions[region * 4u + 2u] * params.scale - params.offset - start_x;
    var size_y = regions[region * 4u + 3u] * params.scale - params.offset - start_y;
    if (params.offset == 0.0) {
        size_x = max(size_x, 1.0);
        size_y = max(size_y, 1.0);
    }
    let step_x = size_x / f32(params.cells_x);
    let step_y = size_y / f32(params.cells_y);
    var samples_x = params.samples;
    var samples_y = params.samples;
    if (params.samples == 0u) {
        samples_x = u32(max(ceil(step_x), 0.0));
        samples_y = u32(max(ceil(step_y), 0.0));
    }
    var sum = 0.0;
    var best = 0.0;
    for (var j = 0u; j < samples_y; j++) {
        let y = start_y + f32(cell_y) * step_y + (f32(j) + 0.5) * step_y / f32(samples_y);
        for (var i = 0u; i < samples_x; i++) {
            let x = start_x + f32(cell_x) * step_x + (f32(i) + 0.5) * step_x / f32(samples_x);
            var largest = 0.0;
            if (y >= -1.0 && y <= f32(params.height) && x >= -1.0 && x <= f32(params.width)) {
                let rows = around(y, params.height);
                let columns = around(x, params.width);
                let a = (1.0 - rows.fraction) * (1.0 - columns.fraction) * data[plane + rows.low * params.width + columns.low];
                let b = (1.0 - rows.fraction) * columns.fraction * data[plane + rows.low * params.width + columns.high];
                let c = rows.fraction * (1.0 - columns.fraction) * data[plane + rows.high * params.width + columns.low];
                let d = rows.fraction * columns.fraction * data[plane + rows.high * params.width + columns.high];
                sum += a + b + c + d;
                largest = max(max(a, b), max(c, d));
            }
            best = select(max(best, largest), largest, i == 0u && j == 0u);
        }
    }
    if (MAX) {
        output[index] = best;
    } else {
        output[index] = sum / f32(max(samples_x * samples_y, 1u));
    }
}
