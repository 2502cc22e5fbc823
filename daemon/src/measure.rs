//! Measures Chromium's software routes to WebGPU with a small program, so that the choice between them rests on measurements.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_browsers::{Adapter, Kind, adapter::Measured};
use flotilla_program::{
    BlobId, BlobRef, ConstantRef, MatMul, Node, Op, Port, Program, Source, SymbolInfo, Unary,
    Value, ValueId,
    dim::{Dim, Symbol},
};
use flotilla_protocol::Backend;
use flotilla_tensor::{DType, Tensor};

use crate::{
    catalog::Catalog,
    http,
    local::{Local, LocalOptions},
    pool::{AnswerError, Input, View},
};

/// Width of the probe's matrices: that of a small sentence-embedding model.
const WIDTH: usize = 384;
/// Rows of the probe's input.
const ROWS: usize = 64;
/// Matrix products of the probe.
const LAYERS: usize = 4;
/// Timed runs, after one that is not timed.
const ROUNDS: usize = 3;
/// Longest time for one route.
const ROUTE_MAX: Duration = Duration::from_secs(60);

/// Why a route has no figure.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The pool could not be started.
    #[error(transparent)]
    Start(#[from] crate::local::StartError),
    /// The probe could not be made.
    #[error(transparent)]
    Model(#[from] crate::catalog::ModelError),
    /// The probe could not be run.
    #[error(transparent)]
    Answer(#[from] crate::pool::AnswerError),
    /// The browser did not come up or refused the probe.
    #[error("{0}")]
    Refused(String),
}

/// Times the probe on both software routes, one after the other. `report` gets each route's time or the reason why there is
/// none.
pub async fn chromium_routes(report: &dyn Fn(Adapter, &Result<f64, MeasureError>)) -> Measured {
    let mut measured = Measured { browser_version: String::new(), probe_ms: BTreeMap::new() };
    for adapter in [Adapter::Swiftshader, Adapter::Gles] {
        let outcome = route(adapter, &mut measured.browser_version).await;
        report(adapter, &outcome);
        if let Ok(ms) = outcome {
            measured.probe_ms.insert(adapter, ms);
        }
    }
    measured
}

async fn route(adapter: Adapter, version: &mut String) -> Result<f64, MeasureError> {
    let mut catalog = Catalog::default();
    let (program, blobs) = probe();
    let model = catalog.add_program("probe", program, blobs)?;
    let options = LocalOptions {
        adapter,
        backends: vec![Backend::WebGpu].into(),
        http: http::Settings { timeout: ROUTE_MAX, ..http::Settings::default() },
        ..LocalOptions::of([Kind::Chrome])
    };
    let local = Local::start(&options, Arc::new(catalog), 0).await?;
    let timed = async {
        let over = |view: &View| {
            view.status.models.iter().all(|model| model.ready > 0 || model.unplaceable.is_some())
        };
        let view = tokio::time::timeout(ROUTE_MAX, local.pool.wait_until(over)).await;
        let view = view
            .ok()
            .flatten()
            .ok_or_else(|| MeasureError::Refused("it did not start in time".to_owned()))?;
        if let Some(reason) = view.status.models.iter().find_map(|model| model.unplaceable.clone())
        {
            return Err(MeasureError::Refused(reason));
        }
        let mut times = Vec::new();
        for round in 0..=ROUNDS {
            let values: Vec<f32> =
                (0..ROWS * WIDTH).map(|index| (index % 17) as f32 / 17.0).collect();
            let input = Tensor::from_f32(vec![ROWS, WIDTH], &values)
                .map_err(|error| AnswerError::Rows(error.into()))?;
            let answer = local.pool.run(model, Input::Tensors(vec![input]), ROUTE_MAX).await?;
            if round > 0 {
                times.push(answer.provenance.run_ms);
            }
            version.clone_from(&answer.provenance.browser_version);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }
    .await;
    local.stop().await;
    timed
}

/// A chain of matrix products with GELU, `[rows, 384]` to `[rows, 384]`.
fn probe() -> (Program, BTreeMap<BlobId, Bytes>) {
    let weights: Vec<u8> = (0..WIDTH * WIDTH)
        .flat_map(|index| (((index * 31 % 101) as f32 - 50.0) / 2000.0).to_le_bytes())
        .collect();
    let blob = BlobId(*blake3::hash(&weights).as_bytes());
    let bytes = weights.len() as u64;
    let rows = || vec![Dim::Symbol(Symbol(0)), Dim::Fixed(WIDTH as i64)];
    let square = vec![Dim::Fixed(WIDTH as i64), Dim::Fixed(WIDTH as i64)];
    let constant = Source::Constant(ConstantRef { blob, offset: 0, bytes, dtype: DType::F32 });
    let mut values = vec![
        Value { dtype: DType::F32, shape: rows(), source: Source::Input },
        Value { dtype: DType::F32, shape: square, source: constant },
    ];
    let product = Op::MatMul(MatMul { activation: Some(Unary::GeluErf), ..MatMul::PLAIN });
    let mut nodes = Vec::new();
    let mut last = ValueId(0);
    for layer in 0..LAYERS {
        let output = ValueId(values.len() as u32);
        values.push(Value { dtype: DType::F32, shape: rows(), source: Source::Node });
        let inputs = vec![last, ValueId(1)];
        nodes.push(Node {
            name: format!("layer {layer}"),
            op: product.clone(),
            inputs,
            outputs: vec![output],
        });
        last = output;
    }
    let program = Program {
        symbols: vec![SymbolInfo::of_input("rows")],
        values,
        nodes,
        inputs: vec![Port {
            name: "x".to_owned(),
            dtype: DType::F32,
            value: ValueId(0),
            high: None,
        }],
        outputs: vec![Port { name: "y".to_owned(), dtype: DType::F32, value: last, high: None }],
        blobs: vec![BlobRef { id: blob, bytes }],
        ..Program::new("probe")
    };
    (program, BTreeMap::from([(blob, weights.into())]))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_probe_is_a_valid_program() {
        let (program, blobs) = super::probe();
        program.check().expect("consistent");
        assert_eq!(program.blobs.len(), blobs.len());
    }
}
