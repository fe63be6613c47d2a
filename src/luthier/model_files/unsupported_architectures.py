"""The error for a config.json of an architecture that is not supported: what it would need, and what to do."""

from __future__ import annotations

from collections.abc import Iterable

from luthier.errors import LuthierError

# what is not there, and the model_types in transformers that need it
NEEDS = {
    "layers that are no attention (state spaces, convolutions or recurrences)": """bamba falcon_h1 falcon_mamba jamba
        lfm2 lfm2_moe mamba mamba2 nemotron_h recurrent_gemma rwkv xlstm zamba zamba2""",
    "linear attention": "bailing_hybrid kimi_linear minimax olmo_hybrid qwen3_5 qwen3_5_moe qwen3_5_text qwen3_next",
    "a gate on the shared expert": "qwen2_moe",
    "layer norms without weights": "olmo",
    "norms over all heads beside experts": "olmoe flex_olmo",
    "queries that grow with their position beside YaRN": "ministral3 mistral4",
    "positions as a slope of the scores (ALiBi)": "bloom mpt",
    "learned positions that begin at 2": "opt",
    "blocks in parallel under one norm without bias": "cohere cohere2 command-r",
    "an encoder: only models that continue a text open": """albert bart bert deberta deberta_v2 distilbert electra mbart
        modernbert mpnet mt5 roberta t5 xlm_roberta""",
    "images or sound": """gemma3n idefics3 llava llava_next mistral3 mllama paligemma phi4_multimodal qwen2_5_vl
        qwen2_audio qwen2_vl qwen3_vl smolvlm whisper""",
}
NEED_OF = {kind: need for need, kinds in NEEDS.items() for kind in kinds.split()}


def unsupported(asked: object, model_type: object, known: Iterable[str]) -> LuthierError:
    """The error for a class or model_type that no family has. known: the model_types that open."""
    need = NEED_OF.get(model_type) if isinstance(model_type, str) else None
    needs = f" (it needs {need})" if need is not None else ""
    there = ", ".join(dict.fromkeys(known))
    return LuthierError(
        f"config.json: no architecture {asked!r:.60} here{needs}; there are {there}: take a model of one of these, or "
        "open this one with transformers"
    )
