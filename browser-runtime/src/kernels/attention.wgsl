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

// Each invocation answers one query of one head and keeps the softmax's running maximum and sum, so that the scores
// are never stored (Milakov and Gimelshein, "Online normalizer calculation for softmax").
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    let query = index % params.queries;
    let head = (index / params.queries) % params.heads;
    let batch = index / (params.queries * params.heads);
    if (batch >= params.batches) {
        return;
    }
    let width = params.heads * {{units}}u;
    let query_at = (batch * params.queries + query) * width + head * {{units}}u;
    var key_at = batch * params.keys * width + head * {{units}}u;
    let mask_at = batch * params.mask_batch + head * params.mask_head + query * params.mask_query;
{{setup}}
    var largest = LOWEST;
    var total = 0.0;
    for (var key = 0u; key < params.keys; key++) {
        var score = 0.0;
{{score}}
        score *= params.scale;
{{mask}}
        if (score > largest) {
            let factor = exp(largest - score);
            largest = score;
            total *= factor;
{{rescale}}
        }
        let weight = exp(score - largest);
        total += weight;
{{accumulate}}
        key_at += width;
    }
    let inverse = 1.0 / total;
{{store}}
}
