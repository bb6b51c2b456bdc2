"""Writes tests/golden/compressed_tensors.json with the `compressed-tensors` package itself.

    python tests/python/golden_compressed_tensors.py [OUTPUT]

Each weight case holds a small float weight, the scales and zero points the package derives from it,
the tensors its compressor writes, and the values its decompressor reads back. The Rust tests rebuild
the written tensors from the codes and compare them bit for bit.

A second run with the same version writes the same bytes: weights come from a fixed formula.
"""

import json
import math
import pathlib
import sys

import torch
import compressed_tensors
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize, quantize
from compressed_tensors.quantization.utils import calculate_qparams

DTYPES = {torch.float32: "F32", torch.int8: "I8", torch.int32: "I32", torch.int64: "I64"}

# name, format, bits, symmetric, group (None: one scale for each row), [out, in]
#
# 4-bit asymmetric weights in groups have more than 8 rows here: the package (0.20.0) writes smaller
# ones but fails to read its own zero points back, because one word then holds a whole column of them.
WEIGHT_CASES = [
    ("int8_channel_symmetric", "int-quantized", 8, True, None, [4, 32]),
    ("int8_channel_asymmetric", "int-quantized", 8, False, None, [4, 32]),
    ("int8_group_symmetric", "int-quantized", 8, True, 8, [4, 32]),
    ("int8_group_asymmetric", "int-quantized", 8, False, 8, [4, 32]),
    ("pack1_channel_symmetric", "pack-quantized", 1, True, None, [3, 40]),
    ("pack2_channel_symmetric", "pack-quantized", 2, True, None, [4, 32]),
    ("pack2_group_asymmetric", "pack-quantized", 2, False, 16, [5, 32]),
    ("pack3_channel_symmetric", "pack-quantized", 3, True, None, [3, 20]),
    ("pack3_group_asymmetric", "pack-quantized", 3, False, 8, [13, 16]),
    ("pack4_channel_symmetric", "pack-quantized", 4, True, None, [4, 32]),
    ("pack4_channel_symmetric_odd", "pack-quantized", 4, True, None, [3, 21]),
    ("pack4_channel_asymmetric", "pack-quantized", 4, False, None, [9, 16]),
    ("pack4_group_symmetric", "pack-quantized", 4, True, 8, [4, 32]),
    ("pack4_group_asymmetric", "pack-quantized", 4, False, 8, [16, 32]),
    ("pack4_group_asymmetric_rows", "pack-quantized", 4, False, 16, [11, 32]),
    ("pack5_channel_symmetric", "pack-quantized", 5, True, None, [2, 33]),
    ("pack6_channel_symmetric", "pack-quantized", 6, True, None, [2, 33]),
    ("pack7_channel_symmetric", "pack-quantized", 7, True, None, [2, 33]),
    ("pack8_channel_symmetric", "pack-quantized", 8, True, None, [4, 32]),
    ("pack8_channel_asymmetric", "pack-quantized", 8, False, None, [5, 8]),
    ("pack8_group_asymmetric", "pack-quantized", 8, False, 8, [4, 32]),
]

# name, bits, scale, zero point (None: symmetric), input values
INPUT_CASES = [
    ("static8_symmetric", 8, 0.0123, None, 24),
    ("static8_asymmetric", 8, 0.0151, -17, 24),
    ("static4_symmetric", 4, 0.21, None, 24),
]


def sample(rows, columns, offset):
    """A weight `[rows, columns]` with both signs, uneven ranges in each row, exact in 16 bits."""
    index = torch.arange(rows * columns, dtype=torch.float64)
    values = torch.sin(index * 0.7311 + offset) * (1.0 + 0.37 * torch.cos(index * 0.1931))
    return values.to(torch.float16).to(torch.float32).reshape(rows, columns)


