"""End-of-text tokens of a GGUF file, detected by name: files declare one or two, but models use more.

The names are those that llama.cpp knows.
"""

from __future__ import annotations

from collections.abc import Sequence

TURNS = "<|eot_id|> <|eom_id|> <|im_end|> <|end|> <end_of_turn> <turn|> <end_of_utterance> <|tool_response> [e~["
CALLS = "<|return|> <|call|> <|calls|> <|flush|>"
TEXTS = "<eos> </s> <|endoftext|> <|end_of_text|> <EOT> _<EOT> [EOT] [EOS] <｜end▁of▁sentence｜>"
ENDS = frozenset(f"{TURNS} {CALLS} {TEXTS}".split())
# of models of code, what comes after a file: only the first that a vocabulary has of each kind
AFTER_A_FILE = (
    ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    ("<|file_sep|>",),
)
PLAIN_S = ("<|tool_response>", "<|plamo:eos|>")  # vocabularies with one of these have a "</s>" that is text


def ends_by_name(tokens: Sequence[str]) -> list[int]:
    """Ids of the tokens whose names mark them as end tokens, in order."""
    ids = {token: number for number, token in enumerate(tokens)}
    found = {token for token in ENDS if token in ids}
    for kind in AFTER_A_FILE:
        found.update([name for name in kind if name in ids][:1])
    # in OpenAI's "harmony", and in Solar's, <|end|> ends a message and others end the turn
    if found & {"<|call|>", "<|calls|>"} and found & {"<|return|>", "<|flush|>"}:
        found.discard("<|end|>")
    if any(token in ids for token in PLAIN_S):
        found.discard("</s>")
    return sorted(ids[token] for token in found)
