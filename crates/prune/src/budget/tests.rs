//! Choices within budgets, worked out by hand, and what always holds.

use super::*;
use briquette_core::{
    Cost, CostGroup, CostTerm, Diagnostics, DimensionGroup, Length, LengthPart, Member, Role,
};
use proptest::prelude::*;

/// A chain of layers whose inner widths are groups: the operations of layer `l` are width `l` times width `l + 1`.
fn chain(widths: &[usize]) -> Cost {
    let length = |l: usize| match l {
        _ if l == 0 || l > widths.len() => Length { fixed: 3, parts: vec![] },
        l => Length { fixed: 0, parts: vec![LengthPart { group: l - 1, entries: vec![1; widths[l - 1]] }] },
    };
    let term =
        |l: usize| CostTerm { name: format!("layer{l}"), factor: 1, lengths: vec![length(l), length(l + 1)] };
    let group = |(at, units): (usize, &usize)| CostGroup { name: format!("layer{at}"), units: *units };
    Cost {
        groups: widths.iter().enumerate().map(group).collect(),
        examples: 1,
        multiplications: (0..=widths.len()).map(term).collect(),
        parameters: (0..=widths.len()).map(|l| CostTerm { factor: 2, ..term(l) }).collect(),
    }
}

fn competing(group: usize, importance: &[f64], least: usize) -> Competing {
    Competing {
        group,
        worth: Worth::Layers { layers: vec![importance.to_vec()], readers: 1 },
        losses: None,
        step: 1,
        floors: vec![(vec![true; importance.len()], least)],
    }
}

fn counts(kept: &[Vec<bool>]) -> Vec<usize> {
    kept.iter().map(|kept| kept.iter().filter(|stays| **stays).count()).collect()
}

#[test]
fn units_go_by_what_is_lost_for_what_is_saved() {
    // 3 x 4 + 4 x 2 + 2 x 3 = 26 multiplications, 52 operations.
    let cost = chain(&[4, 2]);
    let groups = [competing(0, &[1.0, 4.0, 2.0, 3.0], 1), competing(1, &[1.0, 1.0], 1)];
    // A unit of the first saves 10 operations, one of the second 14. The first units that go lose 1/10 (then 2/9, 3/7)
    // and 1/2 of their layers.
    let kept = |most: f64| within(&cost, Measure::Flops, &groups, most);
    assert_eq!(kept(52.0), [vec![true; 4], vec![true; 2]]);
    assert_eq!(kept(51.0), [vec![false, true, true, true], vec![true; 2]]);
    assert_eq!(kept(32.0), [vec![false, true, false, true], vec![true; 2]]);
    // Half of the second goes before 3/7 of the first: 0.5 / 14 < (3 / 7) / 10. Without it there is room for the unit that
    // went before it, 9 + 3 + 3 multiplications.
    let tight = kept(30.0);
    assert_eq!(tight[0], [false, true, true, true]);
    assert!(!tight[1][1], "of equal ones the later goes");
    // As little as the floors allow.
    assert_eq!(counts(&kept(0.0)), [1, 1]);
    assert_eq!(lowest(&cost, Measure::Flops, &groups), 14.0);
    assert_eq!(lowest(&cost, Measure::Parameters, &groups), 14.0);
}

#[test]
fn measured_losses_take_the_place_of_importance() {
    let cost = chain(&[4, 4]);
    let even = [1.0; 4];
    let measured = |group: usize, losses: [f64; 4]| Competing {
        losses: Some(losses.to_vec()),
        ..competing(group, &even, 1)
    };
    let robust = [0.0, 0.0, 0.0, 1.0];
    let kept = |first, second| {
        let groups = [measured(0, first), measured(1, second)];
        counts(&within(&cost, Measure::Flops, &groups, 52.0))
    };
    assert_eq!(kept(robust, [1.0; 4]), [2, 4]);
    assert_eq!(kept([1.0; 4], robust), [4, 2]);
}

#[test]
fn units_go_in_steps() {
    let cost = chain(&[10, 10]);
    let groups = |step| [0, 1].map(|group| Competing { step, ..competing(group, &[1.0; 10], 1) });
    for step in [1, 2, 4] {
        for most in [300.0, 200.0, 120.0, 90.0] {
            let kept = within(&cost, Measure::Flops, &groups(step), most);
            let multiples = counts(&kept).into_iter().all(|n| n == 10 || n % step == 0);
            assert!(multiples, "{step} at a time within {most}: {:?}", counts(&kept));
        }
    }
    assert_ne!(
        counts(&within(&cost, Measure::Flops, &groups(1), 200.0)),
        counts(&within(&cost, Measure::Flops, &groups(4), 200.0))
    );
}

