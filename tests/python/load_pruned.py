"""Loads a pruned artefact with Transformers and compares its logits with those of its source, masked.

    python tests/python/load_pruned.py FOLDER SOURCE REFERENCE [--max-difference X]

FOLDER is an artefact whose configuration says how large it is: one in which every layer lost as many rows.
SOURCE is the model that it was made from. REFERENCE is a `reference.safetensors` with `input_ids` (and
`attention_mask`). What `briquette.json` says is gone is set to zero in the source.

Ends with 0 when the folder loads without a missing, unexpected or mismatched tensor and the logits are the same
within the bound, or when a package is missing (SKIP); 1 otherwise; 2 when there is nothing to judge.
"""

import argparse
import json
import pathlib
import sys

import judge

judge.require("torch", "safetensors", "transformers")

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

CLASSES = {"bert": AutoModelForSequenceClassification, "gpt2": AutoModelForCausalLM}
COMPLAINTS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def indices(text):
    """`0-4,6` as a list."""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def mask(model, groups, input_major):
    """Sets what is gone to zero."""
    tensors = model.state_dict()
    for group in groups:
        gone = torch.tensor(sorted(set(range(group["of"])) - set(indices(group["kept"]))))
        for axis in group["axes"]:
            if axis["of"] != group["of"]:
                judge.refuse(f"{axis['tensor']}: its units are no single entries; only rows are judged here")
            tensor = tensors[axis["tensor"]]
            # The manifest counts axes of weights as [in, out].
            turned = tensor.dim() == 2 and not input_major
            tensor.index_fill_(1 - axis["axis"] if turned else axis["axis"], gone, 0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("source")
    parser.add_argument("reference")
    parser.add_argument("--max-difference", type=float, default=1e-4)
    options = parser.parse_args()
    model_type = judge.read_config(options.folder).get("model_type")
    if model_type not in CLASSES:
        print(f"SKIP load_pruned.py: Transformers has no class for model_type {model_type!r}")
        sys.exit(0)
    removed = json.loads((pathlib.Path(options.folder) / "briquette.json").read_text()).get("removed")
    if not removed:
        judge.refuse(f"{options.folder}: nothing was removed")
    reference = load_file(options.reference)
    inputs = {key: reference[key] for key in ("input_ids", "attention_mask") if key in reference}
    try:
        model, report = CLASSES[model_type].from_pretrained(
            options.folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    except (RuntimeError, ValueError, AttributeError, OSError) as problem:
        print(f"problem: {options.folder} does not load: {problem}")
        sys.exit(1)
    problems = [f"{kind}: {sorted(report[kind])}" for kind in COMPLAINTS if report.get(kind)]
    source = CLASSES[model_type].from_pretrained(options.source, dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        whole = source.eval()(**inputs).logits
        mask(source, removed["groups"], model_type == "gpt2")
        expected, logits = source(**inputs).logits, model.eval()(**inputs).logits
    difference = (logits - expected).abs().max().item()
    changed = (whole - expected).abs().max().item()
    print(f"largest logit difference {difference:.7f}; the mask changes logits by up to {changed:.4f}")
    if not difference <= options.max_difference:
        problems.append(f"logit difference {difference:.7f} above {options.max_difference}")
    if changed == 0.0:
        problems.append("the mask changes nothing")
    for problem in problems:
        print(f"problem: {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
