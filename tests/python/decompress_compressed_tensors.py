"""Reads an artefact with the `compressed-tensors` package and with plain numpy, and compares.

    python tests/python/decompress_compressed_tensors.py ARTEFACT_DIR [SOURCE_DIR]

For every weight that `quantization_config` of ARTEFACT_DIR/config.json covers:

1. the tensors are exactly those of its format, with the right types and shapes;
2. the package's decompressor gives the values that an independent reading of the layout gives;
3. with SOURCE_DIR, the values are as far from the weight the artefact was made from as its own
   briquette.json says, no more and no less. Leave SOURCE_DIR out when training or layer removal
   moved the weights on purpose.

Ends with 0 when all holds or a package is missing (SKIP), 1 when something differs, 2 when the
folders cannot be judged.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import judge

judge.require("numpy", "torch", "safetensors", "compressed_tensors")

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors import safe_open

# How far the error found here may be from the one the manifest states, relative to the latter.
ERROR_TOLERANCE = 1e-3
TOLERANCE = 1e-6
SUFFIXES = (
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_shape",
    "weight_zero_point",
    "input_scale",
    "input_zero_point",
)
# GPT-2 checkpoints store these as `[in, out]`; artefacts store every packed weight as `[out, in]`.
INPUT_MAJOR = ("c_attn", "c_proj", "c_fc", "q_attn")


class Tensors:
    """All tensors of a model folder by name."""

    def __init__(self, folder):
        self.files = {}
        for path in judge.weight_files(folder):
            handle = safe_open(path, framework="pt")
            self.files.update({name: handle for name in handle.keys()})

    def __contains__(self, name):
        return name in self.files

    def names(self):
        return self.files.keys()

    def get(self, name):
        return self.files[name].get_tensor(name)


def quantized_modules(tensors):
    """Modules that hold a weight scale, in the file's order."""
    suffix = ".weight_scale"
    return [name[: -len(suffix)] for name in tensors.names() if name.endswith(suffix)]


def matches(target, module):
    """Whether a target means this module: exact name, `re:` pattern, or a class name.

    Classes are not known here, so a class name (no dot) means every module nothing else names.
    """
    if target.startswith("re:"):
        return re.match(target[3:], module) is not None
    return target == module


def scheme_of(module, groups):
    """The scheme that covers a module: an exact or `re:` target before a class name."""
    for scheme in groups.values():
        if any(matches(target, module) for target in scheme.targets):
            return scheme
    for scheme in groups.values():
        if any(target in ("Linear", "Embedding") for target in scheme.targets):
            return scheme
    return None


def unpacked(words, columns, bits):
    """Codes of rows packed as dense little-endian bit streams: `[rows, columns]` from int32 words."""
    rows = words.shape[0]
    stream = np.ascontiguousarray(words).astype("<i4").view(np.uint8).reshape(rows, -1)
    flat = np.unpackbits(stream, axis=1, bitorder="little")[:, : columns * bits]
    weights = (1 << np.arange(bits)).astype(np.int64)
    return flat.reshape(rows, columns, bits).astype(np.int64) @ weights


