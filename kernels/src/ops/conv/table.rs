//! The table of cases.

use flotilla_program::{Conv, Op, Unary, Window};
use flotilla_tensor::DType;

use super::{
    super::{math, window},
    operand_count,
};
use crate::suite::{Array, Case, LONG, LONGEST, Sketch, Tolerance};

/// The expected result of a [`Conv`]: the sum over all elements and taps that belong together.
fn expected(op: &Conv, given: &[&Array], out: &[usize]) -> Array {
    let (x, w) = (given[0], given[1]);
    let spatial = x.shape.len() - 2;
    let channels = w.shape[spatial + 1];
    let per_group = w.shape[0] / op.groups as usize;
    Array::build(x.dtype, out, |index| {
        let (m, places) = (index[1], &index[2..]);
        let group = m / per_group;
        let mut sum = 0.0;
        for flat in 0..w.shape[1..].iter().product::<usize>() {
            let tap = crate::suite::unravel(flat, &w.shape[1..]);
            let mut own = vec![index[0], group * channels + tap[spatial]];
            for axis in 0..spatial {
                let (stride, pad) = (i64::from(op.window.strides[axis]), fixed_pad(op, axis));
                let step = tap[axis] as i64 * i64::from(op.window.dilations[axis]);
                let place = places[axis] as i64;
                let at = match op.transposed {
                    false => Some(place * stride - pad + step),
                    true => {
                        let spread = place + pad - step;
                        (spread.rem_euclid(stride) == 0).then_some(spread.div_euclid(stride))
                    }
                };
                let inside = at.and_then(|at| usize::try_from(at).ok());
                own.extend(inside.filter(|&at| at < x.shape[axis + 2]));
            }
            if own.len() == spatial + 2 {
                sum += x.at(&own) * w.at(&[&[m], tap.as_slice()].concat());
            }
        }
        sum += if op.bias { given[2].at(&[m]) } else { 0.0 };
        sum += if op.residual { given[operand_count(op) - 1].at(index) } else { 0.0 };
        op.activation.map_or(sum, |unary| math::exact(unary, sum))
    })
}

/// The padding of a case, which is a fixed number.
fn fixed_pad(op: &Conv, axis: usize) -> i64 {
    op.window.pads[axis].as_fixed().expect("a number")
}

pub(crate) fn cases() -> Vec<Case> {
    let plain = |strides: &[u32], dilations: &[u32], pads: &[i32]| Conv {
        window: Window {
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            pads: window::fixed(pads),
        },
        groups: 1,
        transposed: false,
        bias: false,
        residual: false,
        activation: None,
    };
    let square = plain(&[1, 1], &[1, 1], &[1, 1]);
    let strided = plain(&[2, 2], &[1, 1], &[3, 3]);
    let all = Conv {
        bias: true,
        residual: true,
        activation: Some(Unary::Relu),
        ..plain(&[2, 1], &[1, 2], &[0, 2])
    };
    let depthwise = Conv { groups: 6, bias: true, ..square.clone() };
    let grouped = Conv { groups: 2, ..plain(&[1], &[2], &[2]) };
    let transposed = |op: Conv| Conv { transposed: true, ..op };
    let table: Vec<(&str, Conv, &[usize], &[usize], &[usize])> = vec![
        ("a square window", square.clone(), &[2, 3, 5, 6], &[9, 3, 3, 3], &[2, 9, 5, 6]),
        ("a strided one", strided, &[1, 3, 13, 13], &[16, 7, 7, 3], &[1, 16, 7, 7]),
        ("everything behind it", all, &[2, 4, 7, 6], &[5, 3, 3, 4], &[2, 5, 3, 6]),
        ("a group per channel", depthwise, &[1, 6, 6, 9], &[6, 3, 3, 1], &[1, 6, 6, 9]),
        ("one dimension in groups", grouped, &[2, 8, 11], &[4, 3, 4], &[2, 4, 11]),
        (
            "three dimensions",
            plain(&[1, 2, 1], &[1, 1, 1], &[0, 1, 0]),
            &[1, 2, 3, 4, 5],
            &[3, 2, 3, 2, 2],
            &[1, 3, 2, 2, 4],
        ),
        (
            "a single element",
            plain(&[1, 1], &[1, 1], &[0, 0]),
            &[1, 70, 9, 9],
            &[12, 1, 1, 70],
            &[1, 12, 9, 9],
        ),
        (
            "a single element of whole vectors",
            Conv { bias: true, activation: Some(Unary::Relu), ..plain(&[1, 1], &[1, 1], &[0, 0]) },
            &[2, 8, 3, 4],
            &[18, 1, 1, 8],
            &[2, 18, 3, 4],
        ),
        (
            "a single strided element",
            plain(&[2, 2], &[1, 1], &[0, 0]),
            &[2, 8, 6, 8],
            &[5, 1, 1, 8],
            &[2, 5, 3, 4],
        ),
        (
            "transposed and strided",
            transposed(plain(&[3, 2], &[1, 1], &[1, 0])),
            &[1, 4, 3, 4],
            &[6, 3, 3, 4],
            &[1, 6, 8, 10],
        ),
        (
            "transposed, dilated, in groups",
            transposed(Conv { groups: 2, bias: true, ..plain(&[2], &[2], &[1]) }),
            &[2, 4, 5],
            &[6, 3, 2],
            &[2, 6, 11],
        ),
    ];
    let mut cases = Vec::new();
    for (seed, (name, op, x, w, out)) in table.into_iter().enumerate() {
        for dtype in [DType::F32, DType::I32] {
            if dtype == DType::I32 && op.activation.is_some() {
                continue;
            }
            let array = |offset: u64, shape: &[usize]| {
                let noise = Array::noise(3900 + 10 * seed as u64 + offset, shape);
                if dtype == DType::I32 {
                    Array { dtype, ..noise.map(|x| (x * 200.0).trunc()) }
                } else {
                    noise
                }
            };
            let mut arrays = vec![array(0, x), array(1, w)];
            if op.bias {
                arrays.push(array(2, &w[..1]));
            }
            if op.residual {
                arrays.push(array(3, out));
            }
            let given: Vec<&Array> = arrays.iter().collect();
            let expected = expected(&op, &given, out);
            let tolerance =
                if dtype == DType::I32 { Tolerance::Exact } else { Tolerance::Approximate };
            let name = format!("conv/{name} of {dtype:?}");
            cases.push(Sketch::single(&name, Op::Conv(op.clone()), &given, &expected, tolerance));
        }
    }
    let line = plain(&[1], &[1], &[0]);
    for size in LONG {
        // Channels of one tap, and taps of one channel.
        let by_channel = long(&line, [1, size, 2], [2, 1, size], [1, 2, 2], DType::F32);
        let by_tap = long(&line, [1, 1, size + 1], [1, size, 1], [1, 1, 2], DType::F32);
        cases.push(by_channel.everywhere_if(size == LONGEST).of_own_kernels());
        cases.push(by_tap.everywhere_if(false));
    }
    let all = Conv { bias: true, residual: true, activation: Some(Unary::Relu), ..line.clone() };
    let back = transposed(Conv { bias: true, ..plain(&[2], &[1], &[1]) });
    let depthwise = Conv { groups: 2, bias: true, ..plain(&[3], &[2], &[9]) };
    for (op, x, w, out, dtype) in [
        (&all, [2, 70_000, 4], [5, 1, 70_000], [2, 5, 4], DType::F32),
        (&all, [1, 33, 140], [4, 139, 33], [1, 4, 2], DType::F32),
        (&all, [1, 1200, 8], [17, 3, 1200], [1, 17, 6], DType::F32),
        (&back, [1, 5000, 3], [2, 3, 5000], [1, 2, 5], DType::F32),
        (&back, [1, 3, 2000], [2, 3000, 3], [1, 2, 6996], DType::I32),
        (&depthwise, [1, 2, 9000], [2, 3001, 1], [1, 2, 1006], DType::F32),
        (&line, [1, 70_000, 2], [3, 1, 70_000], [1, 3, 2], DType::I32),
    ] {
        cases.push(long(op, x, w, out, dtype).everywhere_if(false));
    }
    cases
}

