//! Laws of dimensions and of the serialized program.

use flotilla_model::import::{LoadOptions, load};
use flotilla_program::{
    Program,
    dim::{Dim, Symbol},
};
use proptest::prelude::*;

use crate::models::hf_bert;

const SYMBOLS: u32 = 3;

fn dim() -> impl Strategy<Value = Dim> {
    let leaf = prop_oneof![
        (0i64..100).prop_map(Dim::Fixed),
        (0..SYMBOLS).prop_map(|index| Dim::Symbol(Symbol(index)))
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let several = proptest::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            several.clone().prop_map(Dim::Sum),
            several.clone().prop_map(Dim::Product),
            several.clone().prop_map(Dim::Min),
            several.clone().prop_map(Dim::Max),
            several.prop_map(Dim::Broadcast),
            (inner.clone(), 1i64..9).prop_map(|(dim, by)| dim.over(by)),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Dim::Less(Box::new(a), Box::new(b))),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(a, b, c)| { Dim::Select(Box::new(a), Box::new(b), Box::new(c)) }),
        ]
    })
}

proptest! {
    #[test]
    fn a_dimension_without_symbols_is_its_value(dim in dim(), values in proptest::array::uniform3(0i64..50)) {
        if let Some(fixed) = dim.as_fixed() {
            prop_assert_eq!(dim.eval(&values), Some(fixed));
        }
        prop_assert!(dim.symbols_below(SYMBOLS as usize));
    }

    #[test]
    fn the_normal_form_has_the_same_value(dim in dim(), values in proptest::array::uniform3(0i64..50)) {
        if let Some(value) = dim.eval(&values) {
            prop_assert_eq!(dim.normalized().eval(&values), Some(value));
        }
    }

    #[test]
    fn order_does_not_matter(a in dim(), b in dim(), values in proptest::array::uniform3(0i64..50)) {
        for of in [Dim::Sum, Dim::Product, Dim::Min, Dim::Max, Dim::Broadcast] {
            let (there, back) = (of(vec![a.clone(), b.clone()]), of(vec![b.clone(), a.clone()]));
            prop_assert_eq!(there.eval(&values), back.eval(&values));
        }
    }

    #[test]
    fn a_quotient_is_the_largest_multiple_below(a in dim(), by in 1i64..9, values in proptest::array::uniform3(0i64..50)) {
        let Some(value) = a.eval(&values) else { return Ok(()) };
        let quotient = Dim::Quotient(Box::new(a), Box::new(by.into())).eval(&values).expect("the dividend has a value");
        prop_assert!(quotient * by <= value && value < (quotient + 1) * by);
    }

    #[test]
    fn a_value_that_needs_no_symbols_is_the_same_for_all(dim in dim(), values in proptest::array::uniform3(0i64..50)) {
        match dim.eval(&[]) {
            Some(value) => prop_assert_eq!(dim.eval(&values), Some(value)),
            None => prop_assert!(dim.as_fixed().is_none()),
        }
    }

    #[test]
    fn damaged_programs_are_errors_and_no_panics(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
        let bytes = serialized();
        let at = at.index(bytes.len());
        let mut damaged = bytes.to_vec();
        if cut {
            damaged.truncate(at);
            prop_assert!(Program::from_bytes(&damaged).is_err());
        } else {
            damaged[at] ^= 1 << bit;
            let _ = Program::from_bytes(&damaged);
        }
    }
}

fn serialized() -> &'static [u8] {
    static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BYTES.get_or_init(|| {
        let model = load(&hf_bert(), &LoadOptions::named("bert")).expect("loads");
        model.program.to_bytes().expect("serializes")
    })
}

#[test]
fn a_program_round_trips() {
    let program = Program::from_bytes(serialized()).expect("reads");
    assert_eq!(program.to_bytes().expect("serializes"), serialized());
}
