//! WGSL with its bindings, and what to dispatch.

/// Invocations per workgroup: enough to fill the vectors of any adapter, few enough that small products still give
/// every core of a software adapter several workgroups.
pub const WORKGROUP: u32 = 32;

/// Most workgroups in one dimension of a dispatch (WebGPU, `maxComputeWorkgroupsPerDimension`).
const GROUPS_MAX: u32 = 65535;

/// A compute shader with the entry point `main`.
///
/// Binding 0 is the uniform `params`, then come the inputs, then the output.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shader {
    /// For labels and messages.
    pub name: String,
    /// Number of storage buffers that are read.
    pub reads: usize,
    /// The text.
    pub wgsl: String,
}

impl Shader {
    /// Declares the bindings and puts `body` behind them. `reads` and `output` name buffers and their element types;
    /// `body` declares `struct Params` and `main`, which starts with `let index = index_of(id, groups);`.
    pub(crate) fn new(name: &str, reads: &[(&str, &str)], output: &str, body: &str) -> Shader {
        let mut wgsl = String::from("@group(0) @binding(0) var<uniform> params: Params;\n");
        for (index, (name, element)) in reads.iter().enumerate() {
            let binding = index + 1;
            wgsl += &format!(
                "@group(0) @binding({binding}) var<storage, read> {name}: array<{element}>;\n"
            );
        }
        let binding = reads.len() + 1;
        wgsl += &format!(
            "@group(0) @binding({binding}) var<storage, read_write> output: array<{output}>;\n"
        );
        wgsl += &format!("const WORKGROUP = {WORKGROUP}u;\n");
        wgsl += "fn index_of(id: vec3<u32>, groups: vec3<u32>) -> u32 { return id.y * groups.x * WORKGROUP + id.x; }\n";
        wgsl += body;
        Shader { name: name.to_owned(), reads: reads.len(), wgsl }
    }
}

/// One dispatch of one of a node's shaders.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Index into the node's shaders.
    pub shader: usize,
    /// Which of the node's inputs are bound, in the shader's order.
    pub inputs: Vec<usize>,
    /// Contents of `Params`.
    pub params: Vec<u32>,
    /// How many invocations are needed; the shader returns early in the rest.
    pub invocations: u64,
}

impl Launch {
    /// Workgroups in two dimensions, because one holds only 65,535.
    ///
    /// # Errors
    /// More than two dimensions hold.
    pub fn groups(&self) -> Result<[u32; 3], String> {
        let groups = self.invocations.div_ceil(u64::from(WORKGROUP));
        let rows = groups.div_ceil(u64::from(GROUPS_MAX)).max(1);
        let columns = groups.div_ceil(rows);
        match (u32::try_from(columns), u32::try_from(rows)) {
            (Ok(columns), Ok(rows)) if rows <= GROUPS_MAX && columns <= GROUPS_MAX => {
                Ok([columns, rows, 1])
            }
            _ => Err(format!("{} invocations are more than a dispatch can have", self.invocations)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dispatch_covers_all_invocations_within_the_limits() {
        for invocations in [1, 32, 33, 65535 * 32, 65535 * 32 + 1, u64::from(u32::MAX)] {
            let launch = Launch { shader: 0, inputs: Vec::new(), params: Vec::new(), invocations };
            let [x, y, z] = launch.groups().unwrap();
            assert!(x <= GROUPS_MAX && y <= GROUPS_MAX && z == 1);
            assert!(
                u64::from(x) * u64::from(y) * u64::from(WORKGROUP) >= invocations,
                "{invocations}"
            );
        }
    }
}
