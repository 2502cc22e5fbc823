// For each line: the number of selected boxes, their indices, and whether each candidate of a block is still free.
fn state_of(line: u32) -> u32 {
    return line * (1u + params.slots + BLOCK);
}

