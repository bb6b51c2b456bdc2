"""What the judges share: leaving early when a package is missing, and reading a folder."""

import importlib.util
import json
import pathlib
import sys


def require(*packages):
    """Prints SKIP with the reason and leaves with 0 unless every package can be imported."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        print(f"SKIP {pathlib.Path(sys.argv[0]).name}: no Python package {', '.join(missing)}")
        sys.exit(0)


def refuse(message):
    """Ends with 2: what was handed in cannot be judged at all."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def read_config(folder):
    """`config.json` of a model folder."""
    path = pathlib.Path(folder) / "config.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        refuse(f"{path}: {problem}")


def weight_files(folder):
    """The safetensors files of a model folder: one, or the shards an index names."""
    folder = pathlib.Path(folder)
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = json.loads(index.read_text())["weight_map"].values()
        return [folder / shard for shard in sorted(set(shards))]
    refuse(f"{folder}: neither model.safetensors nor model.safetensors.index.json")
