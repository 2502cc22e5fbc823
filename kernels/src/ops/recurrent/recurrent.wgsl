struct Params {
    total: u32,
    batch: u32,
    hidden: u32,
    steps: u32,
    initial_width: u32,
    // Of products that were computed before: how many parts a sum has, the first gate, and how many gates there are.
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

// Where a unit counts its steps: the state after the last one comes to lie there at the end. So the launches of all steps are
// equal, and the parameters of a long sequence take no memory.
fn count_of(row: u32, unit: u32) -> u32 {
    return place_of(params.steps, row) + unit;
}
