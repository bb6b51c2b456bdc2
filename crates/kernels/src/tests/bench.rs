use super::*;
use crate::*;
use std::time::Instant;
fn time<T>(name: &str, mut f: impl FnMut() -> T) {
    f();
    let mut best = f64::MAX;
    for _ in 0..8 { let t = Instant::now(); std::hint::black_box(f()); best = best.min(t.elapsed().as_secs_f64()); }
    eprintln!("{name:50} {:9.3} ms", best * 1e3);
}
#[test]
#[ignore]
fn bench() {
    for (m, k, n) in [(1, 768, 3072), (16, 768, 768), (128, 768, 768), (1024, 768, 3072), (1024, 3072, 768)] {
        let x = tensor(&values(m * k, 1), [m, k]);
        let w = tensor(&values(n * k, 2), [n, k]);
        let wt = tensor(&values(n * k, 2), [k, n]);
        let bias = tensor(&values(n, 3), [n]);
        time(&format!("{m}x{k}x{n} f32"), || x.clone().matmul(wt.clone()) + bias.clone().unsqueeze());
        time(&format!("{m}x{k}x{n} f32 transposed"), || x.clone().matmul(w.clone().transpose()) + bias.clone().unsqueeze());
        let q = TokenQuant { bits: 8, symmetric: true, full_range: false, range: None };
        let qa = TokenQuant { symmetric: false, ..q };
        for (bits, group) in [(8, k), (4, k), (4, 64), (3, k)] {
            let codes: Vec<u8> = (0..n * k).map(|i| (i * 37 % 251) as u8).collect();
            let p = PackedMatrix::<Flex>::new(pack_rows(&codes, n, k, bits), vec![0.01; n * k / group], vec![], bits, Code::Symmetric, [n, k], group, &Default::default());
            time(&format!("  W{bits} g{group} A8 sym"), || linear_quantized(x.clone(), q, &p, Some(bias.clone())));
            if bits == 8 { time(&format!("  W{bits} g{group} A8 asym"), || linear_quantized(x.clone(), qa, &p, Some(bias.clone()))); }
            time(&format!("  W{bits} g{group} only"), || linear_packed(x.clone(), &p, Some(bias.clone())));
            time(&format!("  W{bits} g{group} unpack"), || unpack(&p));
        }
        time("  fake quantize", || fake_quantize_rows(x.clone(), q));
        time("  fake quantize portable", || portable::fake_quantize_rows(x.clone(), q));
    }
    let (b, s, d) = (8, 128, 768);
    let x = tensor(&values(b * s * d, 1), [b, s, d]);
    let g = tensor(&values(d, 1), [d]);
    time("layer_norm 1024x768", || layer_norm(x.clone(), g.clone(), g.clone(), 1e-5));
    time("layer_norm portable", || portable::layer_norm(x.clone(), g.clone(), g.clone(), 1e-5));
    let y = tensor(&values(b * s * d * 4, 1), [b, s, d * 4]);
    time("gelu 1024x3072", || gelu(y.clone()));
    time("gelu 1024x3072 in place", || gelu(y.clone() * 1.0));
    time("copy", || y.clone() * 1.0);
    time("gelu portable", || portable::gelu(y.clone()));
    time("gelu_tanh", || gelu_tanh(y.clone()));
    time("gelu_tanh portable", || portable::gelu_tanh(y.clone()));
    for (b, h, s) in [(8, 12, 128), (1, 12, 128), (1, 12, 1024)] {
        let q = tensor(&values(b * h * s * 64, 1), [b, s, h, 64]).swap_dims(1, 2);
        let mask = tensor(&vec![0.0; b * s], [b, 1, 1, s]);
        time(&format!("attention {b} {h} {s} mask"), || attention(q.clone(), q.clone(), q.clone(), Some(mask.clone()), false, 0.125));
        time(&format!("attention {b} {h} {s} causal"), || attention(q.clone(), q.clone(), q.clone(), None, true, 0.125));
        time(&format!("attention {b} {h} {s} portable"), || portable::attention(q.clone(), q.clone(), q.clone(), Some(mask.clone()), false, 0.125));
    }
}
