"""The prompt of text samples, where none is given."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.run.callbacks.sample import default_prompt
from luthier.tokenizers.core.train import characters

VERDICT = "ue's collapsed like a house of cards. Gideon Gisburn rose to go, and Mrs. Thwing knew it."


@pytest.mark.parametrize(
    ("text", "context", "prompt"),
    [
        (VERDICT, 256, "Gideon Gisburn rose"),
        (VERDICT, 20, "Gideon"),  # three words would be more than half of the context
        ("ieu\nROMEO: But soft, what light", 256, "ROMEO: But soft,"),
        ("ieu\n\n  « Ah ! dit Swann. » Il se tut longtemps.", 256, "Il se tut"),
        ("akalo midor san bel té ru", 256, "midor san bel"),  # no sentence: after the first, half a word perhaps
        ("kalomidor", 256, "kalomidor"),
        ("kalomidorsanbel", 8, "kalo"),
        ("one two", 256, "one two"),
    ],
)
def test_it_is_whole_words_from_the_start_of_a_line_or_sentence(text, context, prompt):
    tokenizer = characters([text])
    tokens = np.array(tokenizer.encode(text), np.uint16)
    assert default_prompt(tokens, tokenizer, context) == prompt
