"""Text that every machine has, texts made to be trouble, and vocabulary files made from them."""

from __future__ import annotations

import base64
import io
import struct
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

FRENCH = "L'été, où naît l'œuvre : « déjà-vu », 12 345 €.\nÇa coûte cher, n'est-ce pas ?\n"
TEXT = (
    "".join(list(topics.values())[:12])[:120_000]
    + 40 * FRENCH
    + 40 * "日本語のテキスト。東京です。\nПривет, мир!\n😀😃👍\n"
)

HOSTILE = [
    "",
    " ",
    "  two  spaces  ",
    "\n\n\n",
    "\r\n\t \r",
    "a\x00b\x01\x7f",
    "e\u0301 é ﬁ ½ Ⅷ \u00a0\u200b\ufeff",
    "\u00a0\u0301\u3099か\u3099",
    "한국 \u1112\u1161\u11ab 각\u11a8",
    "👨\u200d👩\u200d👧 🏽 \U0010ffff \ufdd0 \uffff",
    "עברית العربية ไทย हिन्दी",
    "<s> </s> <unk> <0x41> <0x0A> <|endoftext|> <|begin_of_text|> <|eot|> <pad>",
    "▁ ▁▁a Ġ Ċ",
    "I'LL don't 'ſ 'S we're",
    "123456789 1e-5 ٣٤ ²",
    "def f(x):\n    return x  +  1\n\n\n    # é\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 9,
    "abab" * 50 + "ba",
    "A" * 40 + "a" * 40 + "!?" * 40,
    FRENCH,
    "🇫🇷🇩🇪🇯 👩🏽\u200d💻👍🏿 ❤\ufe0f #\ufe0f\u20e3 👨\u200d👨\u200d👧\u200d👦x",
    "中文，123個。ひらがなカタカナ한글ｶﾞ々〆 𠮷野家",
    "السَّلَامُ عَلَيْكُمْ ١٢٣ שָׁלוֹם עוֹלָם a\u0301\u0323\u0308b \u0301x",
    "1 12 123 1234 12345 1234567890123456789 1,234.5 0x1F 1e10 ½⅓Ⅷ٠१𝟙",
    " 1  2   3\n4\n 5\n  6\t7\t\t8 \t 9 10  11   12",
    "a  b   c    d     e\t\tf\n\n\ng \n h\r\n\r\ni\r \u3000j\u2003\u2028k\x85l\xa0 m",
    "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f",
    "\ufeffBOM \ufeff\u200e\u202eabc\u202c\u00ad\u2060",
    "if (x<=1&&y!=2){return[x,y].map(z=>z**2)//7;}\n\t\tfor i in range(10):\n\t\t    print(f'{i:>3}')  # ok\n",
    "https://example.org/a/b?c=d&e=%20f#g <b>bold</b> $\\frac{1}{2}$ C:\\x\\n",
    "<|im_start|>user\nhi<|im_end|>\n<|eot_id|> </s><s> [INST] <<SYS>> <unk> <0x0A> [PAD1]",
    "HELLOworld camelCaseWORDS ÉCOLEété étéÉCOLE ǅungla İstanbul γδΑΒγδ I'M you'LL it'S l'été ’s",
    "word" * 700 + " " * 300 + "é" * 500,
    "a\x00\x00b \x00",
]

property_test = settings(deadline=None, max_examples=60, derandomize=True)

NAMES = (
    "<|endoftext|>",
    "<s>",
    "</s>",
    "<unk>",
    "<0x41>",
    "<|eot_id|>",
    "<|",
    "|>",
    "▁",
    "  ",
    "'s",
    "\r\n",
    "e\u0301",
)
any_text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(st.one_of(st.sampled_from(NAMES), st.text("ab é\n中😀<>s/", max_size=4)), max_size=12).map("".join),
)


def sentencepiece_model(**options: Any) -> bytes:
    """A tiny model trained by SentencePiece itself."""
    import sentencepiece

    model = io.BytesIO()
    lines = iter(TEXT[:30_000].splitlines() + TEXT[-4000:].splitlines())
    options = {"vocab_size": 700, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1} | options
    if options.get("model_type") == "bpe":
        options.pop("hard_vocab_limit")
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **options)
    return model.getvalue()


def with_runs_of_spaces(model: bytes, longest: int) -> bytes:
    """A model of SentencePiece's with a piece for each run of spaces, all of the lowest score, as Llama 2 has them."""
    for length in range(2, longest + 1):
        text = ("▁" * length).encode()
        begin = b"\x0a" + bytes([len(text)]) + text + b"\x15"  # field 1, the text, and field 2, the score
        piece = begin + struct.pack("<f", -1e9)
        if begin in model:
            start = model.index(begin)
            model = model[:start] + piece + model[start + len(piece) :]
        else:
            model += b"\x0a" + bytes([len(piece)]) + piece  # a message may be continued
    return model


def tiktoken_file(path: Path, ranks: dict[bytes, int]) -> Path:
    """A file in tiktoken's format."""
    path.write_bytes(b"".join(base64.b64encode(piece) + b" %d\n" % rank for piece, rank in ranks.items()))
    return path
