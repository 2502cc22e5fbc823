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
}

const LOWEST: f32 = -3.4028234e38;

// Each invocation answers {{queries}} neighbouring queries of one head, which share the loads of keys and values, and keeps the softmax's running maximum and sum, so that the scores
// are never stored (Milakov and Gimelshein, "Online normalizer calculation for softmax").
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    let tiles = (params.queries + {{queries}}u - 1u) / {{queries}}u;
    let query = (index % tiles) * {{queries}}u;
    let head = (index / tiles) % params.heads;
    let batch = index / (tiles * params.heads);
    if (batch >= params.batches) {
        return;
    }
    let width = params.heads * {{units}}u;
    var key_at = batch * params.keys * width + head * {{units}}u;
    let mask_start = batch * params.mask_batch + head * params.mask_head;
{{setup}}
    for (var key = 0u; key < params.keys; key++) {
{{load_key}}
{{scores}}
{{load_value}}
{{accumulate}}
        key_at += width;
    }
{{store}}
}
