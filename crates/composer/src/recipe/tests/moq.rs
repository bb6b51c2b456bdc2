//! Bit schedules and eigenvalues, in all the places that say them.

use super::*;
use briquette_core::BlockList;

/// Details of the first step of a recipe for [`view`].
fn details(recipe: &Value) -> Value {
    let plan = Composer::<Flex>::builtin().plan(&Recipe::from_value(recipe), &view());
    json!(plan.unwrap_or_else(|e| panic!("{e}")).steps()[0].details)
}

fn falling(shared: Value, period: Value) -> Value {
    let mut params = json!({"start_bits": 12, "target_bits": 8});
    if !period.is_null() {
        params["quantization_period"] = period;
    }
    weights(shared, params)
}

#[test]
fn bits_fall_in_both_modes_of_deepspeed() {
    for in_forward in [true, false] {
        let shared = json!({"quantize_weight_in_forward": in_forward, "schedule_offset": 50});
        let said = details(&falling(shared, json!(10)));
        assert_eq!(
            (&said["start_bits"], &said["bits"], &said["period"]),
            (&json!(12), &json!(8), &json!(10))
        );
        assert_eq!(said["last_bit_falls_at"], json!(130));
    }
    let said = details(&falling(json!({}), Value::Null));
    assert_eq!(said["period"], json!(1), "DeepSpeed's default");
    // Without bits that fall the period says nothing, and recipes of DeepSpeed give it all the same.
    let fixed = json!({"start_bits": 8, "target_bits": 8, "quantization_period": 50});
    assert_eq!(details(&weights(json!({}), fixed))["period"], Value::Null);
}

#[test]
fn an_end_takes_the_place_of_the_period() {
    let said = details(&falling(json!({"schedule_offset": 5, "schedule_offset_end": 45}), Value::Null));
    assert_eq!((&said["period"], &said["last_bit_falls_at"]), (&Value::Null, &json!(45)));
    let end = "weight_quantization.shared_parameters.schedule_offset_end";
    let line = format!("{end}: `period` and `end` are two paces; a schedule has one of them");
    refused(&falling(json!({"schedule_offset_end": 45}), json!(10)), &[&line]);
    let line = format!("{end}: 3 is not an optimizer step after 5, where quantization starts");
    refused(&falling(json!({"schedule_offset": 5, "schedule_offset_end": 3}), Value::Null), &[&line]);
    let line = format!("{end}: `end` has an effect with `start_bits` over `bits` only");
    refused(&weights(json!({"schedule_offset_end": 45}), bits(8)), &[&line]);
}

#[test]
fn start_bits_have_their_range() {
    let place = "weight_quantization.different_groups.g.params.start_bits";
    for n in [0, 33, 64] {
        let recipe = weights(json!({}), json!({"start_bits": n, "target_bits": 8}));
        refused(&recipe, &[&format!("{place}: {n} is not a bit width of 1 to 32")]);
    }
}

#[test]
fn mixed_quantization_is_read_where_it_is_enabled() {
    let mixed = |enabled: bool| {
        let block = json!({"enabled": enabled, "quantize_change_ratio": 0.01});
        details(&falling(json!({ "fp16_mixed_quantize": block }), json!(10)))
    };
    assert_eq!(mixed(true)["mixed_change_ratio"], json!(0.01));
    assert_eq!(mixed(false)["mixed_change_ratio"], Value::Null);
    let default = json!({"fp16_mixed_quantize": {"enabled": true}});
    assert_eq!(details(&weights(default, bits(8)))["mixed_change_ratio"], json!(0.001));
}

