"""Sinks, capped scores and routers of other families beside `transformers`' own code for them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as gemma2_attention
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward as gpt_oss_attention
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from luthier.model.cores.eager import EagerCore
from luthier.model.dropout import Dropout
from luthier.model.hook_point import HookPoint
from luthier.model.router import GroupedSigmoidRouter, SoftmaxRouter

CLOSE = {"atol": 1e-6, "rtol": 1e-5}


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("softcap", "sinks"), [(20.0, None), (None, draw(9, 4))])
def test_capped_scores_and_sinks(softcap: float | None, sinks: torch.Tensor | None) -> None:
    q, k, v = draw(1, 2, 4, 7, 8) * 4, draw(2, 2, 2, 7, 8), draw(3, 2, 2, 7, 8)
    theirs = gemma2_attention if sinks is None else gpt_oss_attention
    module = SimpleNamespace(num_key_value_groups=2, training=False, sinks=sinks, head_dim=8)
    hidden = torch.full((7, 7), float("-inf")).triu(1)[None, None]
    expected, weights = theirs(module, q, k, v, hidden, scaling=0.3, softcap=softcap)
    published, point = [], HookPoint()
    point.register_forward_hook(lambda _, inputs, output: published.append(output))
    found = EagerCore()(q, k, v, None, scale=0.3, softcap=softcap, sinks=sinks, dropout=Dropout(0.0), weights=point)
    assert_close(found.transpose(1, 2), expected, **CLOSE)
    assert_close(published[0], weights, **CLOSE)


def agree(router: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Same experts with the same weights, in any order."""
    with torch.no_grad():
        theirs.weight.copy_(draw(1, *theirs.weight.shape))
        router.weight.copy_(theirs.weight)
    x = draw(2, 50, theirs.weight.shape[1])
    logits, weights, chosen = theirs(x)
    found = router(x)
    assert_close(found.logits, logits, **CLOSE)
    dense = [
        torch.zeros_like(logits).scatter(1, ids, of) for ids, of in ((chosen, weights), (found.chosen, found.weights))
    ]
    assert_close(dense[1], dense[0], **CLOSE)


@pytest.mark.parametrize("normalized", [True, False])
def test_routers_of_qwen3(normalized: bool) -> None:
    config = SimpleNamespace(num_experts_per_tok=3, num_experts=8, norm_topk_prob=normalized, hidden_size=16)
    agree(SoftmaxRouter(16, 8, 3, over="chosen" if normalized else "all"), Qwen3MoeTopKRouter(config))


def test_the_router_of_gpt_oss() -> None:
    config = SimpleNamespace(num_experts_per_tok=3, num_local_experts=8, hidden_size=16)
    theirs, router = GptOssTopKRouter(config), SoftmaxRouter(16, 8, 3, bias=True)
    with torch.no_grad():
        theirs.bias.copy_(draw(3, 8))
        router.bias.copy_(theirs.bias)
    agree(router, theirs)


@pytest.mark.parametrize("normalized", [True, False])
def test_the_router_of_deepseek_v3(normalized: bool) -> None:
    config = SimpleNamespace(
        num_experts_per_tok=3, num_local_experts=8, hidden_size=16, routed_scaling_factor=2.5, n_group=4, topk_group=2,
        norm_topk_prob=normalized,
    )  # fmt: skip
    theirs = DeepseekV3TopkRouter(config)
    router = GroupedSigmoidRouter(16, 8, 3, n_groups=4, groups_per_token=2, normalize=normalized, scale=2.5)
    with torch.no_grad():
        theirs.e_score_correction_bias.copy_(0.3 * draw(3, 8))
        router.balance.copy_(theirs.e_score_correction_bias)
    agree(router, theirs)