def expected_shapes(scheme, form, rows, columns):
    """`suffix -> (dtype, shape)` of the tensors a module must have; dtype None: any float."""
    weights, inputs = scheme.weights, scheme.input_activations
    per_row = columns // weights.group_size if weights.strategy == "group" else 1
    shapes = {"weight_scale": (None, [rows, per_row])}
    if form == "pack-quantized":
        shapes["weight_packed"] = (torch.int32, [rows, -(-columns * weights.num_bits // 32)])
        shapes["weight_shape"] = (torch.int64, [2])
    else:
        shapes["weight"] = (torch.int8, [rows, columns])
    if not weights.symmetric:
        packed_rows = -(-rows * weights.num_bits // 32)
        packed = form == "pack-quantized"
        shapes["weight_zero_point"] = (
            (torch.int32, [packed_rows, per_row]) if packed else (torch.int8, [rows, per_row])
        )
    if inputs is not None and not inputs.dynamic:
        shapes["input_scale"] = (None, [1])
        if not inputs.symmetric:
            shapes["input_zero_point"] = (torch.int8, [1])
    return shapes


def layout_problems(state, shapes):
    """What is missing, too many, of the wrong type or shape."""
    problems = [f"{name} is missing" for name in shapes if name not in state]
    problems += [f"{name} should not be there" for name in state if name not in shapes]
    for name, (dtype, shape) in shapes.items():
        if name not in state:
            continue
        tensor = state[name]
        if list(tensor.shape) != shape:
            problems.append(f"{name} has shape {list(tensor.shape)}, expected {shape}")
        if dtype is None and not tensor.dtype.is_floating_point:
            problems.append(f"{name} is {tensor.dtype}, expected a float type")
        if dtype is not None and tensor.dtype != dtype:
            problems.append(f"{name} is {tensor.dtype}, expected {dtype}")
        if dtype is None and not bool((torch.isfinite(tensor) & (tensor > 0)).all()):
            problems.append(f"{name} has values that are not finite and positive")
    return problems


def plain_values(state, scheme, form, rows, columns):
    """The weight by the layout alone: `(code - zero) * scale` in the scale's own float type."""
    bits, half = scheme.weights.num_bits, 1 << (scheme.weights.num_bits - 1)
    scale = state["weight_scale"].to(torch.float32).numpy()
    zero = np.zeros_like(scale, dtype=np.int64)
    if form == "pack-quantized":
        codes = unpacked(state["weight_packed"].numpy(), columns, bits) - half
        if "weight_zero_point" in state:
            zero = unpacked(state["weight_zero_point"].numpy().T, rows, bits).T - half
    else:
        codes = state["weight"].numpy().astype(np.int64)
        if "weight_zero_point" in state:
            zero = state["weight_zero_point"].numpy().astype(np.int64)
    if codes.min() < -half or codes.max() >= half:
        raise ValueError(f"codes {codes.min()}..{codes.max()} do not fit {bits} bits")
    repeat = columns // scale.shape[1]
    centred = codes - np.repeat(zero, repeat, axis=1)
    values = centred.astype(np.float32) * np.repeat(scale, repeat, axis=1)
    return torch.from_numpy(values).to(state["weight_scale"].dtype)


def package_values(state, scheme, form):
    """The weight as the package reads it."""
    state = dict(state)
    zero = state.get("weight_zero_point")
    if form == "pack-quantized" and zero is not None and zero.shape[0] == 1:
        # Version 0.20.0 fails on its own layout when one word holds a whole column of 4-bit zero
        # points, unless the stride of that single row is 1. The values are the same.
        state["weight_zero_point"] = zero.as_strided(zero.shape, (1, 1))
    return BaseCompressor.get_value_from_registry(form).decompress(state, scheme)["weight"]


def source_weight(source, module, model_type):
    """The float weight as `[out, in]`, or None where the source has none."""
    name = f"{module}.weight"
    if name not in source:
        return None
    weight = source.get(name).to(torch.float32)
    transposed = model_type == "gpt2" and module.rsplit(".", 1)[-1] in INPUT_MAJOR
    return weight.T if transposed else weight


def stated_errors(folder):
    """The relative error of every packed layer as briquette.json states it."""
    manifest = Path(folder) / "briquette.json"
    if not manifest.is_file():
        return {}
    layers = json.loads(manifest.read_text())["layers"]
    return {layer["name"]: layer["relative_error"] for layer in layers}


def source_problems(values, weight, stated):
    """Relative error against the source as text, and what is wrong with it."""
    if weight is None:
        return "not in the source", ["the source has no weight of this name"]
    if weight.shape != values.shape:
        return f"source is {list(weight.shape)}", []
    norm = weight.norm().item()
    error = (values.to(torch.float32) - weight).norm().item() / (norm if norm > 0 else 1.0)
    if stated is None:
        return f"source error {error:.5f}", []
    other = not abs(error - stated) <= ERROR_TOLERANCE * stated + TOLERANCE
    problems = [f"error {error:.6f} against the source, the manifest says {stated:.6f}"] if other else []
    return f"source error {error:.5f}", problems


def judge_module(module, tensors, scheme, form, source, model_type, stated):
    """One line about a module, and its problems."""
    state = {
        suffix: tensors.get(f"{module}.{suffix}")
        for suffix in SUFFIXES
        if f"{module}.{suffix}" in tensors
    }
    if form == "pack-quantized" and "weight_shape" in state:
        shape = [int(n) for n in state["weight_shape"]]
    else:
        shape = list(state["weight"].shape) if "weight" in state else None
    if shape is None or len(shape) != 2:
        return "no readable shape", [f"{form}: weight or weight_shape is missing or not of rank 2"]
    group = scheme.weights.group_size
    if scheme.weights.strategy == "group" and shape[1] % group != 0:
        return "groups", [f"groups of {group} do not divide {shape[1]} columns"]
    problems = layout_problems(state, expected_shapes(scheme, form, *shape))
    if problems:
        return "layout", problems
    try:
        plain = plain_values(state, scheme, form, *shape)
        theirs = package_values(state, scheme, form)
    except (RuntimeError, ValueError) as problem:
        return "unreadable", [str(problem)]
    gap = (theirs.to(torch.float64) - plain.to(torch.float64)).abs()
    if theirs.shape != plain.shape or bool((gap > TOLERANCE * plain.abs()).any()):
        problems.append(f"package and layout differ by up to {gap.max().item()}")
    bits = scheme.weights.num_bits
    line = f"{form} {bits} bits {scheme.weights.strategy} {shape}"
    if source is not None:
        text, wrong = source_problems(plain, source_weight(source, module, model_type), stated)
        line, problems = f"{line}, {text}", problems + wrong
    return line, problems


def config_problems(config, tensors):
    """What is wrong with the configuration as a whole."""
    problems = []
    formats = {scheme.format for scheme in config.config_groups.values() if scheme.format}
    summary = "mixed-precision" if len(formats) > 1 else next(iter(formats), config.format)
    if config.format != summary:
        problems.append(f"format is {config.format!r}, the groups say {summary!r}")
    if config.quantization_status != "compressed":
        problems.append(f"quantization_status is {config.quantization_status!r}")
    modules = set(quantized_modules(tensors))
    for name, scheme in config.config_groups.items():
        for target in scheme.targets:
            named = "." in target or target not in ("Linear", "Embedding")
            if named and not any(matches(target, module) for module in modules):
                problems.append(f"{name}: target {target!r} matches no weight in the file")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artefact")
    parser.add_argument("source", nargs="?")
    options = parser.parse_args()
    raw = judge.read_config(options.artefact)
    if "quantization_config" not in raw:
        judge.refuse(f"{options.artefact}/config.json has no quantization_config")
    try:
        config = QuantizationConfig.model_validate(raw["quantization_config"])
    except ValueError as problem:
        print(f"problem: quantization_config: {problem}")
        sys.exit(1)
    tensors = Tensors(options.artefact)
    source = Tensors(options.source) if options.source else None
    failures = [f"quantization_config: {text}" for text in config_problems(config, tensors)]
    modules = quantized_modules(tensors)
    stated = stated_errors(options.artefact)
    for module in modules:
        scheme = scheme_of(module, config.config_groups)
        if scheme is None:
            failures.append(f"{module}: no config group covers it")
            continue
        form = scheme.format or config.format
        line, problems = judge_module(
            module, tensors, scheme, form, source, raw.get("model_type"), stated.get(module)
        )
        print(f"{'ok  ' if not problems else 'FAIL'} {module}: {line}")
        failures += [f"{module}: {text}" for text in problems]
    if not modules:
        failures.append("no tensor named *.weight_scale in the file")
    for failure in failures:
        print(f"problem: {failure}")
    print(f"{len(modules)} weights, {len(failures)} problems")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
