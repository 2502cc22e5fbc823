struct Params {
    total: u32,
    batch: u32,
    hidden: u32,
    steps: u32,
    initial_width: u32,
    // For the products that earlier launches computed: parts of a sum, first gate, number of gates.
    parts: u32,
    gate: u32,
    gates: u32,
}

// How many steps came before this one.
var<private> step: u32;

fn time_of(step: u32, row: u32) -> u32 {
    return select(step, length_of(row) - 1u - step, REVERSE);
}

// Where a sequence's row of a time starts.
fn place_of(time: u32, row: u32) -> u32 {
    return (time * params.batch + row) * 2u * params.hidden;
}

// Where a unit keeps its step counter; at the end the final state is written there. With the counter in memory the launches of
// all steps have the same parameters, so that a long sequence needs no memory for them.
fn count_of(row: u32, unit: u32) -> u32 {
    return place_of(params.steps, row) + unit;
}
