"""Pre-tokenizers by the names that GGUF files have for them (`tokenizer.ggml.pre`).

The names are llama.cpp's; the reference for their meaning are the models' tokenizer.json or tiktoken files. llama.cpp
implements them with its own regular expressions and splits some texts differently: for `llama4` and `tekken`,
combining marks (Hindi, Arabic, ...) are not part of words and only ASCII capitals are recognized; for `qwen2` and
`qwen35`, accents are not composed (NFC); for `tiny_aya`, spaces before digits are split differently. transformers'
GGUF reader supports only some of the names: for `smollm` it does not split digits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Regex
from tokenizers import Tokenizer as Backend
from tokenizers.normalizers import NFC, Normalizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers

from luthier.errors import LuthierError, remark
from luthier.tokenizers.core.steps import steps, without_cleaning
from luthier.tokenizers.formats.tiktoken_model import ENDINGS, FAMILIES, LLAMA3_WORDS, LLAMA4_WORDS

THREE_DIGITS, ONE_DIGIT = r"\p{N}{1,3}", r"\p{N}"
QWEN2_WORDS = LLAMA3_WORDS.replace(THREE_DIGITS, ONE_DIGIT)
TEKKEN_WORDS = LLAMA4_WORDS.replace(THREE_DIGITS, ONE_DIGIT).replace(f"{ENDINGS}?", "")
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DEFAULT_WORDS = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", "[0-9][0-9][0-9]")

GROUPS = {  # names with the same meaning, by the one of them that is written
    "gpt-2": "gpt-2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe gigachat a.x-4.0 "
    "mellum modern-bert mpt olmo jais trillion granite-docling exaone4",
    "smollm": "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
    "llama-bpe": "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    "dbrx": "dbrx smaug-bpe chatglm-bpe",
    "glm4": "glm4 glm5",
    "llama4": "llama4 gpt-4o kanana2 talkie minimax-m2 granite-embed-multi-97m",
    "qwen2": "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez",
    "qwen35": "qwen35",
    "hunyuan": "hunyuan stablelm2 solar-open grok-2",
    "tekken": "tekken",
    "deepseek-llm": "deepseek-llm",
    "deepseek-coder": "deepseek-coder",
    "deepseek-v3": "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    "spark2_5": "spark2_5",
    "youtu": "youtu",
    "falcon": "falcon",
    "bloom": "bloom poro-chat gpt3-finnish",
    "viking": "viking",
    "chameleon": "chameleon",
    "tiny_aya": "tiny_aya cohere2moe",
    "superbpe": "superbpe",
    "bailingmoe": "bailingmoe bailingmoe2 llada-moe",
    "seed-coder": "seed-coder",
    "ufakzeka": "ufakzeka",
    "laguna": "laguna",
    "exaone-moe": "exaone-moe",
    "minicpm5": "minicpm5",
    "jais-2": "jais-2",
    "default": "default",
}
NAMES = {name: written for written, names in GROUPS.items() for name in names.split()}
# vocabularies of these names are not written in bytes, so that nothing here reads them
NOT_BYTES = ("gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace")

LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"  # one sign may stand before them
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
HAN_AND_KANA = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"
HAN_AND_HANGUL = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+"
ASCII_SIGNS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
DEEPSEEK3 = rf"{ASCII_SIGNS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+"
BLOOM_WORDS = r" ?[^(\s|.,!?…。，、।۔،)]+"
# letters of scripts that have capitals, as DeepSeek's tokenizer.json lists them
CASED = (
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}"
    r"\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}"
    r"\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}"
    r"\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-"
    r"\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}"
    r"\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}"
    r"\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-"
    r"\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-"
    r"\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-"
    r"\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}"
    r"\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-"
    r"\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}"
    r"\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}"
)


class Words(NamedTuple):
    """The pre-tokenization of a name."""

    pre_tokenizer: PreTokenizer
    normalizer: Normalizer | None = None
    takes_whole: bool = False  # a word that is a token is encoded as that token, even if merges do not lead to it
    adds_bos: bool = False  # whether to add the bos token if the file does not say


def words_of(name: str) -> Words:
    """The pre-tokenization of a name. Warns about an unknown one, and uses "default".

    Raises LuthierError for a name whose vocabularies are not byte-level.
    """
    if name in NOT_BYTES:
        raise LuthierError(
            f"the GGUF file's vocabulary of the kind {name!r} (tokenizer.ggml.pre) is not byte-level and cannot be read"
        )
    if name not in NAMES:
        remark(
            f"the GGUF file's way to cut words, {name!r:.80} (tokenizer.ggml.pre), is not known here: they may be cut "
            "wrongly"
        )
    return _meaning(NAMES.get(name, "default"))


def unnamed(tokens: Sequence[str], architecture: object) -> str:
    """The name for a file that has none: Llama 3's, Llama 4's and GPT-2's files may be older than the setting.

    "default", with a warning, for any other.
    """
    if architecture == "gpt2":
        return "gpt-2"
    for family, name in ((FAMILIES["llama3"], "llama-bpe"), (FAMILIES["llama4"], "llama4")):
        size = family.ranks + len(family.special_tokens())
        if len(tokens) >= size and tokens[family.ranks] == family.special_tokens()[0]:
            return name
    remark(
        "the GGUF file does not say how its model cuts words (tokenizer.ggml.pre): they may be cut wrongly. "
        "Take a newer file of the model"
    )
    return "default"


def _meaning(name: str) -> Words:
    match name:
        case "gpt-2":
            return Words(ByteLevel(add_prefix_space=False))
        case "smollm":
            # digits go first, so the space before a number stays with those before it
            return Words(PreTokenizers([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]))
        case "llama-bpe":
            return Words(_splits(LLAMA3_WORDS), takes_whole=True, adds_bos=True)
        case "dbrx":
            return Words(_splits(LLAMA3_WORDS))
        case "glm4":
            return Words(_splits(LLAMA3_WORDS), takes_whole=True)
        case "llama4":
            return Words(_splits(LLAMA4_WORDS), takes_whole=True)
        case "qwen2":
            return Words(_splits(QWEN2_WORDS), NFC())
        case "tekken":
            return Words(_splits(TEKKEN_WORDS), takes_whole=True, adds_bos=True)
        case "default":
            return Words(_splits(*DEFAULT_WORDS))
    return _more(name)


def _more(name: str) -> Words:
    """Names of models without an architecture of their own in Luthier."""
    match name:
        case "qwen35":
            marked = QWEN2_WORDS.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}")
            return Words(_splits(marked), NFC())
        case "hunyuan":
            return Words(_splits(QWEN2_WORDS))
        case "deepseek-llm":
            signs = r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+"
            return Words(_splits("[\r\n]", rf"\s?[{CASED}]+", signs, r"\s+$", HAN_AND_HANGUL, r"\p{N}+"))
        case "deepseek-coder":
            return Words(_splits("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN_AND_HANGUL, r"\p{N}"))
        case "deepseek-v3":
            return Words(_splits(THREE_DIGITS, HAN_AND_KANA, rf"{DEEPSEEK3}[\r\n]*|{SPACES}"))
        case "spark2_5":
            breaks = r"[\r\n]|\s+(?!\S)|\s+"
            return Words(_splits(THREE_DIGITS, HAN_AND_KANA, f"{DEEPSEEK3}|{breaks}", r"\p{N}"))
        case "youtu":
            signs = r"[\x{FF01}\x{2026}\x{201C}\x{201D}\x{2018}\x{2019}\x{2014}\x{FF1A}\x{FF1B}\x{FF0C}"
            signs += r"\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+"
            scripts = rf"[\x{{AC00}}-\x{{D7A3}}\x{{3131}}-\x{{318E}}]+|{signs}|[\x{{3105}}-\x{{312F}}]+|{HAN_AND_KANA}"
            return Words(_splits(scripts, LLAMA4_WORDS.replace(THREE_DIGITS, ONE_DIGIT)), takes_whole=True)
        case "falcon":
            return Words(_splits(r"[\p{P}\$\+<=>\^~\|`]+", GPT2_WORDS, "[0-9][0-9][0-9]"))
        case "bloom":
            return Words(_splits(BLOOM_WORDS))
        case "viking":
            return Words(_splits(BLOOM_WORDS, r"\p{N}"))
        case "chameleon":
            marks = ("<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )")
            return Words(_splits(*marks, r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", GPT2_WORDS), adds_bos=True)
        case "tiny_aya":
            return Words(_splits(r"\d{1,3}(?=(?:\d{3})*\b)", LLAMA4_WORDS))
        case "superbpe":
            return Words(_splits(r"\p{N}+", r"(?=(\d{3})+(?!\d))"))
        case "bailingmoe":
            endings = "'(?i:[sdmt]|ll|ve|re)"
            return Words(_splits(rf"{endings}|{LETTERS}|\p{{N}}|{SIGNS}|\s*[\r\n]|\s+(?!\S)|\s+"))
        case "seed-coder":
            return Words(_splits(rf"{ENDINGS}|{LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{SPACES}"))
        case "ufakzeka":
            return Words(_splits(rf"{LETTERS}|\p{{N}}|{SIGNS}|{SPACES}"))
        case "laguna":
            return Words(_splits(r"[^\n]+|[\n]+", QWEN2_WORDS))
        case "exaone-moe":
            words = r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+"
            signs, breaks = r" ?[^\s\p{L}\p{N}]+[\r\n/]?", r"\s*[\r\n]|\s+(?!\S)|\s+"
            return Words(_splits(rf"{ENDINGS}|{words}|\p{{N}}|{signs}|{breaks}"))
        case "minicpm5":
            return Words(_splits(THREE_DIGITS, LLAMA3_WORDS.replace(THREE_DIGITS, r"\p{N}+")), takes_whole=True)
    runs = "|".join(rf"\s{{{length}}}(?!\S)" for length in (512, 256, 128, 64, 32, 16, 8, 4))  # of "jais-2"
    return Words(_splits(LLAMA3_WORDS.replace(r"\s+(?!\S)|\s+", rf"{runs}|\s{{1,2}}(?!\S)|\s{{1}}")))


def _splits(*patterns: str) -> PreTokenizer:
    splits = [Split(Regex(pattern), "isolated") for pattern in patterns]
    return PreTokenizers([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


def name_of(backend: Backend) -> str:
    """The name of a byte-level backend's pre-tokenizer. Raises LuthierError if it has none."""
    way = (without_cleaning(backend.normalizer), steps(backend.pre_tokenizer))
    same = []
    for name in GROUPS:
        words = _meaning(name)
        if way == (steps(words.normalizer), steps(words.pre_tokenizer)):
            same.append(name)
            if words.takes_whole == backend.model.ignore_merges:
                return name
    if same:
        return same[0]
    raise LuthierError(
        "the tokenizer parts words in a way that no name in GGUF files (tokenizer.ggml.pre) stands for: "
        f"{json.dumps(way[0] + way[1], ensure_ascii=False)[:300]}"
    )
