struct Params {
    batches: u32,
    heads: u32,
    queries: u32,
    keys: u32,
    scale: f32,
    mask_batch: u32,
    mask_head: u32,
    mask_query: u32,
    mask_key: u32,
    parts: u32,
    length: u32,
}

const LOWEST: f32 = -3.4028234e38;

// Each invocation answers {{queries}} neighbouring queries of one head from one part of the keys. The queries share the loads
// of keys and values, and the softmax's running maximum and sum are kept, so that the scores are never stored (Milakov and Gimelshein, "Online normalizer calculation for softmax").
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    let tiles = (params.queries + {{queries}}u - 1u) / {{queries}}u;
    let query = (index % tiles) * {{queries}}u;
    let head = (index / tiles) % params.heads;
    let batch = index / (tiles * params.heads) % params.batches;
    let part = index / (tiles * params.heads * params.batches);
    if (part >= params.parts) {
        return;
    }
    let width = params.heads * {{units}}u;
    let first = part * params.length;
    let last = min(first + params.length, params.keys);
    var key_at = (batch * params.keys + first) * width + head * {{units}}u;
    let mask_start = batch * params.mask_batch + head * params.mask_head;
{{setup}}
    for (var key = first; key < last; key++) {
{{load_key}}
{{scores}}
{{load_value}}
{{accumulate}}
        key_at += width;
    }
{{store}}
}
