//! Updates written into a copy of a tensor, element by element or slice by slice.

use flotilla_program::{Combine, ScatterElements, ScatterNd};
use flotilla_tensor::DType;

use super::{
    Kernel, Launch, Memory, Operand, Shader,
    places::{ELEMENT_PLACES, ElementPlaces, Places, TUPLE_PLACES, TuplePlaces},
    strided::{self, View},
};
use crate::call::{Call, Signature, strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// Most tries of an exchange. One fails only if another invocation's has succeeded since. On adapters where the number of
/// iterations matters (see [`super::shader::ITERATIONS_MAX`]), fewer invocations than this run at once.
const CONTENDERS_MAX: usize = 4096;

fn supports(combine: Combine, signature: &Signature<'_>) -> Result<(), String> {
    signature.expect_operands(3)?;
    signature.expect_indices()?;
    let dtype = signature.input(0).dtype;
    if signature.input(2).dtype != dtype || signature.output().dtype != dtype {
        return Err("data, updates and output are of different types".to_owned());
    }
    match (dtype, combine) {
        (_, Combine::Replace) | (DType::F32 | DType::I32 | DType::U32, _) => Ok(()),
        (dtype, combine) => Err(format!("{combine:?} of {dtype:?}")),
    }
}

/// Joins the present value with an update: it exchanges the value for the joined one until no other update has come
/// between.
fn exchanged(element: &str, joined: &str) -> String {
    format!(
        "var seen = atomicLoad(&output[at]);
    loop {{
        let a = bitcast<{element}>(seen);
        let b = bitcast<{element}>(update);
        let exchange = atomicCompareExchangeWeak(&output[at], seen, bitcast<u32>({joined}));
        if (exchange.exchanged) {{
            break;
        }}
        seen = exchange.old_value;
    }}"
    )
}

/// Several updates may be applied to one place at the same time, so they are joined by atomic operations.
fn shader(name: &str, places: &str, combine: Combine, dtype: DType) -> Shader {
    let element = match dtype {
        DType::F32 => "f32",
        DType::I32 => "i32",
        _ => "u32",
    };
    let (output, put) = match (combine, dtype) {
        (Combine::Replace, _) => ("u32", "output[at] = update;".to_owned()),
        (Combine::Add, DType::I32 | DType::U32) => {
            ("atomic<u32>", "atomicAdd(&output[at], update);".to_owned())
        }
        (Combine::Min | Combine::Max, DType::I32 | DType::U32) => {
            let function = if combine == Combine::Min { "atomicMin" } else { "atomicMax" };
            let put = format!("{function}(&output[at], bitcast<{element}>(update));");
            (if dtype == DType::I32 { "atomic<i32>" } else { "atomic<u32>" }, put)
        }
        (Combine::Add, _) => ("atomic<u32>", exchanged(element, "a + b")),
        (Combine::Multiply, _) => ("atomic<u32>", exchanged(element, "a * b")),
        (Combine::Min, _) => ("atomic<u32>", exchanged(element, "min(a, b)")),
        (Combine::Max, _) => ("atomic<u32>", exchanged(element, "max(a, b)")),
    };
    let put = format!("fn put(at: u32, update: u32) {{\n    {put}\n}}\n");
    let body = format!("{places}{put}{}", include_str!("scatter.wgsl"));
    Shader::new(name, &[("indices", "i32"), ("updates", "u32")], output, &body)
}

fn launches(places: &impl Places, call: &Call<'_>) -> Vec<Launch> {
    let shape = call.input(0);
    let copy = View::gathering(shape, 0, strided::signed(&strides(shape))).launch(0);
    let iterations = places.iterations() + CONTENDERS_MAX;
    let put = Launch::new(1, 0, places.params(), places.total(), iterations);
    vec![copy, put.reading([Memory::Input(1), Memory::Input(2)])]
}

fn compute(
    combine: Combine,
    places: &impl Places,
    call: &Call<'_>,
    operands: &[Operand<'_>],
    output: &mut [u32],
) -> Result<(), String> {
    let (indices, updates) = (operands[1].i32(), operands[2].words());
    output.copy_from_slice(operands[0].words());
    let join = joiner(combine, call.signature.input(0).dtype);
    for (flat, &update) in updates.iter().enumerate() {
        let place = &mut output[places.at(flat, indices)?];
        *place = join(*place, update);
    }
    Ok(())
}

fn joiner(combine: Combine, dtype: DType) -> fn(u32, u32) -> u32 {
    let float = dtype == DType::F32;
    let signed = dtype == DType::I32;
    match combine {
        Combine::Replace => |_, update| update,
        Combine::Add if float => |a, b| (f32::from_bits(a) + f32::from_bits(b)).to_bits(),
        Combine::Add => u32::wrapping_add,
        Combine::Multiply if float => |a, b| (f32::from_bits(a) * f32::from_bits(b)).to_bits(),
        Combine::Multiply => u32::wrapping_mul,
        Combine::Min if float => |a, b| f32::from_bits(a).min(f32::from_bits(b)).to_bits(),
        Combine::Min if signed => |a, b| (a as i32).min(b as i32) as u32,
        Combine::Min => u32::min,
        Combine::Max if float => |a, b| f32::from_bits(a).max(f32::from_bits(b)).to_bits(),
        Combine::Max if signed => |a, b| (a as i32).max(b as i32) as u32,
        Combine::Max => u32::max,
    }
}

fn element_places(op: &ScatterElements, call: &Call<'_>) -> Result<ElementPlaces, String> {
    call.expect_output(call.input(0))?;
    call.expect_input(2, call.input(1))?;
    ElementPlaces::new(call.input(0), call.input(1), op.axis)
}

impl Kernel for ScatterElements {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        supports(self.combine, signature)?;
        signature.expect_axis(self.axis)
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let dtype = signature.input(0).dtype;
        vec![strided::shader(), shader("ScatterElements", ELEMENT_PLACES, self.combine, dtype)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        Ok(launches(&element_places(self, call)?, call))
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        compute(self.combine, &element_places(self, call)?, call, operands, output)
    }
}

fn tuple_places(call: &Call<'_>) -> Result<TuplePlaces, String> {
    let (data, indices) = (call.input(0), call.input(1));
    call.expect_output(data)?;
    call.expect_input(2, &TuplePlaces::moved(data, indices, 0))?;
    TuplePlaces::new(data, indices, 0)
}

impl Kernel for ScatterNd {
    fn supports(&self, signature: &Signature<'_>) -> Result<(), String> {
        supports(self.combine, signature)
    }

    fn shaders(&self, signature: &Signature<'_>) -> Vec<Shader> {
        let dtype = signature.input(0).dtype;
        vec![strided::shader(), shader("ScatterNd", TUPLE_PLACES, self.combine, dtype)]
    }

    fn launches(&self, call: &Call<'_>) -> Result<Vec<Launch>, String> {
        Ok(launches(&tuple_places(call)?, call))
    }

    fn compute(
        &self,
        call: &Call<'_>,
        operands: &[Operand<'_>],
        output: &mut [u32],
    ) -> Result<(), String> {
        compute(self.combine, &tuple_places(call)?, call, operands, output)
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    use flotilla_program::Op;

    let exact = |combine, a: f64, b: f64| match combine {
        Combine::Replace => b,
        Combine::Add => a + b,
        Combine::Multiply => a * b,
        Combine::Min => a.min(b),
        Combine::Max => a.max(b),
    };
    let integers = |dtype, array: Array| {
        let scale = if dtype == DType::U32 { 5.0 } else { 0.0 };
        Array { dtype, ..array.map(|x| (x * 5.0 + scale).trunc()) }
    };
    let combines = [Combine::Replace, Combine::Add, Combine::Multiply, Combine::Min, Combine::Max];
    let mut cases = Vec::new();
    for combine in combines {
        for dtype in [DType::F32, DType::I32, DType::U32] {
            let typed = |array: Array| {
                if dtype == DType::F32 { array } else { integers(dtype, array) }
            };
            // A replaced place is named once, a joined one several times.
            let (along, tuples): (&[i32], &[i32]) = if combine == Combine::Replace {
                (&[1, -1, 0, 2, 0, 1], &[2, 0, -1, 2])
            } else {
                (&[1, -2, 0, 2, 2, 2], &[1, 2, 1, -1])
            };
            let indices = |shape: &[usize], numbers: &[i32]| {
                Array::of(DType::I32, shape, numbers.iter().map(|&at| f64::from(at)).collect())
            };
            let data = typed(Array::noise(4300, &[2, 4]));
            let picks = indices(&[2, 3], along);
            let updates = typed(Array::noise(4301, &[2, 3]));
            let mut expected = data.clone();
            for (flat, &at) in along.iter().enumerate() {
                let place = flat / 3 * 4 + at.rem_euclid(4) as usize;
                expected.numbers[place] =
                    exact(combine, expected.numbers[place], updates.numbers[flat]);
            }
            let op = Op::ScatterElements(ScatterElements { axis: 1, combine });
            let name = format!("scatter/elements, {combine:?} of {dtype:?}");
            let inputs = [&data, &picks, &updates];
            cases.push(Sketch::single(&name, op, &inputs, &expected, Tolerance::Close));

            let data = typed(Array::noise(4302, &[3, 3, 2]));
            let picks = indices(&[2, 2], tuples);
            let updates = typed(Array::noise(4303, &[2, 2]));
            let mut expected = data.clone();
            for (pick, tuple) in tuples.chunks(2).enumerate() {
                let row = tuple[0].rem_euclid(3) * 3 + tuple[1].rem_euclid(3);
                for inner in 0..2 {
                    let place = row as usize * 2 + inner;
                    let update = updates.numbers[pick * 2 + inner];
                    expected.numbers[place] = exact(combine, expected.numbers[place], update);
                }
            }
            let op = Op::ScatterNd(ScatterNd { combine });
            let name = format!("scatter/slices, {combine:?} of {dtype:?}");
            let inputs = [&data, &picks, &updates];
            cases.push(Sketch::single(&name, op, &inputs, &expected, Tolerance::Close));
        }
    }
    cases
}
