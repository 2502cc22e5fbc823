fn join(result: f32, weight: f32, found: bool) -> f32 {
    if (GATHERED < 2u || !found) {
        return result + weight;
    }
    if (GATHERED == 2u) {
        return min(result, weight);
    }
    return max(result, weight);
}

