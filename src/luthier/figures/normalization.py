"""Layer norm and RMS norm on the activations of a trained model. Shapes: T tokens, C dim."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luthier.figures.models import LONGER, Models, entering
from luthier.figures.picture import BLUE, GREEN, ORANGE, Picture, canvas, finish, plain_log, tidy
from luthier.model.norm import RMSNorm

TOKENS = 48


def activations(models: Models) -> Tensor:
    """Input of the middle block's first norm, (T, C)."""
    lm = models.lm
    ids = models.ids(lm, TOKENS, models.text + LONGER)
    blocks = lm.model.layers
    [x] = entering([blocks[len(blocks) // 2].attention_norm], lm, ids)
    return x.float()


@torch.no_grad()
def layernorm(models: Models) -> Picture:
    """Activations before and after layer norm, with each token's mean and variance."""
    before = activations(models)
    after: Tensor = nn.LayerNorm(before.shape[1], elementwise_affine=False)(before)
    means, variances = [x.mean(1) for x in (before, after)], [x.var(1, unbiased=False) for x in (before, after)]
    figure = canvas(11, 4)
    left, middle, right = figure.subplots(1, 3)
    # by quantile: a large model has a few activations a hundred times larger than all others
    spread = 2 * max(float(x.abs().flatten().quantile(0.98)) for x in (before, after))
    for x, color, name in ((before, BLUE, "before"), (after, ORANGE, "after")):
        left.hist(
            x.flatten().numpy(),
            80,
            range=(-spread, spread),
            density=True,
            histtype="step",
            lw=1.8,
            color=color,
            label=name,
        )
    tidy(left, "activation", "density", "activations of all tokens")
    left.legend(frameon=False)
    places = range(len(before))
    for axes, rows, name in ((middle, means, "mean"), (right, variances, "variance")):
        for values, color, marker in zip(rows, (BLUE, ORANGE), "os", strict=True):
            axes.plot(places, values, marker, ms=3.5, color=color)
        tidy(axes, "token", name, f"{name} of each token's activations")
    plain_log(right)
    caption = (
        "Layer norm normalizes the activations of each token to mean 0 and variance 1, before its learned scale and "
        f"shift; here the inputs of the middle block of a trained model ({before.shape[1]} per token)."
    )
    table = {"token": list(places)} | {
        f"{measure}_{when}": values.tolist()
        for measure, rows in (("mean", means), ("variance", variances))
        for when, values in zip(("before", "after"), rows, strict=True)
    }
    return finish("layernorm", "Layer norm", caption, figure, table)


@torch.no_grad()
def rmsnorm(models: Models) -> Picture:
    """RMS norm and layer norm on the same activations."""
    x = activations(models)
    dim = x.shape[1]
    rms_norm = RMSNorm(dim)
    columns = {"before": x, "layer_norm": nn.LayerNorm(dim, elementwise_affine=False)(x), "rms_norm": rms_norm(x)}
    means = {name: values.mean(1).tolist() for name, values in columns.items()}
    sizes = {name: values.square().mean(1).sqrt().tolist() for name, values in columns.items()}
    figure = canvas(11, 4)
    left, middle, right = figure.subplots(1, 3)
    places = list(range(len(x)))
    styles = {"before": (BLUE, "o"), "layer_norm": (ORANGE, "s"), "rms_norm": (GREEN, "^")}
    for axes, rows, y in ((left, means, "mean"), (middle, sizes, "root mean square")):
        for name, values in rows.items():
            color, marker = styles[name]
            axes.plot(places, values, marker, ms=3.5, color=color, label=name.replace("_", " "))
        tidy(axes, "token", y, f"{y} of each token's activations")
    plain_log(middle)
    left.legend(frameon=False, fontsize=8)
    right.plot(
        columns["layer_norm"].flatten(),
        columns["rms_norm"].flatten(),
        ".",
        ms=2,
        alpha=0.4,
        color=BLUE,
        rasterized=True,
    )
    ends = [float(columns["layer_norm"].min()), float(columns["layer_norm"].max())]
    right.plot(ends, ends, "--", lw=1, color=ORANGE, label="equal")
    tidy(right, "after layer norm", "after RMS norm", "each activation, either way")
    right.legend(frameon=False)
    caption = (
        "Both normalize a token's activations to unit size; layer norm subtracts the mean first, RMS norm does not and "
        "is cheaper, and with a small mean they are nearly equal (arXiv 1910.07467)."
    )
    table = {"token": places} | {f"mean_{k}": v for k, v in means.items()} | {f"rms_{k}": v for k, v in sizes.items()}
    return finish("rmsnorm", "RMS norm beside layer norm", caption, figure, table)
