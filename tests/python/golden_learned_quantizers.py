"""Writes tests/golden/learned_quantizers.json: quantized weights and their gradients, by PyTorch's autograd.

    python tests/python/golden_learned_quantizers.py [OUTPUT]

Each case holds settings of `weight_quantization`, the number of optimizer steps done, and, for the loss
`sum(upstream * quantized)`, the quantized weight and the gradients to the weight and to the learned scale. The
formulas are written as in the papers, with PyTorch's own derivatives; LSQ is the pseudocode of its appendix A.
"""

import json
import pathlib
import sys

import judge

judge.require("torch")

import torch

ROWS, COLUMNS = 6, 16


def sample(offset):
    """Uneven values of both signs, `[ROWS, COLUMNS]`."""
    t = torch.arange(ROWS * COLUMNS, dtype=torch.float64) + offset
    values = torch.sin(t * 0.7311) * (0.3 + 0.2 * torch.cos(t * 0.1931)) + 0.01 * torch.cos(t * 2.9)
    return values.float().reshape(ROWS, COLUMNS)


def through(value, gradient):
    """The value of the one with the gradient of the other."""
    return (value - gradient).detach() + gradient


def round_pass(x):
    return through(torch.round(x), x)


def grad_scale(x, scale):
    return through(x, x * scale)


def first_scale(x, high):
    return 2 * x.abs().mean(1, keepdim=True) / high**0.5


def lsq(x, low, high, clipped):
    """LSQ; without clipping the weight's gradient passes everywhere."""
    scale = first_scale(x.detach(), high).requires_grad_()
    s = grad_scale(scale, 1 / (x.shape[1] * high) ** 0.5)
    values = round_pass(torch.clamp(x / s, low, high)) * s
    if not clipped:
        of_scale = round_pass(torch.clamp(x.detach() / s, low, high)) * s
        values = through(of_scale, x) + (of_scale - of_scale.detach())
    return values, scale


def signs(x):
    return torch.where(x >= 0, 1.0, -1.0)


def elastic(x, clipped):
    """BiT's elastic binarization without an offset."""
    scale = x.detach().abs().mean(1, keepdim=True).requires_grad_()
    s = grad_scale(scale, 1 / x.shape[1] ** 0.5)
    values = signs(x.detach()) * s
    reach = torch.clamp(x, -scale.detach(), scale.detach()) if clipped else x
    return values + (reach - reach.detach()), scale


def about_the_mean(x):
    centred = x - x.mean(1, keepdim=True)
    return signs(centred) * centred.abs().mean(1, keepdim=True)


def by_sign(x):
    return signs(x) * x.abs().mean(1, keepdim=True)


def ternary(x):
    above = (x.abs() > 0.7 * x.abs().mean(1, keepdim=True)).float()
    scale = (x.abs() * above).sum(1, keepdim=True) / above.sum(1, keepdim=True)
    return torch.sign(x) * above * scale


def symmetric(x, bits, deepspeed):
    half = 2 ** (bits - 1)
    levels, low = (half, -half) if deepspeed else (half - 1, 1 - half)
    scale = x.abs().amax(1, keepdim=True) / levels
    return torch.clamp(torch.round(x / scale), low, half - 1) * scale, low * scale, (half - 1) * scale


def straight(function, *arguments):
    """A quantizer whose gradient is the identity."""
    return lambda x: (through(function(x.detach(), *arguments), x), None)


def between(x, values, low, high):
    """`values`, with the gradient of `x` where it lies between `low` and `high`."""
    return through(values, x * ((x >= low) & (x <= high)).float())


def clipped(function):
    """A quantizer of two or three values whose gradient ends at the outermost ones."""

    def quantize(x):
        values = function(x.detach())
        high = values.abs().amax(1, keepdim=True)
        return between(x, values, -high, high), None

    return quantize


def clipped_symmetric(x):
    return between(x, *symmetric(x.detach(), 4, True)), None


def mixed(x, steps, ratio, bits):
    """DeepSpeed's fp16_mixed_quantize after some steps without a switch."""
    real = max(0.0, 1.0 - ratio * steps)
    quantized = through(symmetric(x.detach(), bits, False)[0], x)
    return real * x + (1 - real) * quantized, None