/// The block of DeepSpeed's tutorial.
fn tutorial() -> Value {
    json!({
        "optimizer": {"type": "AdamW", "params": {"lr": 2e-5}},
        "gradient_clipping": 1.0,
        "fp16": {"initial_scale_power": 16, "enabled": true},
        "quantize_training": {
            "enabled": true,
            "quantize_verbose": true,
            "quantizer_kernel": true,
            "quantize-algo": {"q_type": "symmetric"},
            "quantize_bits": {"start_bits": 12, "target_bits": 8},
            "quantize_schedule": {"quantize_period": 10, "schedule_offset": 0},
            "quantize_groups": 8,
            "fp16_mixed_quantize": {"enabled": false, "quantize_change_ratio": 0.001}
        }
    })
}

/// [`tutorial`] with one key of the block set anew.
fn with(key: &str, value: Value) -> Value {
    let mut recipe = tutorial();
    recipe["quantize_training"][key] = value;
    recipe
}

#[test]
fn the_older_block_is_weight_quantization_of_linear_layers_and_convolutions() {
    assert_eq!(layers(&tutorial()), ["conv", "layer.1.fc", "layer.10.fc"]);
    let said = details(&tutorial());
    let expected = json!({
        "code": "int8", "bits": 8, "groups": 8, "group_length": 9, "rounding": "nearest",
        "scale_search": "max", "arithmetic": "deep_speed", "start_bits": 12, "period": 10, "last_bit_falls_at": 80
    });
    assert_eq!(said, expected);
}

#[test]
fn keys_of_the_older_block_change_the_plan() {
    let base = details(&tutorial());
    for (key, value) in [
        ("quantize-algo", json!({"q_type": "asymmetric"})),
        ("quantize_algo", json!({"rounding": "stochastic"})),
        ("quantize_bits", json!({"start_bits": 14, "target_bits": 8})),
        ("quantize_bits", json!({"target_bits": 8})),
        ("quantize_schedule", json!({"quantize_period": 10})),
        ("quantize_schedule", json!({"schedule_offset": 0})),
        ("quantize_groups", json!(1)),
        ("fp16_mixed_quantize", json!({"enabled": true})),
    ] {
        assert_ne!(details(&with(key, value.clone())), base, "{key}: {value}");
    }
    refused(&with("enabled", json!(false)), &["recipe: asks for nothing"]);
    let defaults = details(&with("quantize_bits", json!({"target_bits": 8})));
    assert_eq!(defaults["start_bits"], json!(16));
    let mut recipe = with("quantize_schedule", json!({}));
    recipe["quantize_training"]["quantize_type"] = json!("symmetric");
    let defaults = details(&recipe);
    assert_eq!((&defaults["start"], &defaults["period"]), (&json!(100), &json!(100)));
}

#[test]
fn mistakes_in_the_older_block() {
    let block = "quantize_training";
    refused(
        &with("quantize_bits", json!({"start_bits": 12})),
        &[
            &format!("{block}.quantize_bits.start_bits: 12 bits at the start are fewer than 16 at the end"),
            &format!("{block}.quantize_bits.target_bits: 16 is not a bit width of 1 to 8"),
        ],
    );
    refused(
        &with("quantize_bits", json!({"start_bits": 12, "target_bits": -1})),
        &[
            &format!("{block}.quantize_bits.target_bits: expected a non-negative integer, found -1"),
            &format!("{block}.quantize_bits.start_bits: 12 bits at the start are fewer than 16 at the end"),
            &format!("{block}.quantize_bits.target_bits: 16 is not a bit width of 1 to 8"),
        ],
    );
    refused(
        &with("quantize_type", json!("asymmetric")),
        &[&format!("{block}.quantize-algo.q_type: says otherwise than `{block}.quantize_type`")],
    );
    refused(
        &with("quantize_groups", json!(5)),
        &[
            &format!("{block}.quantize_groups: conv: 5 groups do not divide 72"),
            &format!("{block}.quantize_groups: layer.1.fc: 5 groups do not divide 128"),
            &format!("{block}.quantize_groups: layer.10.fc: 5 groups do not divide 128"),
        ],
    );
    refused(
        &with("quantize_bit", json!(5)),
        &[&format!("{block}.quantize_bit: unknown key `quantize_bit`, did you mean `quantize_bits`?")],
    );
    let mut twice = tutorial();
    twice[ROOT] = weights(json!({}), bits(8))[ROOT].clone();
    let found = problems(&twice);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].ends_with("layer.1.fc: already claimed by quantize_training"), "{found:?}");
}