#[test]
fn every_layer_of_a_stream_keeps_its_share() {
    // Ten units, of which the first layer holds the first four only.
    let units = |n: usize| (0..10).map(|u| if u < n { vec![u] } else { vec![] }).collect();
    let member = |name: &str, n| Member {
        name: name.into(),
        path: name.into(),
        axis: 0,
        role: Role::Produces,
        units: units(n),
    };
    let members = vec![member("a.weight", 4), member("b.weight", 10), member("c.weight", 4)];
    let group = DimensionGroup { name: "a".into(), units: 10, members, averaged_by: vec![] };
    let floors = Competing::floors(&group, 0.7);
    let counted: Vec<(usize, usize)> =
        floors.iter().map(|(part, least)| (part.iter().filter(|p| **p).count(), *least)).collect();
    assert_eq!(counted, [(10, 3), (4, 2)]);
    // The first four are worth nothing; two of them stay all the same.
    let cost = chain(&[10]);
    let worth = Worth::Loss((0..10).map(f64::from).collect());
    let groups = [Competing { group: 0, worth, losses: None, step: 1, floors }];
    let kept = within(&cost, Measure::Flops, &groups, 12.0 * 5.0);
    assert_eq!(kept[0], [false, false, true, true, false, false, false, true, true, true]);
}

#[test]
fn mistakes_of_the_block() {
    let read = |value: Value| {
        let mut out = Diagnostics::new();
        let mut f = Fields::open(&value, "p", &mut out).expect("an object");
        let budget = Budget::read(&mut f, &mut out);
        let lines: Vec<String> = out.iter().map(|d| d.to_string()).collect();
        (budget, lines)
    };
    let (budget, lines) = read(json!({"budget": {"parameters": 0.25}, "allocate": "sensitivity"}));
    let expected = Budget { measure: Measure::Parameters, share: 0.25, allocate: Allocate::Sensitivity };
    assert_eq!((budget, lines), (Some(expected), vec![]));
    for (value, line) in [
        (json!(0.5), "p.budget: expected an object with one key, `flops` or `parameters`, found 0.5"),
        (json!({"flop": 0.5}), "p.budget.flop: unknown key `flop`, did you mean `flops`?"),
        (json!({"flops": "a"}), "p.budget.flops: expected a number, found \"a\""),
        (json!({"flops": 0}), "p.budget.flops: 0 is not a share of the whole model, over 0 and at most 1"),
        (
            json!({"latency": 0.5}),
            "p.budget.latency: nothing measures the time of each layer yet: use `flops` or `parameters`",
        ),
    ] {
        assert_eq!(read(json!({ "budget": value })).1, [line]);
    }
    let (_, lines) = read(json!({"budget": {"flops": 0.5}, "allocate": "evenly"}));
    assert_eq!(lines, ["p.allocate: `evenly` is not one of importance, sensitivity"]);
}

proptest! {
    #[test]
    fn never_above_the_budget_and_close_below(
        importance in prop::collection::vec(prop::collection::vec(0u8..20, 2..40), 1..5),
        share in 0.2f64..1.0,
    ) {
        let widths: Vec<usize> = importance.iter().map(Vec::len).collect();
        let cost = chain(&widths);
        let groups: Vec<Competing> = importance.iter().enumerate().map(|(at, scores)| {
            competing(at, &scores.iter().map(|s| f64::from(*s)).collect::<Vec<_>>(), 1)
        }).collect();
        let most = share * cost.whole(Measure::Flops);
        let kept = within(&cost, Measure::Flops, &groups, most);
        let left = cost.with(Measure::Flops, &|group, unit| kept[group][unit]);
        prop_assert!(left <= most || counts(&kept).iter().all(|n| *n == 1), "{left} of {most}");
        prop_assert_eq!(&kept, &within(&cost, Measure::Flops, &groups, most));
        // No group has room for another unit.
        for (group, marks) in kept.iter().enumerate() {
            let gone = marks.iter().any(|stays| !stays);
            let more = |g: usize, unit: usize| kept[g][unit] || g == group && marks.iter().position(|s| !s) == Some(unit);
            prop_assert!(!gone || cost.with(Measure::Flops, &more) > most);
        }
    }
}
