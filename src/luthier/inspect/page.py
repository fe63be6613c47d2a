"""A self-contained HTML page of a model's activations on a text, with scripts, styles and data inline.

Data from a model or a text is embedded as JSON, and page.js inserts it as text, never as HTML. A Content Security
Policy in the page's head forbids any request.

Shapes: T tokens, L layers, H heads, E experts, k experts a token.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.inspect.lens import first_token_share, logit_lens, norms, score_tokens, top_candidates
from luthier.inspect.printable import printable
from luthier.inspect.profile import profile_modules
from luthier.inspect.recording import Recording, record
from luthier.model.transformer import Transformer
from luthier.pages.templates import render
from luthier.terminal.numbers import readable
from luthier.tokenizers.core.tokenizer import Tokenizer

ATTENTION_BYTES = 5_500_000  # of weights in a page; base64 adds a third. With the charts' 4.8 MB that is under 15 MB
LAYER_CANDIDATES = 3  # shown by the logit lens
CANDIDATES = 10  # shown for the model's own prediction at each position
SINK = 0.5  # a head with more than this share of its attention on the first token is called a sink


def max_tokens(model: Transformer, at_most: int) -> int:
    """Maximum number of tokens on a page of this model: `at_most`, or fewer with many heads."""
    heads = sum(block.attention.n_heads for block in model.layers)
    fitting = int((math.sqrt(1 + 8 * ATTENTION_BYTES / heads) - 1) / 2)  # T (T + 1) / 2 bytes per head
    table = model.position_embedding
    return max(1, min(at_most, fitting, at_most if table is None else table.num_embeddings))


def make_page(model: Transformer, tokenizer: Tokenizer, tokens: Sequence[int], *, name: str, note: str = "") -> str:
    """Render the page of a model run on at most `max_tokens` tokens. name: the model's; note: shown under the title.

    Raises a LuthierError if there are no tokens, or for a token outside the model's vocabulary.
    """
    data = gather(model, tokenizer, tokens)
    shown_name = name.encode("utf-8", "replace").decode()  # a file name may not be valid Unicode
    title = f"Inside {shown_name}"
    return render(
        "luthier.inspect", "page", title=title, data=data, name=shown_name, note=note, facts=summarize(model, data)
    )


def gather(model: Transformer, tokenizer: Tokenizer, tokens: Sequence[int]) -> dict[str, Any]:
    """Compute all data of the page."""
    ids = torch.tensor([list(tokens)], device=model.device)
    recording = record(model, ids)
    lens = logit_lens(model, recording, LAYER_CANDIDATES)
    scores = score_tokens(recording.logits, ids)
    best = top_candidates(recording.logits, CANDIDATES)
    lengths = norms(recording)
    share = first_token_share(recording)[:, 0]  # (L, H)
    parts, seconds = profile_modules(model, ids)
    pieces = {int(number) for found in (ids, best.ids, lens.candidates.ids) for number in found.flatten()}
    return {
        "tokens": list(tokens),
        "pieces": {number: text_of(tokenizer, number) for number in sorted(pieces)},
        "breaks": [number for number in pieces if b"\n" in bytes_of(tokenizer, number)],
        "probability": rounded(scores.probability[0]),  # T - 1, from the second token on; so are rank and surprise
        "rank": scores.rank[0].tolist(),
        "surprise": rounded(scores.surprise[0]),
        "candidates": {"ids": best.ids[0].tolist(), "probabilities": rounded(best.probabilities[0])},  # (T, k)
        "attention": pack_attention(recording),
        "sinks": {"share": rounded(share), "above": SINK},
        "lens": {  # (L + 1, T, 3) and (L + 1, T - 1)
            "ids": lens.candidates.ids[:, 0].tolist(),
            "probabilities": rounded(lens.candidates.probabilities[:, 0]),
            "rank": lens.scores.rank[:, 0].tolist(),
            "probability": rounded(lens.scores.probability[:, 0]),
        },
        "norms": {  # (L + 1, T), (L, T), (L, T)
            "residual": rounded(lengths.residual[:, 0]),
            "attention": rounded(lengths.attention[:, 0]),
            "feed_forward": rounded(lengths.feed_forward[:, 0]),
        },
        "routing": routing(recording),
        "parts": [
            {
                "name": part.name,
                "layer": part.layer,
                "parameters": part.parameters,
                "active": part.active,
                "ms": number(1000 * part.seconds),
            }
            for part in parts
        ],
        "ms": number(1000 * seconds),
    }


def routing(recording: Recording) -> list[dict[str, Any]]:
    """Layers with experts: chosen and scores (T, k), load (E,)."""
    return [
        {
            "layer": number,
            "chosen": layer.routing.chosen[0].tolist(),
            "scores": rounded(layer.routing.scores[0]),
            "load": layer.routing.load.tolist(),
        }
        for number, layer in enumerate(recording.layers)
        if layer.routing is not None
    ]


def pack_attention(recording: Recording) -> dict[str, Any]:
    """Attention weights of each query up to itself, as integers in base64, layer by layer, head by head.

    16 bits (weight * 65535, little-endian) if they fit, else 8 bits (square root * 255, finer for small
    weights).
    """
    T = recording.tokens.shape[1]
    heads = [layer.attention_weights.shape[1] for layer in recording.layers]
    wide = sum(heads) * T * (T + 1) <= ATTENTION_BYTES
    below = torch.ones(T, T, dtype=torch.bool).tril()
    chunks = []
    for layer in recording.layers:
        weights = layer.attention_weights[0].cpu().nan_to_num()[:, below]  # (H, T (T + 1) / 2)
        whole = (weights * 65535).round() if wide else (weights.sqrt() * 255).round()
        chunks.append(whole.numpy().astype("<u2" if wide else "u1").tobytes())
    return {"heads": heads, "bits": 16 if wide else 8, "weights": base64.b64encode(b"".join(chunks)).decode()}


def bytes_of(tokenizer: Tokenizer, token: int) -> bytes:
    """A token's bytes; empty for ids that pad the vocabulary."""
    return tokenizer.piece(token) if token < tokenizer.vocab_size else b""


