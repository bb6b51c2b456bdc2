"""Writes tests/golden/deepspeed_vectors.json: DeepSpeed's quantizers on one small input.

    python tests/python/golden_deepspeed.py [OUTPUT]

The formulas of `deepspeed.compression` are evaluated step by step in float32, and the result is
checked here against decimals that a run of DeepSpeed itself printed. Literals in the file are the
shortest that parse to exactly the float32 value.
"""

import json
import pathlib
import sys

import judge

judge.require("numpy")

import numpy as np

F = np.float32
X = np.array([-1.0, -0.6, -0.25, 0.0, 0.1, 0.26, 0.5, 0.9], dtype=F)


def in_groups(x, groups):
    """Contiguous equal groups, `[groups, size]`."""
    return x.reshape(groups, -1)


def symmetric(x, bits, groups, bound=None):
    """`s = 2 max|x| / 2^b`, codes clamped to `-2^(b-1) ..= 2^(b-1) - 1`."""
    grouped, levels = in_groups(x, groups), 2**bits
    largest = np.abs(grouped).max(1, keepdims=True) if bound is None else F(bound)
    scale = F(2) * largest / F(levels)
    codes = np.clip(np.rint(grouped / scale), -(levels // 2), levels // 2 - 1)
    return (codes * scale).ravel()


def symmetric_static(x, bits, low, high):
    """As `symmetric` for the whole tensor, with `max(|low|, high)` in place of the largest value."""
    return symmetric(x, bits, 1, bound=max(abs(low), high))


def asymmetric(x, bits, groups):
    """`s = (max - min) / 2^b`, offset `round(min / s) * s`, codes clamped to `0 ..= 2^b - 1`."""
    grouped, levels = in_groups(x, groups), 2**bits
    low, high = grouped.min(1, keepdims=True), grouped.max(1, keepdims=True)
    scale = (high - low) / F(levels)
    offset = np.rint(low / scale) * scale
    codes = np.clip(np.rint((grouped - offset) / scale), 0, levels - 1)
    return (codes * scale + offset).ravel()


def ternary(x, groups):
    """`+-alpha` above 0.7 of the mean magnitude, 0 elsewhere; `alpha`: mean magnitude above it."""
    grouped = in_groups(x, groups)
    size = np.abs(grouped)
    threshold = F(0.7) * (size.sum(1, keepdims=True) / F(grouped.shape[1]))
    kept = size > threshold
    alpha = (size * kept).sum(1, keepdims=True) / kept.sum(1, keepdims=True).astype(F)
    return (np.sign(grouped) * kept * alpha).astype(F).ravel()


def binary(x, groups):
    """`sign(x)` times the mean magnitude; zeros stay zero."""
    grouped = in_groups(x, groups)
    mean = np.abs(grouped).sum(1, keepdims=True) / F(grouped.shape[1])
    return (np.sign(grouped) * mean).ravel()


def integer_codes(x, bits, size):
    """Codes `round((x - min) * scale)` with `scale = (2^b - 1) / (max - min)`, groups of `size`."""
    grouped = x.reshape(-1, size)
    low, high = grouped.min(1, keepdims=True), grouped.max(1, keepdims=True)
    scale = F(2**bits - 1) / (high - low)
    codes = np.rint((grouped - low) * scale).astype(int)
    if bits == 4:
        codes = codes[:, 0::2] * 16 + codes[:, 1::2]
    return codes.ravel().tolist(), scale.ravel(), low.ravel()


def moving_range(batches, momentum):
    """Range after each batch: the first as it is, later ones `m * range + (1 - m) * batch`."""
    ranges, current = [], None
    for low, high in batches:
        pair = np.array([low, high], dtype=F)
        current = pair if current is None else F(momentum) * current + F(1 - momentum) * pair
        ranges.append(current)
    return ranges


# name, method, bits, groups, further arguments, values printed by DeepSpeed
QUANTIZERS = [
    ("symmetric", 8, 1, {}, [-1, -0.6015625, -0.25, 0, 0.1015625, 0.2578125, 0.5, 0.8984375]),
    ("symmetric", 4, 1, {}, [-1, -0.625, -0.25, 0, 0.125, 0.25, 0.5, 0.875]),
    ("symmetric", 3, 1, {}, [-1, -0.5, -0.25, 0, 0, 0.25, 0.5, 0.75]),
    (
        "symmetric",
        8,
        2,
        {},
        [-1, -0.6015625, -0.25, 0, 0.0984375, 0.26015624, 0.49921873, 0.89296871],
    ),
    (
        "asymmetric",
        8,
        1,
        {},
        [-1.00195313, -0.60117185, -0.25234377, 0, 0.0964843, 0.25976563, 0.49726558, 0.890625],
    ),
    ("asymmetric", 4, 1, {}, [-0.95, -0.59375, -0.2375, 0, 0.11875, 0.2375, 0.475, 0.83125]),
    ("asymmetric", 4, 2, {}, [-1, -0.625, -0.25, -0.0625, 0.1, 0.25, 0.5, 0.85]),
    ("ternary", 2, 1, {}, [-0.75, -0.75, 0, 0, 0, 0, 0.75, 0.75]),
    ("ternary", 2, 2, {}, [-0.8, -0.8, 0, 0, 0, 0, 0.7, 0.7]),
    ("binary", 1, 1, {}, [-0.45125] * 3 + [0] + [0.45125] * 4),
    ("binary", 1, 2, {}, [-0.4625] * 3 + [0] + [0.44] * 4),
    (
        "symmetric_static",
        8,
        1,
        {"min": -1.0, "max": 0.5},
        [-1, -0.6015625, -0.25, 0, 0.1015625, 0.2578125, 0.5, 0.8984375],
    ),
    (
        "symmetric_static",
        8,
        1,
        {"min": -0.5, "max": -0.1},
        [-0.5, -0.5, -0.25, 0, 0.1015625, 0.26171875, 0.49609375, 0.49609375],
    ),
]


def evaluated(method, bits, groups, extra):
    """One quantizer on `X`."""
    if method == "symmetric":
        return symmetric(X, bits, groups)
    if method == "asymmetric":
        return asymmetric(X, bits, groups)
    if method == "ternary":
        return ternary(X, groups)
    if method == "binary":
        return binary(X, groups)
    return symmetric_static(X, bits, F(extra["min"]), F(extra["max"]))


def check(name, values, printed):
    """The values must be the printed decimals, up to the digits that were printed."""
    printed = np.array(printed, dtype=np.float64)
    gap = (np.abs(values.astype(np.float64) - printed) / np.maximum(1.0, np.abs(printed))).max()
    if values.dtype != F or not gap <= 1.2e-7:
        sys.exit(f"{name}: off by {gap}: {values.tolist()} against {printed.tolist()}")


def literals(values):
    """Shortest decimals that parse to exactly these float32 values."""
    texts = [np.format_float_positional(v, unique=True, trim="0") for v in np.atleast_1d(values)]
    for text, value in zip(texts, np.atleast_1d(values)):
        assert F(text) == value and F(float(text)) == value
    return [float(text) + 0.0 for text in texts]


def quantizer_case(method, bits, groups, extra, printed):
    values = evaluated(method, bits, groups, extra)
    check(f"{method} {bits} bits {groups} groups", values, printed)
    return {"method": method, "bits": bits, "groups": groups, **extra, "values": literals(values)}


def integer_case(bits, size, codes, scales, lows):
    found, scale, low = integer_codes(X, bits, size)
    assert found == codes, (found, codes)
    check(f"scale {bits} bits", scale, scales)
    check(f"min {bits} bits", low, lows)
    case = {"bits": bits, "group_size": size, "scale": literals(scale), "min": literals(low)}
    return {**case, "codes" if bits == 8 else "bytes": found}


def document():
    ranges = moving_range([(-1, 2), (-3, 4)], 0.95)
    for pair, printed in zip(ranges, [[-1, 2], [-1.1, 2.1]]):
        check("moving range", pair, printed)
    gradient = F(2) * symmetric(X, 4, 1)
    scores = np.array([0.3, -0.1, 0.8, 0.2], dtype=F)
    kept = np.argsort(-scores, kind="stable")[: int(np.ceil(0.5 * scores.size))]
    mask = [int(i in kept) for i in range(scores.size)]
    assert mask == [1, 0, 1, 0]
    return {
        "made_by": "tests/python/golden_deepspeed.py",
        "x": literals(X),
        "quantizers": [quantizer_case(*case) for case in QUANTIZERS],
        "straight_through": {
            "loss": "sum of squares of symmetric 4 bits, 1 group",
            "gradient": literals(gradient),
        },
        "top_k": {"scores": literals(scores), "keep": 0.5, "mask": mask},
        "moving_range": {
            "momentum": 0.95,
            "batches": [[-1.0, 2.0], [-3.0, 4.0]],
            "ranges": [literals(pair) for pair in ranges],
        },
        "integer": [
            integer_case(8, 4, [0, 102, 191, 255, 0, 51, 128, 255], [255, 318.75], [-1, 0.1]),
            integer_case(4, 4, [6, 191, 3, 143], [15, 18.75], [-1, 0.1]),
        ],
    }


def main():
    default = pathlib.Path(__file__).resolve().parent.parent / "golden" / "deepspeed_vectors.json"
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    made = document()
    lines = []
    for key, value in made.items():
        if isinstance(value, list) and isinstance(value[0], dict):
            items = ",\n".join("  " + json.dumps(item) for item in value)
            lines.append(f' "{key}": [\n{items}\n ]')
        else:
            lines.append(f' "{key}": {json.dumps(value)}')
    output.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    assert json.loads(output.read_text()) == made
    print(f"{output}: {len(made['quantizers'])} quantizers")


if __name__ == "__main__":
    main()
