"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from luthier.architectures.initialise import empty_embedding, initialise_normal
from luthier.model.attention import Attention
from luthier.model.feed_forward import ExactGELUFeedForward, FeedForward
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """GPT-2's shape. The defaults are the smallest published model."""

    vocab_size: int = 50_257
    """Entries of the vocabulary."""
    context_length: int = 1024
    """Tokens: the learned positions end there."""
    dim: int = 768
    """Width of the residual stream."""
    n_layers: int = 12
    """Blocks."""
    n_heads: int = 12
    """Attention heads; must divide dim."""
    norm_eps: float = 1e-5
    """Added to the variance in layer norm."""
    qkv_bias: bool = True
    """Biases on queries, keys and values; "LLMs from scratch" leaves them out."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix."""
    dropout: float = 0.1
    """Probability, in training only: embeddings, attention weights and both residual branches."""
    embedding_std: float = 0.02
    """Spread of the first embeddings. GPT-2 has 0.02, and 0.01 for positions; another value is that of both."""
    hidden_dim: int | None = None
    """Width of the feed-forward; 4 * dim unless given."""
    exact_gelu: bool = False
    """The exact GELU in the feed-forward; GPT-2 itself has its tanh form."""
    scale_by_layer: bool = False
    """Divide the attention scores of layer i, counted from 1, by i as well."""


SIZES = {
    "gpt2-124m": Config(),
    "gpt2-355m": Config(dim=1024, n_layers=24, n_heads=16),
    "gpt2-774m": Config(dim=1280, n_layers=36, n_heads=20),
    "gpt2-1558m": Config(dim=1600, n_layers=48, n_heads=25),
    # the model of the course and of "LLMs from scratch": untied output, no bias on q, k and v, and first embeddings as
    # large as PyTorch's own: with 0.02, ten epochs on a short story teach it how often each word comes and no more
    "gpt2-course": Config(qkv_bias=False, tie_embeddings=False, embedding_std=1.0),
    # for a CPU: the vocabulary is that of the tokenizer
    "gpt2-nano": Config(vocab_size=512, context_length=128, dim=128, n_layers=4, n_heads=4, dropout=0.0),
    "gpt2-micro": Config(vocab_size=2048, context_length=256, dim=192, n_layers=6, n_heads=6, dropout=0.0),
    "gpt2-mini": Config(vocab_size=4096, context_length=256, dim=384, n_layers=7, n_heads=6, dropout=0.1),
}


def build(config: Config) -> Transformer:
    """Parts joined as GPT-2 joins them, with weights that are not yet set (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config, layer) for layer in range(config.n_layers)],
        nn.LayerNorm(config.dim, eps=config.norm_eps),
        position_embedding=empty_embedding(config.context_length, config.dim),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config, layer: int) -> Block:
    """Block number `layer`, counted from 0. They are equal but for the scale of scores, where the config says so."""
    feed_forward = ExactGELUFeedForward if config.exact_gelu else FeedForward
    scale = (config.dim // config.n_heads) ** -0.5 / (layer + 1) if config.scale_by_layer else None
    return Block(
        nn.LayerNorm(config.dim, eps=config.norm_eps),
        Attention(config.dim, config.n_heads, scale=scale, bias=config.qkv_bias, out_bias=True, dropout=config.dropout),
        nn.LayerNorm(config.dim, eps=config.norm_eps),
        feed_forward(config.dim, config.hidden_dim or 4 * config.dim),
        dropout=config.dropout,
    )


def initialise(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """GPT-2's: N(0, 0.02), positions N(0, 0.01) as in OpenAI's code, residual outputs / sqrt(2 n_layers)."""
    initialise_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)
    as_published = config.embedding_std == 0.02
    if not as_published:
        model.embedding.weight.data.normal_(0, config.embedding_std, generator=generator)
    if model.position_embedding is not None:
        spread = 0.01 if as_published else config.embedding_std
        model.position_embedding.weight.data.normal_(0, spread, generator=generator)