def text_of(tokenizer: Tokenizer, token: int) -> str:
    """Printable text of a token, or its id if it has none."""
    return printable(bytes_of(tokenizer, token)) or f"<{token}>"


def rounded(tensor: Tensor) -> Any:
    """Nested lists of the numbers rounded to five significant digits; None for NaN and infinity."""
    return _rounded(tensor.float().tolist())


def _rounded(value: Any) -> Any:
    return [_rounded(each) for each in value] if isinstance(value, list) else number(value)


def number(value: float) -> float | None:
    """Round to five significant digits; None for NaN and infinity, which JSON lacks."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def summarize(model: Transformer, data: dict[str, Any]) -> list[tuple[str, str]]:
    """Summary under the title: (name, value) pairs."""
    block = model.layers[0]
    total, active = (sum(part[kind] for part in data["parts"]) for kind in ("parameters", "active"))
    heads = f"{block.attention.n_heads}"
    if block.attention.n_kv_heads != block.attention.n_heads:
        heads += f" ({block.attention.n_kv_heads} key-value)"
    lines = [
        ("parameters", f"{total:,}" + (f" ({active:,} active)" if active != total else "")),
        ("layers", f"{len(model.blocks)}"),
        ("dim", f"{model.embedding.embedding_dim:,}"),
        ("heads", heads),
        ("dtype", str(model.dtype).removeprefix("torch.")),
        ("tokens", f"{len(data['tokens'])}"),
    ]
    surprise = [bits for bits in data["surprise"] if bits is not None]
    if surprise:
        bits = sum(surprise) / len(surprise)
        lines.append(("surprise", f"{bits:.2f} bits per token"))
        lines.append(("perplexity", readable(2.0**bits if bits < 1000 else math.inf, 2)))
    return lines
