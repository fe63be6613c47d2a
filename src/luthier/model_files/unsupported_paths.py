"""Error messages for paths that no reader supports: what it is and what to do, in one line."""

from __future__ import annotations

import re
from pathlib import Path

from luthier.errors import LuthierError
from luthier.files.json_files import read_json
from luthier.files.kind_of_file import check_download

SUPPORTED = (
    "what opens is a training run, a folder of Hugging Face's (config.json, model.safetensors or pytorch_model.bin), "
    "Meta's (params.json, consolidated.00.pth) or OpenAI's (hparams.json, model.ckpt.index), a .gguf file, a .pth file "
    "of the book, or hf:ORG/NAME"
)
ON_THE_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
CACHED = re.compile(r"models--(?P<org>[\w.-]+?)--(?P<name>[\w.-]+)", re.ASCII)
# files of a model that may be pointers or pages
DOWNLOADED = ("*.safetensors", "*.bin", "*.pth", "*.gguf", "*.json", "*.model", "vocab.bpe", "*.index", "merges.txt")
SHARD = re.compile(r"(model|pytorch_model)-\d+-of-\d+\.(safetensors|bin)")
MAX_FILES = 500
MODEL_CONFIGS = ("config.json", "params.json", "hparams.json", "adapter_config.json")
OTHER_FILES = (
    *MODEL_CONFIGS,
    *("generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "checkpoint"),
)
OTHER_WEIGHTS = {
    "tf_model.h5": "TensorFlow's",
    "flax_model.msgpack": "Flax's",
    "rust_model.ot": "those of rust-bert",
    "model.onnx": "ONNX's",
    "pytorch_model.pt": "a file of PyTorch under a name that is not read",
}


def check_files(path: Path) -> None:
    """Raise a LuthierError if a file of a model is a Git LFS pointer or a web page."""
    if path.is_file():
        check_download(path)
    elif path.is_dir():
        files = [file for pattern in DOWNLOADED for file in path.glob(pattern) if file.is_file()]
        for file in sorted(files)[:MAX_FILES]:
            check_download(file)


def unsupported_path(path: Path) -> LuthierError:
    """The error for a path that no reader recognizes."""
    if not path.exists():
        near = f"; did you mean hf:{path}?" if ON_THE_HUB.fullmatch(str(path)) else f": {SUPPORTED}"
        return LuthierError(f"there is no {path}{near}")
    what = describe_folder(path) if path.is_dir() else describe_file(path)
    return LuthierError(f"{path} {what}" if what else f"{path} holds no model that can be read: {SUPPORTED}")


def describe_file(path: Path) -> str | None:
    """Describe an unsupported file, and what to open instead."""
    folder = path.parent
    if path.suffix in (".safetensors", ".bin", ".pth", ".pt", ".h5", ".msgpack") or path.name.endswith(".index.json"):
        if any((folder / name).is_file() for name in MODEL_CONFIGS):
            return f"is one file of a model: open its folder, {folder}"
        if path.suffix == ".safetensors":
            return "is a file of weights alone: it opens in a folder with the model's config.json beside it"
    if path.name in OTHER_FILES or ".ckpt." in path.name:
        return f"is one file of a model: open its folder, {folder}"
    if path.suffix in (".zip", ".gz", ".tar", ".tgz", ".xz", ".zst", ".7z"):
        return "is an archive: unpack it, and open the folder"
    if path.suffix == ".onnx":
        return "is a model for ONNX, which is not read: take the original weights (config.json, model.safetensors)"
    return None


def describe_folder(path: Path) -> str | None:
    """Describe an unsupported folder, and what to open instead."""
    if cached := CACHED.fullmatch(path.resolve().name):
        return f"is where the hub's cache keeps a model: open hf:{cached['org']}/{cached['name']}"
    inside = sorted(item.name for item in [*path.glob("models--*"), *path.glob("hub/models--*")])
    if found := [match for match in map(CACHED.fullmatch, inside) if match]:
        cached = found[0]
        return f"is a cache of the hub: open a model of it by its name, such as hf:{cached['org']}/{cached['name']}"
    if files := sorted(path.glob("*.gguf")):
        more = f", or another of its {len(files)} .gguf files" if len(files) > 1 else ""
        return f"is a folder with a .gguf file in it: open that file, {files[0]}{more}"
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        return describe_adapter(path / "adapter_config.json")
    shards = sorted(item.name for item in path.iterdir() if SHARD.fullmatch(item.name))
    if shards:
        index = f"{shards[0].partition('-')[0]}.{shards[0].rpartition('.')[2]}.index.json"
        missing = "config.json" if (path / index).is_file() else index
        return f"holds {shards[0]} and no {missing}: download that file too, it is a part of the model"
    if (path / "params.json").is_file() and "hidden_dim" in read_json(path / "params.json"):
        return MISTRAL
    for name, whose in OTHER_WEIGHTS.items():
        if (path / name).is_file():
            return f"holds weights in {name} ({whose}), which are not read: take model.safetensors of the same model"
    has_config = (path / "config.json").is_file()
    if has_config:
        return "has a config.json and no weights beside it: download model.safetensors (or pytorch_model.bin) too"
    if list(path.glob("*.safetensors")) or (path / "pytorch_model.bin").is_file():
        return "holds weights and no config.json, which says what model they are: download that file too"
    return None


MISTRAL = (
    "is a model in Mistral's own format (a params.json with hidden_dim), which is not read: take the folder of the "
    "same model in Hugging Face's format (config.json, model.safetensors)"
)


def describe_adapter(path: Path) -> str:
    """Describe a PEFT adapter, and what to open instead."""
    base = read_json(path).get("base_model_name_or_path")
    of = f" of {base!r:.100}" if isinstance(base, str) and base else ""
    return (
        f"is a PEFT adapter{of}, not a whole model: merge it into its model with PEFT (merge_and_unload, then "
        "save_pretrained) and open that"
    )
