//! One browser with the model loaded on one backend, alone in its pool.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use flotilla::{
    browser::{Adapter, Build},
    catalog::{Catalog, Model},
    local::{Local, LocalOptions},
    pool::{Input, View},
};
use flotilla_protocol::{Backend, BrowserId};
use flotilla_tensor::Tensor;

use crate::{Arguments, figures::Place};

/// Longest wait for a browser to start and to load the model.
pub(crate) const READY_MAX: Duration = Duration::from_secs(300);

/// What is to be measured in.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) build: Build,
    pub(crate) backend: Backend,
    /// For Chromium's WebGPU; without effect elsewhere.
    pub(crate) adapter: Adapter,
}

impl Wanted {
    /// Where it is measured, before the browser has reported its version.
    pub(crate) fn place(&self) -> Place {
        let route = match self.adapter {
            Adapter::Swiftshader => "/swiftshader",
            Adapter::Gles => "/gles",
            Adapter::Hardware => "/hardware",
            Adapter::Auto => "",
        };
        Place { browser: self.build.to_string(), backend: format!("{}{route}", self.backend) }
    }
}

/// A page that is ready.
pub(crate) struct Page {
    pub(crate) local: Local,
    pub(crate) model: Arc<Model>,
    pub(crate) browser: BrowserId,
    pub(crate) backend: Backend,
    pub(crate) place: Place,
    /// From the order to load to the model being ready, in the page.
    pub(crate) load_ms: f64,
}

impl Page {
    /// Starts the browser and waits until the model is loaded.
    pub(crate) async fn open(
        wanted: Wanted,
        catalog: &Arc<Catalog>,
        arguments: &Arguments,
    ) -> anyhow::Result<Page> {
        let model = match catalog.models.first() {
            Some(model) => model.clone(),
            None => bail!("{}", catalog.broken.values().cloned().collect::<Vec<_>>().join("; ")),
        };
        let mut options = LocalOptions {
            backends: vec![wanted.backend].into(),
            adapter: wanted.adapter,
            guardian: Some(arguments.flotilla.clone()),
            ..LocalOptions::of([wanted.build.clone()])
        };
        options.http.extra = Some(arguments.folder.clone());
        let local = Local::start(&options, catalog.clone(), 0).await?;
        match Page::ready(&local).await {
            Ok(view) => {
                let browser = view.browsers.first().context("the pool has no browser")?;
                let loaded = view.loaded.first().context("the model has no placement")?;
                let version = browser.facts.as_ref().map_or("", |facts| facts.version.as_str());
                let Place { browser: kind, backend } = wanted.place();
                let place = Place {
                    browser: format!("{kind} {version}"),
                    backend: format!("{backend} {}", loaded.adapter.label()),
                };
                let (browser, load_ms) = (browser.browser, loaded.report.load_us as f64 / 1e3);
                Ok(Page { local, model, browser, backend: wanted.backend, place, load_ms })
            }
            Err(error) => {
                local.stop().await;
                Err(error)
            }
        }
    }

    async fn ready(local: &Local) -> anyhow::Result<View> {
        let refusal =
            |view: &View| view.status.models.iter().find_map(|model| model.unplaceable.clone());
        let settled = |view: &View| {
            view.status.models.iter().all(|model| model.ready > 0) || refusal(view).is_some()
        };
        let view = tokio::time::timeout(READY_MAX, local.pool.wait_until(settled))
            .await
            .with_context(|| format!("the model was not loaded within {READY_MAX:?}"))?
            .context("the pool ended before the model was loaded")?;
        match refusal(&view) {
            Some(reason) => bail!("{reason}"),
            None => Ok(view),
        }
    }

    /// Embeds one row of tokens; the time is the page's own, from inputs in memory to results in memory.
    pub(crate) async fn run(&self, ids: &[u32]) -> anyhow::Result<(f64, Vec<f32>)> {
        let values = |name: &str| -> Vec<i64> {
            let value = |id: &u32| match name {
                "input_ids" => i64::from(*id),
                "attention_mask" => 1,
                _ => 0,
            };
            ids.iter().map(value).collect()
        };
        let ports = self.model.program.inputs.iter();
        let inputs = ports.map(|port| Tensor::from_i64(vec![1, ids.len()], &values(&port.name)));
        let inputs = Input::Tensors(inputs.collect::<Result<_, _>>()?);
        let answer = self.local.pool.run(self.model.id, inputs, READY_MAX).await?;
        let output = answer.outputs.first().context("the program has no output")?;
        Ok((answer.provenance.run_ms, output.to_f32()?))
    }
}
