"""Writes TensorFlow checkpoints by the definition of their format (LevelDB's tables, tensor_bundle.proto)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

MAGIC = 0xDB4775248B80FB57
RESTART = 3  # keys between two that are written in full
FLOAT = 1
TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register = TABLE[(register ^ byte) & 0xFF] ^ register >> 8
    return register ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
    out, restarts, before = b"", [], b""
    for number, (key, value) in enumerate(pairs):
        shared = 0
        if number % RESTART:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    restarts = restarts or [0]
    return out + b"".join(at.to_bytes(4, "little") for at in [*restarts, len(restarts)])


def table(pairs: list[tuple[bytes, bytes]], block_size: int) -> bytes:
    """Sorted pairs in blocks of about so many bytes, an empty block of statistics, an index of blocks, a footer."""
    blocks: list[list[tuple[bytes, bytes]]] = [[]]
    for pair in sorted(pairs):
        if blocks[-1] and sum(len(key) + len(value) for key, value in blocks[-1]) > block_size:
            blocks.append([])
        blocks[-1].append(pair)
    out, handles = b"", []
    for content in [block(pairs) for pairs in blocks] + [block([])]:
        handles.append(varint(len(out)) + varint(len(content)))
        out += content + b"\0" + masked_crc(content + b"\0")
    index = block([(pairs[-1][0], handle) for pairs, handle in zip(blocks, handles, strict=False)])
    handles.append(varint(len(out)) + varint(len(index)))
    out += index + b"\0" + masked_crc(index + b"\0")
    return out + (handles[-2] + handles[-1]).ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def entry(dtype: int, shape: tuple[int, ...], offset: int, data: bytes) -> bytes:
    dims = b"".join(field(2, field(1, size)) for size in shape)
    where = field(3, 0) + field(4, offset) + field(5, len(data))
    return field(1, dtype) + field(2, dims) + where + varint(6 << 3 | 5) + masked_crc(data)


def write_bundle(prefix: Path, variables: dict[str, np.ndarray], block_size: int = 200) -> None:
    """PREFIX.index and PREFIX.data-00000-of-00001 with variables of float32."""
    pairs, data = [(b"", field(1, 1) + field(3, field(1, 1)))], b""
    for name, variable in sorted(variables.items()):
        content = variable.astype("<f4").tobytes()
        pairs.append((name.encode(), entry(FLOAT, variable.shape, len(data), content)))
        data += content
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(pairs, block_size))
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)


def openai_variables(peer) -> dict[str, np.ndarray]:
    """The weights of a GPT2LMHeadModel of transformers under OpenAI's names, matrices with a dimension 1 in front."""
    found = {}
    for name, weight in peer.transformer.state_dict().items():
        *path, kind = name.replace("h.", "h", 1).split(".")
        if name.startswith(("wte", "wpe")):
            theirs = path[0]
        else:
            theirs = "/".join([*path, {"weight": "g" if "ln_" in name else "w", "bias": "b"}[kind]])
        matrix = weight.ndim == 2 and "wte" not in name and "wpe" not in name
        found[f"model/{theirs}"] = (weight[None] if matrix else weight).numpy()
    return found


def write_openai_folder(folder: Path, peer, prefix: str = "model.ckpt") -> None:
    """hparams.json, checkpoint and the checkpoint's files, of a GPT2LMHeadModel."""
    folder.mkdir(parents=True, exist_ok=True)
    config = peer.config
    hparams = {"n_vocab": config.vocab_size, "n_ctx": config.n_positions, "n_embd": config.n_embd}
    (folder / "hparams.json").write_text(json.dumps({**hparams, "n_head": config.n_head, "n_layer": config.n_layer}))
    names = f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "{prefix}"\n'
    (folder / "checkpoint").write_text(names)
    write_bundle(folder / prefix, openai_variables(peer))
