//! One backend's part of a placement: a loaded program.

use std::{collections::HashMap, rc::Rc};

use flotilla_program::Program;
use flotilla_protocol::{LoadError, RunError};

#[cfg(target_arch = "wasm32")]
use crate::backend::webnn::{self, NnModel};
use crate::{
    backend::{
        cpu::{self, CpuModel},
        webgpu::{self, GpuModel},
    },
    platform::Pace,
    weights::{Constants, Sink, Stored},
};
use flotilla_kernels::Shapes;

/// A program that a backend has loaded.
pub(crate) struct Stage {
    pub(crate) program: Rc<Program>,
    pub(crate) engine: Engine,
}

/// The engine of a stage.
pub(crate) enum Engine {
    Cpu(CpuModel),
    WebGpu(Box<GpuModel>),
    #[cfg(target_arch = "wasm32")]
    WebNn(NnModel),
}

impl Stage {
    /// Executes the stage's program; `inputs` are in the order of [`Program::given`], results in the order of
    /// [`Program::results`].
    pub(crate) async fn run(
        &mut self,
        shapes: &mut Shapes,
        inputs: Vec<Vec<u32>>,
    ) -> Result<Vec<Vec<u32>>, RunError> {
        match &mut self.engine {
            Engine::Cpu(model) => model.run(&self.program, shapes, inputs).await,
            Engine::WebGpu(model) => model.run(&self.program, shapes, inputs).await,
            #[cfg(target_arch = "wasm32")]
            Engine::WebNn(model) => model.run(shapes, &inputs).await,
        }
    }

    /// Bytes of memory that hold its constants.
    pub(crate) fn device_bytes(&self) -> u64 {
        match &self.engine {
            Engine::Cpu(model) => model.constants_bytes(),
            Engine::WebGpu(model) => model.constants_bytes(),
            #[cfg(target_arch = "wasm32")]
            Engine::WebNn(model) => model.constants_bytes(),
        }
    }

    /// Pipelines or graphs created since the load.
    pub(crate) fn created(&self) -> u32 {
        match &self.engine {
            Engine::Cpu(_) => 0,
            Engine::WebGpu(model) => model.pipelines_created(),
            #[cfg(target_arch = "wasm32")]
            Engine::WebNn(model) => model.built(),
        }
    }
}

/// A stage whose constants are being loaded.
pub(crate) struct StageLoading {
    program: Rc<Program>,
    constants: Constants,
    engine: EngineLoading,
}

pub(crate) enum EngineLoading {
    Cpu(cpu::Loading),
    WebGpu(webgpu::Loading),
    #[cfg(target_arch = "wasm32")]
    WebNn(webnn::Loading),
}

impl StageLoading {
    pub(crate) fn new(
        program: Rc<Program>,
        constants: Constants,
        engine: EngineLoading,
    ) -> StageLoading {
        StageLoading { program, constants, engine }
    }

    pub(crate) fn finish(self) -> Stage {
        let StageLoading { program, constants, engine } = self;
        let engine = match engine {
            EngineLoading::Cpu(loading) => Engine::Cpu(loading.finish(constants)),
            EngineLoading::WebGpu(loading) => {
                Engine::WebGpu(Box::new(loading.finish(&program, constants)))
            }
            #[cfg(target_arch = "wasm32")]
            EngineLoading::WebNn(loading) => {
                Engine::WebNn(loading.finish(program.clone(), constants))
            }
        };
        Stage { program, engine }
    }
}

/// Passes each constant of a program to the stages that use it.
pub(crate) struct Fan<'a> {
    stages: &'a mut [StageLoading],
    /// By constant of the whole program: stages and their index of it.
    takers: Vec<Vec<(usize, usize)>>,
}

impl<'a> Fan<'a> {
    pub(crate) fn new(whole: &Constants, stages: &'a mut [StageLoading]) -> Fan<'a> {
        let own_of = |stage: &StageLoading| -> HashMap<Stored, usize> {
            let refs = stage.constants.refs.iter().enumerate();
            refs.map(|(own, constant)| (*constant, own)).collect()
        };
        let owns: Vec<_> = stages.iter().map(own_of).collect();
        let takers = whole.refs.iter().map(|constant| {
            let owns = owns.iter().enumerate();
            owns.filter_map(|(stage, owns)| Some((stage, *owns.get(constant)?))).collect()
        });
        let takers = takers.collect();
        Fan { stages, takers }
    }
}

impl Sink for Fan<'_> {
    fn write(&mut self, constant: usize, offset: u64, bytes: &[u8]) -> Result<(), LoadError> {
        for &(stage, own) in &self.takers[constant] {
            match &mut self.stages[stage].engine {
                EngineLoading::Cpu(loading) => loading.write(own, offset, bytes)?,
                EngineLoading::WebGpu(loading) => loading.write(own, offset, bytes)?,
                #[cfg(target_arch = "wasm32")]
                EngineLoading::WebNn(loading) => loading.write(own, offset, bytes)?,
            }
        }
        Ok(())
    }

    async fn settle(&mut self, pace: &mut Pace) -> Result<(), LoadError> {
        for stage in &mut *self.stages {
            match &mut stage.engine {
                EngineLoading::Cpu(loading) => loading.settle(pace).await?,
                EngineLoading::WebGpu(loading) => loading.settle(pace).await?,
                #[cfg(target_arch = "wasm32")]
                EngineLoading::WebNn(loading) => loading.settle(pace).await?,
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), LoadError> {
        for stage in &mut *self.stages {
            match &mut stage.engine {
                EngineLoading::Cpu(loading) => loading.flush().await?,
                EngineLoading::WebGpu(loading) => loading.flush().await?,
                #[cfg(target_arch = "wasm32")]
                EngineLoading::WebNn(loading) => loading.flush().await?,
            }
        }
        Ok(())
    }
}