def cases():
    """Settings, steps done, and the quantizer that maps `[groups, length]` to values and learned scale."""
    for bits in (2, 3, 4, 8):
        high = max(2 ** (bits - 1) - 1, 1)
        learned = {"bits": bits, "scale": "learned"}
        yield learned, 0, lambda x, high=high: lsq(x, -high, high, True)
        yield {**learned, "gradient": "identity"}, 0, lambda x, high=high: lsq(x, -high, high, False)
    wide = {"bits": 3, "scale": "learned", "arithmetic": "deepspeed"}
    yield wide, 0, lambda x: lsq(x, -4, 3, True)
    yield {"bits": 4, "scale": "learned", "granularity": {"group_size": 4}}, 0, lambda x: lsq(x, -7, 7, True)
    yield {"bits": 2, "scale": "learned", "granularity": "tensor"}, 0, lambda x: lsq(x, -1, 1, True)
    yield {"bits": 1, "binarization": "elastic"}, 0, lambda x: elastic(x, False)
    yield {"bits": 1, "binarization": "elastic", "gradient": "clipped"}, 0, lambda x: elastic(x, True)
    yield {"bits": 1}, 0, straight(by_sign)
    yield {"bits": 1, "gradient": "clipped"}, 0, clipped(by_sign)
    yield {"bits": 1, "binarization": "mean_centred"}, 0, straight(about_the_mean)
    yield {"bits": 1, "binarization": "mean_centred", "granularity": "tensor"}, 0, straight(about_the_mean)
    yield {"bits": 2}, 0, straight(ternary)
    yield {"bits": 2, "gradient": "clipped"}, 0, clipped(ternary)
    yield {"bits": 4}, 0, straight(lambda x: symmetric(x, 4, False)[0])
    yield {"bits": 4, "arithmetic": "deepspeed", "gradient": "clipped"}, 0, clipped_symmetric
    yield {"bits": 8, "start_bits": 12, "period": 10}, 0, straight(lambda x: symmetric(x, 12, False)[0])
    yield {"bits": 8, "start_bits": 12, "period": 10}, 25, straight(lambda x: symmetric(x, 10, False)[0])
    yield {"bits": 4, "start_bits": 16, "end": 60}, 7, straight(lambda x: symmetric(x, 15, False)[0])
    yield {"bits": 4, "mixed": {"change_ratio": 0.25}}, 3, lambda x: mixed(x, 3, 0.25, 4)
    yield {"bits": 4, "mixed": {"change_ratio": 0.25}}, 9, lambda x: mixed(x, 9, 0.25, 4)


def groups(settings):
    granularity = settings.get("granularity", "channel")
    if granularity == "tensor":
        return 1
    return ROWS if granularity == "channel" else ROWS * COLUMNS // granularity["group_size"]


def numbers(tensor):
    """Decimals that parse to exactly these float32 values."""
    return [float(f"{v:.9g}") for v in tensor.flatten().tolist()]


def record(settings, steps, quantize, weight, upstream):
    leaf = weight.clone().requires_grad_()
    values, scale = quantize(leaf.reshape(groups(settings), -1))
    (values.reshape(ROWS, COLUMNS) * upstream).sum().backward()
    case = {"settings": settings, "steps": steps, "values": numbers(values), "gradient": numbers(leaf.grad)}
    if scale is not None:
        case["scale_gradient"] = numbers(scale.grad)
    return case


def main():
    default = pathlib.Path(__file__).resolve().parent.parent / "golden" / "learned_quantizers.json"
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    weight, upstream = sample(1), sample(500)
    # Outliers, far beyond the codes of a learned scale.
    weight[1, 3], weight[4, 0] = -2.5, 1.9
    recorded = [record(*case, weight, upstream) for case in cases()]
    content = {
        "made_by": f"tests/python/golden_learned_quantizers.py, torch {torch.__version__}",
        "shape": [ROWS, COLUMNS],
        "weight": numbers(weight),
        "upstream": numbers(upstream),
        "cases": recorded,
    }
    output.write_text(json.dumps(content) + "\n")
    print(f"{len(recorded)} cases in {output}")


if __name__ == "__main__":
    main()
