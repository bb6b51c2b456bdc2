"""Exports a BERT classifier to ONNX, and times it with onnxruntime.

    python tests/python/bench_onnxruntime.py export MODEL_DIR float|int8 OUT_DIR
    python tests/python/bench_onnxruntime.py time OUT_DIR --batch N --seq N --json FILE

`int8` is onnxruntime's dynamic quantization with a scale for each output, the fastest of its forms. Times
are of forward passes on all processors, as `briquette bench` takes them.

Ends with 0, after a line with SKIP when a package is missing; 1 when something fails.
"""

import argparse
import json
import os
import pathlib
import time

import judge

BUDGET_SECONDS = 5
RUNS = (5, 50)


def export(arguments):
    judge.require("torch", "transformers", "onnx", "onnxruntime")
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(arguments.model, attn_implementation="eager")

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model.float().eval()

        def forward(self, ids, mask):
            return self.model(input_ids=ids, attention_mask=mask).logits

    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / "model.onnx"
    plain = arguments.out / "float.onnx" if arguments.form == "int8" else target
    ones = torch.ones(2, 16, dtype=torch.long)
    axes = {name: {0: "batch", 1: "seq"} for name in ("ids", "mask")}
    torch.onnx.export(
        Logits(), (ones, ones), str(plain), input_names=["ids", "mask"], output_names=["logits"],
        dynamic_axes=axes, opset_version=17, dynamo=False,
    )
    if arguments.form == "int8":
        quantize_dynamic(str(plain), str(target), weight_type=QuantType.QInt8, per_channel=True)
        plain.unlink()


def measure(arguments):
    judge.require("numpy", "onnxruntime")
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    path = str(arguments.model / "model.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shape = (arguments.batch, arguments.seq)
    ids = (numpy.arange(shape[0] * shape[1], dtype=numpy.int64) * 7919 % 20000 + 999).reshape(shape)
    inputs = {"ids": ids, "mask": numpy.ones(shape, dtype=numpy.int64)}

    def once():
        begin = time.perf_counter()
        session.run(None, inputs)
        return (time.perf_counter() - begin) * 1e3

    once(), once()
    begin, times = time.perf_counter(), []
    while len(times) < RUNS[1] and (len(times) < RUNS[0] or time.perf_counter() - begin < BUDGET_SECONDS):
        times.append(once())
    times.sort()
    result = {"min_ms": times[0], "median_ms": times[len(times) // 2], "runs": len(times),
              "onnxruntime": onnxruntime.__version__}
    arguments.json.write_text(json.dumps(result))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("export")
    command.add_argument("model", type=pathlib.Path)
    command.add_argument("form", choices=("float", "int8"))
    command.add_argument("out", type=pathlib.Path)
    command.set_defaults(run=export)
    command = commands.add_parser("time")
    command.add_argument("model", type=pathlib.Path)
    command.add_argument("--batch", type=int, required=True)
    command.add_argument("--seq", type=int, required=True)
    command.add_argument("--json", type=pathlib.Path, required=True)
    command.set_defaults(run=measure)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
