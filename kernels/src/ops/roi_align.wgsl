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
    // Samples that this launch reads, and whether it is the last one.
    first: u32,
    end: u32,
    is_last: u32,
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

const LOWEST: f32 = -3.4028234e38;

// Samples of one dimension that may lie inside of an image; all others lie outside.
fn near(start: f32, step: f32, samples: u32, size: u32) -> vec2<u32> {
    let spacing = step / f32(samples);
    let a = (-1.0 - start) / spacing - 0.5;
    let b = (f32(size) - start) / spacing - 0.5;
    let first = min(u32(clamp(floor(min(a, b)) - 1.0, 0.0, 4e9)), samples);
    let last = min(u32(clamp(ceil(max(a, b)) + 2.0, 0.0, 4e9)), samples);
    // In a region of size 0 all samples are at one place.
    return select(vec2<u32>(0u, samples), vec2<u32>(first, max(last, first)), abs(step) > 1e-30);
}

// Each invocation reads some of the samples of one cell.
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
        samples_x = u32(clamp(ceil(step_x), 0.0, 16777216.0));
        samples_y = u32(clamp(ceil(step_y), 0.0, 16777216.0));
    }
    let columns_near = near(start_x + f32(cell_x) * step_x, step_x, samples_x, params.width);
    let rows_near = near(start_y + f32(cell_y) * step_y, step_y, samples_y, params.height);
    let width = columns_near.y - columns_near.x;
    let count = width * (rows_near.y - rows_near.x);
    var sum = 0.0;
    // What lies outside is 0.
    var best = select(LOWEST, 0.0, count == 0u || width < samples_x || rows_near.y - rows_near.x < samples_y);
    if (params.first > 0u) {
        sum = output[index];
        best = output[index];
    }
    var j = rows_near.x + params.first / max(width, 1u);
    var i = columns_near.x + params.first % max(width, 1u);
    for (var sample = params.first; sample < min(params.end, count); sample++) {
        let y = start_y + f32(cell_y) * step_y + (f32(j) + 0.5) * step_y / f32(samples_y);
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
        best = max(best, largest);
        i++;
        if (i == columns_near.y) {
            i = columns_near.x;
            j++;
        }
    }
    if (MAX) {
        output[index] = best;
    } else if (params.is_last == 0u) {
        output[index] = sum;
    } else {
        output[index] = sum / max(f32(samples_x) * f32(samples_y), 1.0);
    }
}
