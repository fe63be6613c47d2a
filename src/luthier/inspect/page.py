"""One HTML page that shows what a model does with a text. It holds all that it needs: scripts, styles and numbers.

Whatever comes from a model or a text is in the page as JSON, and page.js shows it as text, never as HTML. A policy in
the page's head forbids any request.

Shapes: T tokens, L layers, H heads, E experts, k experts a token.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from luthier.inspect.lens import first_token_share, logit_lens, norms, score_tokens, top_candidates
from luthier.inspect.parts import measure
from luthier.inspect.recording import Recording, record
from luthier.inspect.shown import shown
from luthier.model.transformer import Transformer
from luthier.tokenizers.core.tokenizer import Tokenizer

ATTENTION_BYTES = 5_500_000  # of weights in a page; a third more in base64. With the charts' 4.8 MB that is under 15 MB
LAYER_CANDIDATES = 3  # that the logit lens shows
CANDIDATES = 10  # that the model shows at each place
SINK = 0.5  # a head with more of its attention than this on the first token is called a sink


def room(model: Transformer, at_most: int) -> int:
    """How many tokens a page of this model has room for: at most so many, and fewer for more heads."""
    heads = sum(block.attention.n_heads for block in model.layers)
    fitting = int((math.sqrt(1 + 8 * ATTENTION_BYTES / heads) - 1) / 2)  # T (T + 1) / 2 bytes a head
    table = model.position_embedding
    return max(1, min(at_most, fitting, at_most if table is None else table.num_embeddings))


def make_page(model: Transformer, tokenizer: Tokenizer, tokens: Sequence[int], *, name: str, note: str = "") -> str:
    """The page of a model reading tokens, at most `room` of them. name: the model's; note: shown under the title.

    Raises a LuthierError for no tokens, and for a token that the model does not have.
    """
    from jinja2 import Environment, StrictUndefined

    data = gather(model, tokenizer, tokens)
    home = files("luthier.inspect")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(read(home / "page.html"))
    return template.render(
        name=name.encode("utf-8", "replace").decode(),  # a file's name may be no Unicode
        note=note,
        data=data,
        facts=facts(model, data),
        sink=f"{SINK:.0%}",
        style=read(home / "page.css"),
        charts=read(files("plotly") / "package_data" / "plotly.min.js"),
        script=read(home / "page.js"),
    )


def read(resource: Any) -> str:
    """A file of a package."""
    text: str = resource.read_text(encoding="utf-8")
    return text


def gather(model: Transformer, tokenizer: Tokenizer, tokens: Sequence[int]) -> dict[str, Any]:
    """All numbers of the page."""
    ids = torch.tensor([list(tokens)], device=model.device)
    recording = record(model, ids)
    lens = logit_lens(model, recording, LAYER_CANDIDATES)
    scores = score_tokens(recording.logits, ids)
    best = top_candidates(recording.logits, CANDIDATES)
    lengths = norms(recording)
    share = first_token_share(recording)[:, 0]  # (L, H)
    parts, seconds = measure(model, ids)
    pieces = {int(number) for found in (ids, best.ids, lens.candidates.ids) for number in found.flatten()}
    return {
        "tokens": list(tokens),
        "pieces": {number: text_of(tokenizer, number) for number in sorted(pieces)},
        "breaks": [number for number in pieces if b"\n" in bytes_of(tokenizer, number)],
        "probability": rounded(scores.probability[0]),  # T - 1, of the second token on; so are rank and surprise
        "rank": scores.rank[0].tolist(),
        "surprise": rounded(scores.surprise[0]),
        "candidates": {"ids": best.ids[0].tolist(), "probabilities": rounded(best.probabilities[0])},  # (T, k)
        "attention": packed(recording),
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
    """The layers with experts: chosen and scores (T, k), load (E,)."""
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


def packed(recording: Recording) -> dict[str, Any]:
    """The attention weights, of each query those up to itself: whole numbers in base64, layer by layer, head by head.

    16 bits (weight * 65535, little-endian) where there is room, else 8 bits (square root * 255, finer where it is
    small).
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
    """A token's bytes. Vocabularies of models are rounded up: the ids that no token has stand for nothing."""
    return tokenizer.piece(token) if token < tokenizer.vocab_size else b""


def text_of(tokenizer: Tokenizer, token: int) -> str:
    """How a token is shown; by its id where it stands for nothing."""
    return shown(bytes_of(tokenizer, token)) or f"<{token}>"


def rounded(tensor: Tensor) -> Any:
    """The numbers, five digits each, in lists as the tensor has dimensions; None for what is no number."""
    return _rounded(tensor.float().tolist())


def _rounded(value: Any) -> Any:
    return [_rounded(each) for each in value] if isinstance(value, list) else number(value)


def number(value: float) -> float | None:
    """Five digits, or None for infinity and what is no number: JSON has neither."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def facts(model: Transformer, data: dict[str, Any]) -> list[tuple[str, str]]:
    """The line under the title: names and values."""
    block = model.layers[0]
    total, active = (sum(part[kind] for part in data["parts"]) for kind in ("parameters", "active"))
    heads = f"{block.attention.n_heads}"
    if block.attention.n_kv_heads != block.attention.n_heads:
        heads += f" ({block.attention.n_kv_heads} of keys and values)"
    lines = [
        ("parameters", f"{total:,}" + (f" ({active:,} active)" if active != total else "")),
        ("layers", f"{len(model.blocks)}"),
        ("dim", f"{model.embedding.embedding_dim:,}"),
        ("heads", heads),
        ("numbers", str(model.dtype).removeprefix("torch.")),
        ("tokens", f"{len(data['tokens'])}"),
    ]
    surprise = [bits for bits in data["surprise"] if bits is not None]
    if surprise:
        bits = sum(surprise) / len(surprise)
        lines.append(("surprise", f"{bits:.2f} bits a token"))
        lines.append(("perplexity", f"{2**bits:,.2f}" if bits < 100 else "-"))
    return lines