/// Long sums in one spatial dimension.
fn long(op: &Conv, x: [usize; 3], w: [usize; 3], out: [usize; 3], dtype: DType) -> Case {
    let array = |seed: u64, shape: &[usize]| {
        let noise = Array::noise(3990 + seed, shape);
        if dtype == DType::I32 {
            Array { dtype, ..noise.map(|x| (x * 200.0).trunc()) }
        } else {
            noise
        }
    };
    let mut arrays = vec![array(0, &x), array(1, &w)];
    if op.bias {
        arrays.push(array(2, &w[..1]));
    }
    if op.residual {
        arrays.push(array(3, &out));
    }
    let [_, taps, channels] = w;
    let (stride, pad) = (i64::from(op.window.strides[0]), fixed_pad(op, 0));
    let dilation = i64::from(op.window.dilations[0]);
    let mut numbers = Vec::new();
    for flat in 0..out.iter().product::<usize>() {
        let (place, m, n) = (flat % out[2], flat / out[2] % out[1], flat / (out[1] * out[2]));
        let first = m / (w[0] / op.groups as usize) * channels;
        let mut sum = 0.0;
        for tap in 0..taps {
            let (place, step) = (place as i64, tap as i64 * dilation);
            let at = match op.transposed {
                false => place * stride - pad + step,
                true if (place + pad - step) % stride == 0 => (place + pad - step) / stride,
                true => continue,
            };
            let Some(at) = usize::try_from(at).ok().filter(|&at| at < x[2]) else { continue };
            for channel in 0..channels {
                sum += arrays[0].numbers[(n * x[1] + first + channel) * x[2] + at]
                    * arrays[1].numbers[(m * taps + tap) * channels + channel];
            }
        }
        sum += if op.bias { arrays[2].numbers[m] } else { 0.0 };
        sum += if op.residual { arrays[operand_count(op) - 1].numbers[flat] } else { 0.0 };
        numbers.push(op.activation.map_or(sum, |unary| math::exact(unary, sum)));
    }
    let name = format!("conv/{x:?} by {w:?} of {dtype:?}, {}", op.transposed);
    let tolerance = if dtype == DType::I32 { Tolerance::Exact } else { Tolerance::Scaled };
    let given: Vec<&Array> = arrays.iter().collect();
    let expected = Array::of(dtype, &out, numbers);
    Sketch::single(&name, Op::Conv(op.clone()), &given, &expected, tolerance)
}
