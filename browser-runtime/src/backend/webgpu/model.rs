//! A program with its constants on the device.

use std::{collections::VecDeque, rc::Rc};

use flotilla_program::Program;
use flotilla_protocol::RunError;

use super::{
    Gpu,
    gpu::Pipeline,
    plan::{Parts, Plan},
    pool::Pool,
};
use crate::{lifetimes::Lifetimes, weights::Constants};
use flotilla_kernels::Shapes;

/// Plans that are kept; the one used longest ago makes room.
const PLANS_MAX: usize = 8;

/// A loaded program.
pub(crate) struct GpuModel {
    pub(crate) gpu: Rc<Gpu>,
    constants: Constants,
    buffers: Vec<wgpu::Buffer>,
    pipelines: Vec<Vec<Rc<Pipeline>>>,
    lifetimes: Lifetimes,
    pool: Pool,
    plans: VecDeque<Plan>,
    created_at_load: u32,
}

impl GpuModel {
    pub(crate) fn new(
        gpu: Rc<Gpu>,
        program: &Program,
        constants: Constants,
        buffers: Vec<wgpu::Buffer>,
        pipelines: Vec<Vec<Rc<Pipeline>>>,
    ) -> GpuModel {
        GpuModel {
            created_at_load: gpu.created(),
            gpu,
            constants,
            buffers,
            pipelines,
            lifetimes: Lifetimes::new(program),
            pool: Pool::default(),
            plans: VecDeque::new(),
        }
    }

    /// Pipelines created since the load.
    pub(crate) fn pipelines_created(&self) -> u32 {
        self.gpu.created() - self.created_at_load
    }

    /// Executes every node in one submit; `inputs` are in the order of the program's; what it gives
    /// back is in the order of [`Program::results`].
    pub(crate) async fn run(
        &mut self,
        program: &Program,
        shapes: &Shapes,
        inputs: Vec<Vec<u32>>,
    ) -> Result<Vec<Vec<u32>>, RunError> {
        if let Some(reason) = self.gpu.lost() {
            return Err(RunError::DeviceLost { reason });
        }
        let scopes = self.gpu.scopes();
        let submitted = self.submit(program, shapes, &inputs);
        let caught = scopes.end();
        let result = match submitted {
            Ok(()) => {
                let plan = &self.plans[0];
                let mapped = self.gpu.map(&plan.staging).await;
                caught
                    .await
                    .and(mapped)
                    .map_err(|error| error.into_run(&program.name))
                    .and_then(|()| read(plan))
            }
            Err(error) => {
                Err(caught.await.err().map_or(error, |caught| caught.into_run(&program.name)))
            }
        };
        if result.is_err() {
            // Its buffers may be invalid, or mapped.
            self.plans.clear();
            self.pool = Pool::default();
        }
        result
    }

    /// Puts the plan of these shapes in front and submits it.
    fn submit(
        &mut self,
        program: &Program,
        shapes: &Shapes,
        inputs: &[Vec<u32>],
    ) -> Result<(), RunError> {
        let plan = match self.plans.iter().position(|plan| plan.symbols == shapes.symbols) {
            Some(index) => self.plans.remove(index),
            None => None,
        };
        let plan = match plan {
            Some(plan) => plan,
            None => {
                let parts = Parts {
                    gpu: &self.gpu,
                    program,
                    constants: &self.constants,
                    buffers: &self.buffers,
                    pipelines: &self.pipelines,
                    lifetimes: &self.lifetimes,
                };
                Plan::new(&parts, shapes, &mut self.pool)?
            }
        };
        self.plans.push_front(plan);
        self.plans.truncate(PLANS_MAX);
        let plan = &self.plans[0];
        for (buffer, words) in plan.inputs.iter().zip(inputs) {
            if !words.is_empty() {
                self.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(words));
            }
        }
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for step in &plan.steps {
                let [x, y, z] = step.groups;
                pass.set_pipeline(&step.pipeline.pipeline);
                pass.set_bind_group(0, &step.bindings, &[]);
                pass.dispatch_workgroups(x, y, z);
            }
        }
        for output in plan.outputs.iter().filter(|output| output.bytes > 0) {
            encoder.copy_buffer_to_buffer(&output.from, 0, &plan.staging, output.at, output.bytes);
        }
        self.gpu.queue.submit([encoder.finish()]);
        Ok(())
    }
}

/// Takes the results out of the mapped staging buffer.
fn read(plan: &Plan) -> Result<Vec<Vec<u32>>, RunError> {
    let outputs = {
        let lost =
            |error: &dyn std::fmt::Display| RunError::DeviceLost { reason: error.to_string() };
        let mapped = plan.staging.slice(..).get_mapped_range().map_err(|error| lost(&error))?;
        let words = |output: &super::plan::Readback| {
            let bytes = &mapped[output.at as usize..(output.at + output.bytes) as usize];
            bytes.as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect()
        };
        plan.outputs.iter().map(words).collect()
    };
    plan.staging.unmap();
    Ok(outputs)
}
