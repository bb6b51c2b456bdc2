//! Settings, and the life of one weight.

use super::*;
use briquette_core::Diagnostics;

fn problems(value: Value) -> Vec<String> {
    let mut out = Diagnostics::new();
    let read = WeightQuantization::read(&value, "w", &mut out);
    assert_eq!(read.is_none(), !out.is_empty());
    out.iter().map(|d| d.to_string()).collect()
}

#[test]
fn good_settings_read() {
    for value in [
        json!({"bits": 8}),
        json!({"bits": 4, "granularity": {"group_size": 64}, "symmetric": false}),
        json!({"bits": 1, "granularity": "tensor", "arithmetic": "deepspeed"}),
    ] {
        assert!(problems(value).is_empty());
    }
}

#[test]
fn bad_settings_are_all_reported() {
    assert_eq!(problems(json!({"bits": 0})), ["w.bits: 0 is not a bit width of 1 to 8"]);
    assert_eq!(
        problems(json!({"bits": 2, "symmetric": false, "granularity": {"groups": 0}, "bitz": 1})),
        [
            "w.granularity: 0 is not at least 1",
            "w.symmetric: ternary weights (2 bits) are always symmetric",
            "w.bitz: unknown key `bitz`, did you mean `bits`?",
        ]
    );
    assert_eq!(problems(json!({"bits": 9e9, "rounding": "up"})).len(), 2);
    assert_eq!(problems(json!([1])).len(), 1);
}
