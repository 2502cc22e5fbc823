//! Reads the serialized form of a program in steps.

use serde::de::DeserializeOwned;

use crate::{PROGRAM_VERSION, Program, ProgramError};

/// Reads [`Program::to_bytes`]'s form in steps, between which the caller may do something else: a node, a value or a region is
/// one step. What was read is not checked; [`Program::check_steps`] does that.
#[derive(Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    program: Program,
    /// The lists that were begun.
    begun: usize,
    /// Elements of the current list that are missing.
    missing: u64,
}

/// Takes one element of a list.
type Take = fn(&mut Program, &mut &[u8]) -> Result<(), postcard::Error>;

/// The lists of a program, in the order of its fields.
const LISTS: [Take; 11] = [
    |program, rest| push(&mut program.symbols, rest),
    |program, rest| push(&mut program.values, rest),
    |program, rest| push(&mut program.nodes, rest),
    |program, rest| push(&mut program.regions, rest),
    |program, rest| push(&mut program.inputs, rest),
    |program, rest| push(&mut program.outputs, rest),
    |program, rest| push(&mut program.assumptions, rest),
    |program, rest| push(&mut program.bounds, rest),
    |program, rest| push(&mut program.checks, rest),
    |program, rest| push(&mut program.allowed_paddings, rest),
    |program, rest| push(&mut program.blobs, rest),
];

impl<'a> Decoder<'a> {
    /// Reads a program's version and name.
    ///
    /// # Errors
    /// Another version, or bytes that do not decode.
    pub fn new(bytes: &'a [u8]) -> Result<Decoder<'a>, ProgramError> {
        let mut rest = bytes;
        let version = take(&mut rest)?;
        if version != PROGRAM_VERSION {
            return Err(ProgramError::Version { got: version, want: PROGRAM_VERSION });
        }
        let program = Program::new(take::<String>(&mut rest)?);
        Ok(Decoder { rest, program, begun: 0, missing: 0 })
    }

    /// Reads the next element. Returns whether others may be missing.
    ///
    /// # Errors
    /// Bytes that do not decode.
    pub fn step(&mut self) -> Result<bool, ProgramError> {
        if self.missing > 0 {
            self.missing -= 1;
            LISTS[self.begun - 1](&mut self.program, &mut self.rest)?;
        } else if self.begun < LISTS.len() {
            self.begun += 1;
            self.missing = take(&mut self.rest)?;
        }
        Ok(self.missing > 0 || self.begun < LISTS.len())
    }

    /// The program, of which nothing is missing.
    pub fn finish(self) -> Program {
        assert_eq!((self.begun, self.missing), (LISTS.len(), 0), "a part was not read");
        self.program
    }
}

fn push<T: DeserializeOwned>(list: &mut Vec<T>, rest: &mut &[u8]) -> Result<(), postcard::Error> {
    list.push(take(rest)?);
    Ok(())
}

fn take<T: DeserializeOwned>(rest: &mut &[u8]) -> Result<T, postcard::Error> {
    let (value, after) = postcard::take_from_bytes(rest)?;
    *rest = after;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use flotilla_tensor::DType;

    use super::*;
    use crate::{
        Assumption, BlobId, BlobRef, Check, InputBound, Node, Op, Padding, Port, Region, Source,
        SymbolInfo, Value, ValueId,
        dim::{Dim, Symbol},
    };

    /// Every list has two elements.
    fn program() -> Program {
        let node = |name: &str| Node {
            name: name.to_owned(),
            op: Op::Reshape,
            inputs: vec![ValueId(0)],
            outputs: vec![ValueId(300)],
        };
        let port = |name: &str| Port {
            name: name.to_owned(),
            dtype: DType::I64,
            value: ValueId(1),
            high: Some(ValueId(2)),
        };
        let value = |size| Value {
            dtype: DType::F32,
            shape: vec![Dim::Fixed(size), Dim::Symbol(Symbol(0))],
            source: Source::Node,
        };
        let region = |name: &str| Region { nodes: vec![node(name)], ..Region::default() };
        let check = |what: &str| Check {
            node: "n".to_owned(),
            what: what.to_owned(),
            left: Dim::Fixed(1),
            right: Dim::Sum(vec![Dim::Fixed(2)]),
        };
        let bound = |most| InputBound { input: 0, above: -1, most, node: "n".to_owned() };
        let padding =
            |symbol| Padding { symbol: Symbol(symbol), guards: Vec::new(), limits: Vec::new() };
        let blob = |byte| BlobRef { id: BlobId([byte; 32]), bytes: u64::MAX };
        Program {
            version: PROGRAM_VERSION,
            name: "all".to_owned(),
            symbols: ["a", "b"].map(SymbolInfo::of_input).into(),
            values: [1, 1 << 40].map(value).into(),
            nodes: ["x", "y"].map(node).into(),
            regions: ["x", "y"].map(region).into(),
            inputs: ["x", "y"].map(port).into(),
            outputs: ["z", "w"].map(port).into(),
            assumptions: [0, 1].map(|input| Assumption { input, words: vec![7, 8] }).into(),
            bounds: [5, 6].map(bound).into(),
            checks: ["a", "b"].map(check).into(),
            allowed_paddings: [0, 1].map(padding).into(),
            blobs: [1, 2].map(blob).into(),
        }
    }

    fn decoded(bytes: &[u8]) -> Result<(Program, usize), ProgramError> {
        let mut decoder = Decoder::new(bytes)?;
        let mut steps = 1;
        while decoder.step()? {
            steps += 1;
        }
        Ok((decoder.finish(), steps))
    }

    #[test]
    fn steps_read_the_serialized_form() {
        let program = program();
        let bytes = program.to_bytes().expect("is serialized");
        let (read, steps) = decoded(&bytes).expect("is read");
        assert_eq!((read, steps), (program, 3 * LISTS.len()));
        let empty = Program::new("");
        let bytes = empty.to_bytes().expect("is serialized");
        assert_eq!(decoded(&bytes).expect("is read"), (empty, LISTS.len()));
    }

    #[test]
    fn bytes_that_end_early_or_lie_are_refused() {
        let mut bytes = program().to_bytes().expect("is serialized");
        for end in 0..bytes.len() {
            assert!(decoded(&bytes[..end]).is_err(), "{end} bytes");
        }
        bytes[0] += 1;
        assert!(matches!(decoded(&bytes), Err(ProgramError::Version { .. })));
    }
}
