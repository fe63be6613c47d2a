"""Load a model quantized. A GGUF file's quantized blocks are loaded without dequantizing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from luthier.architectures import registry
from luthier.errors import LuthierError
from luthier.formats.gguf_file import GGUFFile
from luthier.formats.weight_table import Rule, Table, to_internal
from luthier.model.overrides import must_be_called
from luthier.model_files import auto, gguf, gguf_int4
from luthier.model_files.partial_checkpoint import PartialCheckpoint
from luthier.model_files.weights import LoadedModel
from luthier.native.blocks import BITS, FILE_BLOCKS, BlockEmbedding, BlockLinear, Blocks, allocate_zeros, packed_size
from luthier.native.build import has_library
from luthier.quantize.quantize import Kind, is_wide, linears, quantize, replace
from luthier.tokenizers.formats.gguf_vocabulary import from_gguf

OUTER = ("embedding.weight", "output.weight")  # 8 bits even with "int4"


def read(path: Path, kind: Kind) -> LoadedModel:
    """Load any model on the CPU with quantized matrices, the rest in bfloat16: see `quantize`.

    A GGUF file's quantized matrices keep their blocks (native/blocks.py), except 8-bit ones with "int4". If the
    compiled library is not available, only "int4" keeps blocks of Q4_0 and Q4_1, whose scales are rounded from float16
    to bfloat16. Raises the errors of loading.
    """
    if gguf.recognizes(path) and has_library():
        return read_blocks(path, kind)
    if gguf.recognizes(path) and kind == "int4":
        return gguf_int4.read(path)
    opened = auto.read(path, torch.device("cpu"), torch.bfloat16)
    return opened._replace(model=quantize(opened.model, kind))


def read_blocks(path: Path, kind: Kind) -> LoadedModel:
    """Load a GGUF file as `gguf.read` does, without dequantizing supported matrices."""
    file = GGUFFile(path)
    try:
        config = gguf.read_config(file.fields, file)
        table = gguf.table_of(config)
        model = registry.build_on_meta(config)
        state = model.state_dict()
        shapes = {f"{name}.weight": tuple(linear.weight.shape) for name, linear in linears(model)}
        plain = not must_be_called(model.embedding, nn.Embedding)
        if plain and not (model.tie_embeddings and must_be_called(model.output, nn.Linear)):
            shapes["embedding.weight"] = tuple(model.embedding.weight.shape)
        kept = kept_rules(file, table, shapes, kind)
        external = {rule.external[0] for rule in kept}
        packed = dict(blocks_of(file, kept))
        weights = {
            name: tensor.to(torch.bfloat16)
            for name, tensor in to_internal(table, PartialCheckpoint(file, external), state)
            if not tensor.is_meta
        }  # fmt: skip
        for name, blocks in packed.items():
            bias = weights.pop(name.removesuffix("weight") + "bias", None)
            internal = name.removesuffix(".weight")
            if internal == "embedding":
                model.set_submodule("embedding", BlockEmbedding(blocks))
                internal = "output" if model.tie_embeddings else ""
            if internal:
                replace(model, internal, BlockLinear(blocks, bias, wide=is_wide(internal)))
        tokenizer = from_gguf(file.fields)
    except LuthierError as error:
        raise LuthierError(f"{path}: {error}") from None
    registry.assign_weights(model, {**weights, **{n: t for n, t in model.state_dict().items() if not t.is_meta}})
    return LoadedModel(quantize(model, kind), config, tokenizer)


def kept_rules(file: GGUFFile, table: Table, shapes: dict[str, tuple[int, ...]], kind: Kind) -> list[Rule]:
    """The rules whose tensor keeps the file's blocks.

    Most rules only permute rows, so they can be applied to rows of bytes. A rule that does more would give other
    shapes: then the matrix is dequantized and quantized again.
    """
    kept = []
    for rule in table.rules:
        [name, *more] = rule.external
        info = file.infos.get(name)
        if more or info is None or info.kind.name not in FILE_BLOCKS or len(info.shape) != 2:
            continue
        if kind == "int4" and BITS[info.kind.name] > 6 and rule.internal[0] not in OUTER:
            continue
        block, block_bytes = FILE_BLOCKS[info.kind.name]
        moved = [
            rule.to_internal([torch.empty(info.shape[0], width, device="meta")])
            for width in (info.shape[1], info.shape[1] // block * block_bytes)
        ]
        wanted = [shapes.get(internal) for internal in rule.internal]
        if wanted == [tuple(whole.shape) for whole in moved[0]] and wanted == [
            (len(part), part.shape[1] // block_bytes * block) for part in moved[1]
        ]:
            kept.append(rule)
    return kept


def blocks_of(file: GGUFFile, rules: Sequence[Rule]) -> Iterator[tuple[str, Blocks]]:
    """The matrices in the file's blocks, by internal name, read one at a time."""
    wanted = [
        (file.infos[rule.external[0]].kind.name, len(part), part.shape[1])
        for rule in rules
        for part in rule.to_internal([torch.empty(file.infos[rule.external[0]].shape, device="meta")])
    ]
    numbers = allocate_zeros([packed_size(kind, rows, columns) for kind, rows, columns in wanted])
    made = iter([Blocks(*each, at) for each, at in zip(wanted, numbers, strict=True)])
    for rule in rules:
        [their] = rule.external
        _, data = file.raw(their)
        for internal, rows in zip(rule.internal, rule.to_internal([torch.from_numpy(data)]), strict=True):
            blocks = next(made)
            blocks.pack_rows(rows)
            yield internal, blocks
        file.release(file.infos[their])
