//! Techniques that are read and checked only.

use super::*;

#[test]
fn pruning_of_deepspeed() {
    let prune = |name: &str, shared: Value, params: Value| {
        technique(name, with_enabled(shared), json!({"params": params, "modules": ["fc"]}))
    };
    let half = || json!({"dense_ratio": 0.5});
    for (name, method) in [
        ("sparse_pruning", "l1"),
        ("sparse_pruning", "topk"),
        ("row_pruning", "l1"),
        ("row_pruning", "topk"),
        ("channel_pruning", "l1"),
        ("channel_pruning", "topk"),
    ] {
        let line = format!("{name}.different_groups.g: {name} is not available in this version");
        refused(&prune(name, json!({"method": method}), half()), &[&line]);
    }
    refused(
        &prune("head_pruning", json!({"num_heads": 4}), half()),
        &["head_pruning.different_groups.g: head_pruning is not available in this version"],
    );
    refused(
        &prune("head_pruning", json!({}), half()),
        &["head_pruning.shared_parameters: missing key `num_heads`"],
    );
    refused(
        &prune("head_pruning", json!({"num_heads": 4, "method": "l1"}), half()),
        &["head_pruning.shared_parameters.method: `l1` is not one of topk"],
    );
    refused(
        &prune("row_pruning", json!({"method": "snip_momentum"}), half()),
        &["row_pruning.shared_parameters.method: `snip_momentum` is not one of l1, topk"],
    );
    refused(
        &prune("row_pruning", json!({}), json!({})),
        &["row_pruning.different_groups.g.params: missing key `dense_ratio`"],
    );
    for (ratio, text) in [(7.5, "7.5"), (0.0, "0"), (-0.5, "-0.5")] {
        let line = format!(
            "sparse_pruning.different_groups.g.params.dense_ratio: {text} is not a share to keep, over 0 and at \
             most 1"
        );
        refused(&prune("sparse_pruning", json!({}), json!({"dense_ratio": ratio})), &[&line]);
    }
    refused(
        &prune("sparse_pruning", json!({"schedule_offset": 10, "schedule_offset_end": 5}), half()),
        &["sparse_pruning.shared_parameters.schedule_offset_end: step 5 is before `schedule_offset` 10"],
    );
    let only = "has an effect with the method `snip_momentum` only";
    refused(
        &prune("sparse_pruning", json!({"block_pattern": "4x1"}), half()),
        &[&format!("sparse_pruning.shared_parameters.block_pattern: {only}")],
    );
}

#[test]
fn snip_momentum_of_deepspeed() {
    let snip = |mut shared: Value, groups: Value| {
        shared["method"] = json!("snip_momentum");
        json!({ ROOT: { "sparse_pruning":
            { "shared_parameters": with_enabled(shared), "different_groups": groups } } })
    };
    let place = "sparse_pruning.shared_parameters";
    let later = "sparse_pruning: sparse_pruning is not available in this version";
    refused(&snip(json!({"block_pattern": "2:4", "dense_ratio": 0.5}), json!({})), &[later]);
    for ratio in [json!(1.0), json!(0.0), json!(2.0)] {
        let line = format!("{place}.dense_ratio: {ratio} is not a share to keep, over 0 and below 1");
        let found = problems(&snip(json!({"dense_ratio": ratio}), json!({})));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].replace(".0 is", " is"), format!("{ROOT}.{line}").replace(".0 is", " is"));
    }
    for pattern in ["4", "x", "channelxchannel", "4:2", "0x1", "ax1"] {
        let found = problems(&snip(json!({"block_pattern": pattern}), json!({})));
        assert!(found.len() == 1 && found[0].contains("is not a block pattern"), "{pattern}: {found:?}");
    }
    refused(
        &snip(json!({"schedule_offset_stride": 0, "excluded_modules": ["("]}), json!({})),
        &[
            &format!("{place}.schedule_offset_stride: 0 is not at least 1"),
            &format!("{place}.excluded_modules[0]: pattern `(`: error: unclosed group"),
        ],
    );
    refused(
        &snip(json!({}), json!({"g": {"params": {"dense_ratio": 0.5}}})),
        &["sparse_pruning.different_groups: snip_momentum ranks the whole model and takes no groups"],
    );
}
