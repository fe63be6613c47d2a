"""Parameters of the published sizes of the families that are further from Llama."""

from __future__ import annotations

DENSE = {
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma2-27b": 27_227_128_320,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "gemma3-4b": 3_880_263_168,
    "gemma3-12b": 11_766_034_176,
    "gemma3-27b": 27_009_346_304,
    "phi3-3.8b": 3_821_079_552,
    "phi3-14b": 13_960_238_080,
    "phi4-mini-3.8b": 3_836_021_760,
    "phi4-14b": 14_659_507_200,
    "pythia-14m": 14_067_712,
    "pythia-31m": 30_494_720,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "gptneox-20b": 20_554_567_680,
    "stablelm-3b": 2_795_443_200,
    "stablelm2-1.6b": 1_644_515_328,
    "stablelm2-12b": 12_143_185_920,
    "gptj-6b": 6_050_882_784,
    "nanochat-d20": 560_988_160,
    "nanochat-d26": 1_081_999_360,
    "nanochat-d32": 1_879_048_192,
}
# all, and those that are used for a token
MIXTURES = {
    "gpt-oss-20b": (20_914_757_184, 4_187_440_704),
    "gpt-oss-120b": (116_829_156_672, 5_711_982_912),
    "deepseek-v2-lite": (15_706_484_224, 2_661_150_208),
    "deepseek-v2": (235_741_434_880, 21_375_800_320),
    "deepseek-v3": (671_026_419_200, 37_552_297_472),
}
