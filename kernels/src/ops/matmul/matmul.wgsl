struct Params {
    m: u32,
    n: u32,
    k: u32,
    alpha: f32,
    row_tiles: u32,
    column_tiles: u32,
    batches: u32,
    lead: u32,
    sizes: array<vec4<u32>, 2>,
    a_strides: array<vec4<u32>, 2>,
    b_strides: array<vec4<u32>, 2>,
    parts: u32,
    length: u32,
}

// Each invocation computes {{rows}} x {{columns}} results in registers: memory is read once per block and no barrier is needed,
// which is what software adapters are fastest at.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    let column = (index % params.column_tiles) * {{columns}}u;
    let tile = index / params.column_tiles;
    let row = (tile % params.row_tiles) * {{rows}}u;
{{divide}}
    let m = params.m;
    let n = {{n}};
    let k = {{k}};
    var a_batch = 0u;
    var b_batch = 0u;
{{batch}}
    // Rows past the end repeat the last one, so that loads need no branch.
{{setup}}
{{sum}}
    let out_batch = {{out_batch}} * m * n;
{{store}}
}