/// Problems, and what the plan says of eigenvalues, for a model with the list `layer` of two blocks.
fn planned(recipe: &Value) -> (Vec<String>, Option<(usize, Vec<String>)>) {
    let mut model = view();
    for (site, name) in model.sites.iter_mut().skip(2).zip(["layer.0.fc", "layer.1.fc"]) {
        (site.name, site.path) = (name.into(), format!("body.{name}"));
    }
    model.lists = vec![BlockList { name: "layer".into(), path: "body.layer".into(), len: 2 }];
    match Composer::<Flex>::builtin().plan(&Recipe::from_value(recipe), &model) {
        Ok(plan) => {
            let paths = plan.eigenvalue_blocks().iter().map(|b| b.path.clone()).collect();
            assert_eq!(plan.eigenvalue().is_some(), plan.to_json().get("eigenvalue").is_some());
            (Vec::new(), plan.eigenvalue().map(|e| (e.layer_num, paths)))
        }
        Err(found) => (found.iter().map(|d| d.to_string()).collect(), None),
    }
}

fn native(eigenvalue: Value, settings: Value) -> Value {
    json!({"eigenvalue": eigenvalue, "steps": [{ "weight_quantization": settings }]})
}

#[test]
fn eigenvalues_name_the_blocks_of_the_model() {
    let blocks = || Some((2, vec!["body.layer.0".to_string(), "body.layer.1".to_string()]));
    let settings = json!({"on": ["layer.**"], "bits": 8, "start_bits": 12, "period": 3});
    let layer = |num: usize| json!({"layer_name": "layer", "layer_num": num});
    assert_eq!(planned(&native(layer(0), settings.clone())), (vec![], blocks()));
    assert_eq!(planned(&native(layer(2), settings.clone())), (vec![], blocks()));
    let number = "eigenvalue.layer_num: 3 is not 2, the number of layers in `layer`, or 0";
    assert_eq!(planned(&native(layer(3), settings.clone())).0, [number]);
    let name = "eigenvalue.layer_name: `bert.encoder.layer` is not a list of layers; the model has `layer`";
    assert_eq!(planned(&native(json!({}), settings.clone())).0, [name]);
    let enabled = "eigenvalue.enabled: unknown key `enabled`";
    assert_eq!(planned(&native(json!({"layer_name": "layer", "enabled": true}), settings)).0, [enabled]);
    let mut moq =
        with("eigenvalue", json!({"enabled": true, "verbose": true, "layer_name": "layer", "stability": 0}));
    assert_eq!(planned(&moq), (vec![], blocks()));
    moq["eigenvalue"] = json!({"enabled": true, "layer_name": "layer"});
    assert_eq!(planned(&moq).0, ["quantize_training.eigenvalue: already claimed by eigenvalue"]);
    let mut beside = tutorial();
    beside["eigenvalue"] = json!({"enabled": true, "layer_name": "layer"});
    assert_eq!(planned(&beside), (vec![], blocks()));
    beside["eigenvalue"] = json!({"enabled": false, "layer_name": "nowhere"});
    assert_eq!(planned(&beside), (vec![], None));
}

#[test]
fn eigenvalues_that_would_change_nothing_are_refused() {
    let nothing = "eigenvalue: would change nothing: no layer in `layer` has bits that fall by a period";
    for settings in [
        json!({"on": ["layer.**"], "bits": 8}),
        json!({"on": ["layer.**"], "bits": 8, "start_bits": 12, "end": 3}),
        json!({"on": ["conv"], "bits": 8, "start_bits": 12, "period": 3}),
    ] {
        assert_eq!(planned(&native(json!({"layer_name": "layer"}), settings)).0, [nothing]);
    }
}
