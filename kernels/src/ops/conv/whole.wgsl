// Each invocation computes {{rows}} channels at 4 neighbouring places in registers. An element of the input is loaded once for
// all of these channels, an element of the weights once for all of these places.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = index_of(id, groups);
    let tile = index % params.tiles;
    let block = (index / params.tiles) % (params.groups * params.blocks);
    let batch = index / (params.tiles * params.groups * params.blocks);
    if (batch >= params.batches) {
        return;
    }
    let group = block / params.blocks;
    let row = (block % params.blocks) * {{rows}}u;
    let places = params.output_size.w;
    let plane = params.input_size.w;
    let taps = params.kernel_size.w;
    // Places and channels past the end repeat the last one, so that loads need no branch.
    let place = min(vec4<u32>(tile * 4u) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(places - 1u));
    let depth = vec4<i32>(place / (params.output_size.y * params.output_size.z));
    let line = vec4<i32>((place / params.output_size.z) % params.output_size.y);
    let column = vec4<i32>(place % params.output_size.z);
    let x_start = (batch * params.groups + group) * params.group_inputs * plane;
    let channel = group * params.group_outputs;
    let width = params.group_inputs * taps;
{{setup}}
    for (var z = 0u; z < params.kernel_size.x; z++) {
        let zs = source(depth, z, 0u);
        for (var y = 0u; y < params.kernel_size.y; y++) {
            let ys = source(line, y, 1u);
            for (var x = 0u; x < params.kernel_size.z; x++) {
                let xs = source(column, x, 2u);
                let inside = (zs >= vec4<i32>()) & (ys >= vec4<i32>()) & (xs >= vec4<i32>());
                let height = i32(params.input_size.y);
                let found = (zs * height + ys) * i32(params.input_size.z) + xs;
                var at = vec4<u32>(select(vec4<i32>(), found, inside)) + x_start;
                let tap = (z * params.kernel_size.y + y) * params.kernel_size.z + x;
                for (var step = 0u; step < params.group_inputs; step += {{step}}u) {
                    let unit = (tap * params.group_inputs + step) / {{step}}u;
{{body}}
                }
            }
        }
    }
{{store}}
}
