"""Loads a model folder with Transformers and compares its logits with stored ones.

    python tests/python/load_transformers.py FOLDER REFERENCE [--max-difference X] [--min-agreement Y]

REFERENCE is a `reference.safetensors` with `input_ids` (and `attention_mask`), and either `logits`
(`[batch, classes]`, text classification) or `logits_last16` (`[batch, 16, vocabulary]`, language
model). Meant for folders with plain float weights; one with packed weights is loaded as well as the
installed Transformers can, and then needs bounds that suit it.

Ends with 0 when the folder loads without a missing, unexpected or mismatched tensor and the logits
are within the bounds, or when a package is missing (SKIP); 1 otherwise; 2 when there is nothing to judge.
"""

import argparse
import pathlib
import sys

import judge

judge.require("torch", "safetensors", "transformers")

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

CLASSES = {"bert": AutoModelForSequenceClassification, "gpt2": AutoModelForCausalLM}
# What Transformers reports about a folder that does not hold exactly the model's tensors.
COMPLAINTS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def logits_of(model, reference):
    """Logits of the folder's model and the stored ones, cut to the same positions."""
    inputs = {"input_ids": reference["input_ids"]}
    if "attention_mask" in reference:
        inputs["attention_mask"] = reference["attention_mask"]
    with torch.no_grad():
        logits = model(**inputs).logits.float()
    if "logits_last16" in reference:
        return logits[:, -16:], reference["logits_last16"].float()
    return logits, reference["logits"].float()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("reference")
    parser.add_argument("--max-difference", type=float, default=0.01)
    parser.add_argument("--min-agreement", type=float, default=0.99)
    options = parser.parse_args()
    model_type = judge.read_config(options.folder).get("model_type")
    if model_type not in CLASSES:
        print(f"SKIP load_transformers.py: Transformers has no class for model_type {model_type!r}")
        sys.exit(0)
    if not pathlib.Path(options.reference).is_file():
        judge.refuse(f"{options.reference}: no such file")
    try:
        model, report = CLASSES[model_type].from_pretrained(
            options.folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    except (RuntimeError, ValueError, AttributeError, OSError) as problem:
        print(f"problem: {options.folder} does not load: {problem}")
        sys.exit(1)
    problems = [f"{kind}: {sorted(report[kind])}" for kind in COMPLAINTS if report.get(kind)]
    logits, expected = logits_of(model.eval(), load_file(options.reference))
    difference = (logits - expected).abs().max().item()
    agreement = (logits.argmax(-1) == expected.argmax(-1)).float().mean().item()
    print(f"largest logit difference {difference:.6f}, same best class {agreement:.4f}")
    if not difference <= options.max_difference:
        problems.append(f"logit difference {difference:.6f} above {options.max_difference}")
    if not agreement >= options.min_agreement:
        problems.append(f"agreement {agreement:.4f} below {options.min_agreement}")
    for problem in problems:
        print(f"problem: {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
