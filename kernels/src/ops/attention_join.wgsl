struct Params {
    rows: u32,
    parts: u32,
}

const LOWEST: f32 = -3.4028234e38;

// Each invocation joins the parts of one unit of a query's result in one head; a part's weight is its share of the
// softmax's sum.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    if (index >= params.rows * {{units}}u) {
        return;
    }
    let unit = index % {{units}}u;
    var largest = LOWEST;
    for (var part = 0u; part < params.parts; part++) {
        let row = (part * params.rows + index / {{units}}u) * {{row_units}}u;
        largest = max(largest, {{largest}});
    }
    var total = 0.0;
    var sum = {{element}}();
    for (var part = 0u; part < params.parts; part++) {
        let row = (part * params.rows + index / {{units}}u) * {{row_units}}u;
        let weight = exp({{largest}} - largest);
        total += weight * {{total}};
        sum += weight * parts[row + unit];
    }
    output[index] = sum * (1.0 / total);
}
