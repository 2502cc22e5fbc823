//! WGSL with its bindings, and dispatches.

/// Invocations per workgroup: enough to fill the vectors of any adapter, few enough that small products still give
/// every core of a software adapter several workgroups.
pub const WORKGROUP: u32 = 32;

/// Most iterations of all loops of one invocation together. Mesa's software adapters end loops without an error after
/// 65,536 iterations in total (`LP_MAX_TGSI_LOOP_ITERATIONS`), counted for neighbouring invocations together when they
/// take different branches.
pub const ITERATIONS_MAX: u64 = 16_384;

/// Most workgroups in one dimension of a dispatch (WebGPU, `maxComputeWorkgroupsPerDimension`).
const GROUPS_MAX: u32 = 65535;

/// A compute shader with the entry point `main`.
///
/// Binding 0 is the uniform `params`, followed by the buffers that are read, then by the one that is written.
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
    /// Declares the bindings and appends `body`. `reads` and `output` name buffers and their element types; `body`
    /// declares `struct Params` and `main`, which starts with `let index = index_of(id, groups);`.
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

/// A buffer that a launch binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Memory {
    /// One of the node's inputs.
    Input(usize),
    /// The node's result.
    Output,
    /// Memory that only this node's launches use.
    Scratch(Scratch),
}

/// A buffer that exists while its node is computed. Its contents are undefined until a launch of the node writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scratch {
    /// Distinguishes a node's buffers.
    pub index: usize,
    /// Its size in 32-bit words; the same wherever the buffer is bound.
    pub words: u64,
}

/// One dispatch of one of a node's shaders.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Launch {
    /// Index into the node's shaders.
    pub shader: usize,
    /// The buffers that are read, in the shader's order.
    pub reads: Vec<Memory>,
    /// The buffer that is written; the shader may read it, too. It is not among `reads`.
    pub writes: Memory,
    /// Contents of `Params`.
    pub params: Vec<u32>,
    /// How many invocations are needed; the shader returns early in the rest.
    pub invocations: u64,
    /// Most iterations of one invocation: of all its loops together, those of inner loops counted each time.
    pub iterations: u64,
}

impl Launch {
    /// A launch that reads the node's first `inputs` inputs and writes its output.
    pub(crate) fn new(
        shader: usize,
        inputs: usize,
        params: Vec<u32>,
        invocations: usize,
        iterations: usize,
    ) -> Launch {
        Launch {
            shader,
            reads: (0..inputs).map(Memory::Input).collect(),
            writes: Memory::Output,
            params,
            invocations: invocations as u64,
            iterations: iterations as u64,
        }
    }

    /// The same launch with other buffers to read.
    pub(crate) fn reading(self, reads: impl Into<Vec<Memory>>) -> Launch {
        Launch { reads: reads.into(), ..self }
    }

    /// The same launch with another buffer to write.
    pub(crate) fn writing(self, writes: Memory) -> Launch {
        Launch { writes, ..self }
    }

    /// Refuses more than [`ITERATIONS_MAX`] iterations of one invocation.
    ///
    /// # Errors
    /// The number and the limit, as text.
    pub fn check(&self) -> Result<(), String> {
        if self.iterations > ITERATIONS_MAX {
            let got = self.iterations;
            return Err(format!(
                "an invocation has {got} iterations, the limit is {ITERATIONS_MAX}: dimensions are too large"
            ));
        }
        Ok(())
    }

    /// Workgroups in two dimensions, because one holds only 65,535.
    ///
    /// # Errors
    /// More than two dimensions allow.
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
        for invocations in [1, 32, 33, 65535 * 32, 65535 * 32 + 1, u32::MAX as usize] {
            let launch = Launch::new(0, 0, Vec::new(), invocations, 0);
            let [x, y, z] = launch.groups().unwrap();
            assert!(x <= GROUPS_MAX && y <= GROUPS_MAX && z == 1);
            assert!(
                u64::from(x) * u64::from(y) * u64::from(WORKGROUP) >= launch.invocations,
                "{invocations}"
            );
        }
    }

    #[test]
    fn long_loops_are_refused() {
        let launch = |iterations| Launch::new(0, 1, Vec::new(), 1, iterations);
        assert_eq!(launch(ITERATIONS_MAX as usize).check(), Ok(()));
        assert!(launch(ITERATIONS_MAX as usize + 1).check().is_err());
    }
}