def ranges(weight, group):
    """Smallest and largest value of each group of columns, `[out, in / group]`."""
    rows, columns = weight.shape
    grouped = weight.reshape(rows, columns // (group or columns), group or columns)
    return grouped.amin(-1), grouped.amax(-1)


def described(tensor):
    """A tensor as dtype, shape and a flat list."""
    return {
        "dtype": DTYPES[tensor.dtype],
        "shape": list(tensor.shape),
        "data": tensor.flatten().tolist(),
    }


def weight_case(name, form, bits, symmetric, group, shape):
    """One weight, compressed and read back by the package."""
    arguments = QuantizationArgs(
        num_bits=bits,
        type="int",
        symmetric=symmetric,
        strategy="group" if group else "channel",
        group_size=group,
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments, format=form)
    weight = sample(*shape, offset=bits)
    scale, zero = calculate_qparams(*ranges(weight, group), arguments)
    codes = quantize(x=weight, scale=scale, zero_point=zero, args=arguments, dtype=torch.int8)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    compressor = BaseCompressor.get_value_from_registry(form)
    written = compressor.compress(state, scheme)
    values = compressor.decompress(written, scheme)["weight"]
    half = 1 << (bits - 1)
    return {
        "name": name,
        "format": form,
        "num_bits": bits,
        "symmetric": symmetric,
        "strategy": arguments.strategy,
        "group_size": group,
        "shape": shape,
        "weight": weight.flatten().tolist(),
        "codes": codes.flatten().tolist(),
        "codes_unsigned": (codes.to(torch.int32) + half).flatten().tolist(),
        "scales": scale.flatten().tolist(),
        "zeros": None if symmetric else zero.flatten().tolist(),
        "tensors": {key: described(value) for key, value in sorted(written.items())},
        "values": values.flatten().tolist(),
    }


def input_case(name, bits, scale, zero, count):
    """Static quantization of a layer's input with one stored scale for the whole tensor."""
    arguments = QuantizationArgs(
        num_bits=bits, type="int", symmetric=zero is None, strategy="tensor"
    )
    step = torch.tensor([scale], dtype=torch.float32)
    zero_point = None if zero is None else torch.tensor([zero], dtype=torch.int8)
    x = sample(1, count, offset=0.5).flatten() * 1.8
    codes = quantize(x=x, scale=step, zero_point=zero_point, args=arguments, dtype=torch.int8)
    values = fake_quantize(x=x, scale=step, zero_point=zero_point, args=arguments)
    return {
        "name": name,
        "num_bits": bits,
        "symmetric": zero is None,
        "input_scale": described(step),
        "input_zero_point": None if zero is None else described(zero_point),
        "x": x.tolist(),
        "codes": codes.tolist(),
        "values": values.tolist(),
    }


def finite(value):
    """Whether every number in nested lists is finite: JSON has no word for the others."""
    if isinstance(value, dict):
        return all(finite(item) for item in value.values())
    if isinstance(value, list):
        return all(finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def main():
    default = pathlib.Path(__file__).resolve().parent.parent / "golden" / "compressed_tensors.json"
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    document = {
        "made_by": "tests/python/golden_compressed_tensors.py",
        "compressed_tensors": compressed_tensors.__version__,
        "weights": [weight_case(*case) for case in WEIGHT_CASES],
        "inputs": [input_case(*case) for case in INPUT_CASES],
    }
    assert finite(document)
    cases = {"weights": [], "inputs": []}
    for kind in cases:
        cases[kind] = ",\n".join("  " + json.dumps(case) for case in document[kind])
    text = (
        "{\n"
        f' "made_by": {json.dumps(document["made_by"])},\n'
        f' "compressed_tensors": {json.dumps(document["compressed_tensors"])},\n'
        f' "weights": [\n{cases["weights"]}\n ],\n "inputs": [\n{cases["inputs"]}\n ]\n' + "}\n"
    )
    assert json.loads(text) == document
    output.write_text(text)
    print(f"{output}: {len(WEIGHT_CASES)} weights, {len(INPUT_CASES)} inputs")


if __name__ == "__main__":
    main()
