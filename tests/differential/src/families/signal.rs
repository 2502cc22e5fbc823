//! Fourier transforms, and windows.

use crate::{
    graph::{Graph, Spread, Var},
    proto::int,
    value::{Dim, Facts, RUNS, Type},
};

/// Sums of this many numbers, each rotated by an angle.
fn turned(facts: &Facts, count: usize) -> Facts {
    let size = facts.size() * 2.0 * count as f64;
    Facts::about(-size, size, (facts.error + facts.size() * 1e-6) * 2.0 * count as f64)
}

pub(super) fn fourier(g: &mut Graph) -> Option<()> {
    if g.opset < 17 {
        return None;
    }
    if g.rng.percent(35) {
        return short(g);
    }
    let complex = g.rng.percent(50);
    let (batch, length) = (g.any_dim(), g.any_dim());
    if batch.least() == 0 || length.least() == 0 {
        return None;
    }
    let parts = Dim::Fixed(if complex { 2 } else { 1 });
    let x = g.given(Type::F32, &[batch, length, parts], Spread::Grid(3, -3.0, 3.0))?;
    let mut inputs = vec![x];
    let mut wanted = length;
    if g.rng.percent(30) {
        wanted = Dim::Fixed(g.rng.between(1, 8) as usize);
        inputs.push(g.number([wanted.most() as i64; RUNS])?);
    }
    let mut attributes = Vec::new();
    let inverse = complex && g.rng.percent(50);
    if inverse {
        attributes.push(int("inverse", 1));
    }
    let mut bins = wanted;
    if !complex && g.rng.percent(50) {
        attributes.push(int("onesided", 1));
        bins = Dim::of(&[wanted], |size| size[0] / 2 + 1)?;
    }
    if g.opset < 20 {
        attributes.push(int("axis", 1));
    } else if g.rng.percent(60) {
        inputs.resize(2, Var::NONE);
        let axis = g.rng.pick(&[1.0, -2.0]);
        inputs.push(g.scalar(Type::I64, axis)?);
    }
    let facts = turned(&g.facts(x), wanted.most().max(length.most()));
    let made = vec![batch, bins, Dim::Fixed(2)];
    g.one("DFT", &inputs, attributes, (Type::F32, made, facts))?;
    Some(())
}

/// Transforms of short pieces of a signal.
fn short(g: &mut Graph) -> Option<()> {
    let batch = g.any_dim();
    let length = Dim::Fixed(g.rng.between(6, 14) as usize);
    let frame = g.rng.between(2, 6);
    let step = g.rng.between(1, 3);
    if batch.least() == 0 {
        return None;
    }
    let x = g.given(Type::F32, &[batch, length, Dim::Fixed(1)], Spread::Grid(3, -3.0, 3.0))?;
    let step_var = g.scalar(Type::I64, step as f64)?;
    let windowed = g.rng.percent(60);
    let window = match windowed {
        true => g.constant(Type::F32, &[frame as usize], Spread::Grid(3, 0.0, 1.0))?,
        false => Var::NONE,
    };
    let frame_var =
        if windowed && g.rng.percent(50) { Var::NONE } else { g.scalar(Type::I64, frame as f64)? };
    let onesided = g.rng.percent(60);
    let bins = if onesided { frame / 2 + 1 } else { frame };
    let frames = Dim::of(&[length], |size| (size[0] - frame) / step + 1)?;
    let facts = turned(&g.facts(x), frame as usize);
    let made = vec![batch, frames, Dim::Fixed(bins as usize), Dim::Fixed(2)];
    let inputs = [x, step_var, window, frame_var];
    g.one("STFT", &inputs, vec![int("onesided", i64::from(onesided))], (Type::F32, made, facts))?;
    Some(())
}

pub(super) fn windows(g: &mut Graph) -> Option<()> {
    if g.opset < 17 {
        return None;
    }
    let op = g.rng.pick(&["HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix"]);
    if op == "MelWeightMatrix" {
        let (bands, length) = (g.rng.between(2, 6), g.rng.pick(&[16.0, 32.0]));
        let inputs = [
            g.scalar(Type::I64, bands as f64)?,
            g.scalar(Type::I64, length)?,
            g.scalar(Type::I64, 8192.0)?,
            g.scalar(Type::F32, 0.0)?,
            g.scalar(Type::F32, 4096.0)?,
        ];
        let made = vec![Dim::Fixed(length as usize / 2 + 1), Dim::Fixed(bands as usize)];
        g.one(op, &inputs, vec![], (Type::F32, made, Facts::about(0.0, 1.0, 1e-6)))?;
        return Some(());
    }
    let size = g.any_dim();
    if size.least() < 2 {
        return None;
    }
    let number = g.number(size.sizes()?.map(|size| size as i64))?;
    let periodic = g.rng.below(2) as i64;
    g.one(
        op,
        &[number],
        vec![int("periodic", periodic)],
        (Type::F32, vec![size], Facts::about(-0.01, 1.0, 2e-6)),
    )?;
    Some(())
}
