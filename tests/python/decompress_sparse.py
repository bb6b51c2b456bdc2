"""Decompresses an artefact's pruned weights with compressed-tensors and compares them with the source's.

    python tests/python/decompress_sparse.py ARTEFACT_DIR SOURCE_DIR

Entries that are kept must be the source's bit for bit, and compressing the weight again must give the tensors of the
file. For artefacts that were pruned without training. Blocks have no form in that package and are left out. Its sparse
formats were removed in 0.15: without a version before that this says SKIP and succeeds.
"""

import json
import sys
from pathlib import Path

try:
    import torch
    from compressed_tensors.compressors.sparse_compressors.sparse_24_bitmask import Sparse24BitMaskTensor
    from compressed_tensors.compressors.sparse_compressors.sparse_bitmask import BitmaskTensor
    from safetensors.torch import load_file
except ImportError as error:
    print(f"SKIP: {error}")
    sys.exit(0)

artefact, source = (Path(folder) for folder in sys.argv[1:3])
stored = load_file(artefact / "model.safetensors")
original = load_file(source / "model.safetensors")
checked = 0
for record in json.loads((artefact / "briquette.json").read_text()).get("sparse", []):
    name = record["name"]
    if record["format"] == "sparse-bitmask":
        part = lambda key: stored[f"{name}.weight.{key}"]
        parts = {key: part(key) for key in ("compressed", "bitmask", "row_offsets")}
        dense = BitmaskTensor(shape=part("shape").tolist(), **parts).decompress()
        again = BitmaskTensor.from_dense(dense).dict(f"{name}.weight")
    elif record["format"] == "sparse-24-bitmask":
        part = lambda key: stored[f"{name}.{key}"]
        dense = Sparse24BitMaskTensor.from_compressed_data(
            part("shape"), part("compressed"), part("bitmask")
        ).decompress()
        again = Sparse24BitMaskTensor.from_dense(dense).dict(f"{name}.weight")
    else:
        continue
    weight, kept = original[f"{name}.weight"], dense != 0
    assert dense.shape == weight.shape, f"{name}: {dense.shape} and {weight.shape}"
    assert torch.equal(dense[kept], weight[kept]), f"{name}: kept entries differ"
    for key, tensor in again.items():
        assert tensor.dtype == stored[key].dtype and torch.equal(tensor, stored[key]), f"{key} differs"
    checked += 1
print(f"{checked} weights are those of the source where they are kept, and compress to the same tensors again")
