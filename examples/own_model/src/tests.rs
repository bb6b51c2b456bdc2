//! Training pays, and its weights are 4-bit ones.

#![allow(clippy::unwrap_used, reason = "a test fails where something is missing")]

use crate::*;
use std::collections::HashSet;

#[test]
fn training_wins_back_what_four_bits_lose() {
    let teacher = float();
    let untrained = plan(&teacher.valid()).unwrap().attach_weights(&teacher.valid(), 1).finish().unwrap();
    let trained = quantized(&teacher).unwrap();
    let [float, before, after] =
        [accuracy(&teacher.valid()), accuracy(&untrained.model), accuracy(&trained.model.valid())];
    // One arm of three is right by chance.
    assert!(float > 0.9, "{float}");
    assert!(after > before, "{after} after training, {before} before, {float} without quantization");
    assert!(
        float - after < 0.5 * (float - before),
        "{after} after training, {before} before, {float} in floats"
    );

    let names: Vec<&str> = trained.layers.iter().map(|l| l.site.name.as_str()).collect();
    assert_eq!(names, ["first", "second", "last"]);
    let weights = [&trained.model.first, &trained.model.second, &trained.model.last];
    for (layer, linear) in trained.layers.iter().zip(weights) {
        let coded = layer.coded().unwrap();
        assert_eq!((coded.bits, coded.group), (4, layer.site.shape[1]), "{}", layer.site.name);
        // burn's weight is [in, out]; a scale belongs to an output.
        let weight = linear.weight.val().transpose().into_data().into_vec::<f32>().unwrap();
        for row in weight.chunks(coded.group) {
            let values: HashSet<u32> = row.iter().map(|v| (v + 0.0).to_bits()).collect();
            assert!(values.len() <= 15, "{}: {} values in a row", layer.site.name, values.len());
        }
        assert!(weight.iter().any(|v| *v != 0.0), "{}", layer.site.name);
    }

    let again = quantized(&teacher).unwrap().model;
    let same =
        |a: &Linear<Training>, b: &Linear<Training>| a.weight.val().into_data() == b.weight.val().into_data();
    assert!(same(&trained.model.first, &again.first) && same(&trained.model.last, &again.last));
}
