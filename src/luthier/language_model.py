"""A model with its tokenizer and config: load, save, generate, stream; the class that Python users import.

    lm = luthier.load("runs/demo")
    lm.model, lm.tokenizer, lm.config
    lm.generate(["Once upon a time"], max_new_tokens=50)
    lm.save("out")

A training run is such a folder, in the format of `transformers`. model_files/ has all other formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from luthier.architectures import registry
from luthier.architectures.family import Config
from luthier.errors import LuthierError, UsageError, remark, setting
from luthier.formats.safetensors_files import SHARD_BYTES
from luthier.generation.draft import Draft, check_vocabulary
from luthier.generation.generate import encode_prompts, generate, generate_stream
from luthier.generation.sequence import GeneratedSequence
from luthier.generation.settings import GenerationSettings
from luthier.model.transformer import Transformer
from luthier.model_files import auto, hub, quantized
from luthier.model_files.weights import LoadedModel, ProgressCallback, no_progress, nonfinite_weights
from luthier.quantize.quantize import Kind, is_quantized
from luthier.tokenizers.core.tokenizer import Tokenizer

WAY_OUT = ": special=True reads it so"

if TYPE_CHECKING:
    from luthier.generation.conversation import Conversation


class LanguageModel:
    """A Transformer, the tokenizer that it was trained with, and the config that built it."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer | None, config: Config) -> None:
        self.model, self.config = model, config
        self._tokenizer = tokenizer

    def __repr__(self) -> str:
        total, active = registry.count_parameters(self.config)
        parameters = f"{total:,} parameters" + (f", {active:,} active" if active != total else "")
        tokens = "no tokenizer" if self._tokenizer is None else f"{self._tokenizer.vocab_size:,} tokens"
        kind = str(self.dtype).removeprefix("torch.")
        quantized = ", quantized" if is_quantized(self.model) else ""
        return (
            f"LanguageModel({registry.name_of(self.config)}, {parameters}, context {self.config.context_length:,}, "
            f"{tokens}, {kind} on {self.device.type}{quantized})"
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises a LuthierError for a model without one, which has token ids only."""
        if self._tokenizer is None:
            raise LuthierError("this model came without a tokenizer: put its tokenizer.json beside its config.json")
        return self._tokenizer

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.device

    def save(
        self,
        path: str | Path,
        format: str = "hf",
        *,
        quantize: str | None = None,
        shard_bytes: int = SHARD_BYTES,
        watch: ProgressCallback = no_progress,
    ) -> None:
        """Write the model to a path that `luthier.load` can load. Weights keep their dtype unless quantized.

            >>> luthier.load("runs/book").save("book.gguf", "gguf", quantize="Q8_0")

        format: "hf", a folder for `transformers`, with weights in files of at most shard_bytes; "gguf", a file for
        llama.cpp, with matrices of the type `quantize` ("F32", "F16", "BF16", "Q8_0", "Q4_0"); "meta", a folder in
        Meta's format. watch: called with (bytes done, total bytes).

        Existing files are replaced atomically: after an error they are unchanged. Raises a LuthierError if the path
        cannot be written, or the format does not support this model.
        """
        if is_quantized(self.model):
            raise LuthierError("this model was opened with quantize: open it without to save it")
        opened = LoadedModel(self.model, self.config, self._tokenizer)
        auto.write(Path(path), opened, format, watch, quantize=quantize, shard_bytes=shard_bytes)

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = 0.9,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        beams: int = 1,
        length_penalty: float = 1.0,
        samples: int = 1,
        stop: str | Sequence[str] = (),
        seed: int = 1,
        use_cache: bool = True,
        special: bool = False,
        draft: LanguageModel | None = None,
    ) -> list[str]:
        """Generate a continuation of each prompt. Returns the texts without the prompts, in their order.

            >>> lm = luthier.load("runs/book")
            >>> lm.generate("sanka", max_new_tokens=3)  # one prompt: a list of one text
            ['...']
            >>> len(lm.generate(["ka", "lo mi"], temperature=0))  # a batch, greedy decoding
            2
            >>> len(lm.generate("ka", samples=3))  # three texts, of seeds 1, 2 and 3
            3

        A text ends with the tokenizer's end token, before a string of `stop`, after max_new_tokens, or when the
        model's context is full.

        repetition_penalty: above 1, tokens of the prompt and the text so far become less likely.
        temperature: divides the logits. Below 1 less random, above 1 more random, 0 greedy decoding.
        top_k: sample from the k most probable tokens. top_p: from the most probable ones that together have this
        probability. min_p: drop tokens less probable than this fraction of the most probable one's. None: off.
        seed: the same seed gives the same text, alone or in a batch; in bfloat16, rounding may make a difference.
        samples: number of texts for each prompt, returned consecutively; text i (from 0) uses seed + i.
        beams: above 1, beam search without sampling; a text's log-probability is divided by its
        length ** length_penalty. use_cache: False recomputes the whole text for each token, with the same result.
        special: encode special tokens in a prompt ("<|im_start|>") as such; otherwise as plain text, with a warning.
        draft: a small model with the same tokenizer, or this model quantized to 4 bits, for speculative decoding
        (arXiv 2211.17192) of a single text without beam search: the same text, faster if many drafted tokens are
        accepted. (In bfloat16 without the compiled step, rounding may make a difference.)

        Raises a UsageError for a setting out of its range, and a LuthierError for a prompt that fills the context, for
        an empty prompt if the tokenizer has no token that begins a text, and for a draft with another vocabulary.
        `luthier.generation.generate.generate` also returns tokens, log-probabilities and the finish reason.
        """
        settings = GenerationSettings(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            beams=beams,
            length_penalty=length_penalty,
            samples=samples,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=seed,
            use_cache=use_cache,
        )
        given = [prompts] if isinstance(prompts, str) else prompts
        texts = encode_prompts(self.tokenizer, given, special=special, hint=WAY_OUT)
        chosen = None if draft is None else draft.draft_for(self)
        results = generate(self.model, self.tokenizer, texts, settings, self.config.context_length, chosen)
        return [result.text for result in results]

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = 0.9,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        stop: str | Sequence[str] = (),
        seed: int = 1,
        use_cache: bool = True,
        special: bool = False,
        draft: LanguageModel | None = None,
    ) -> Iterator[str]:
        """Generate a text and yield it piece by piece. Arguments and errors are those of `generate`.

            >>> "".join(luthier.load("runs/book").stream("sanka", max_new_tokens=3))
            '...'

        Pieces have complete characters only. Text that may begin a stop string is held back until that is decided.
        """
        settings = GenerationSettings(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=seed,
            use_cache=use_cache,
        )
        [text] = encode_prompts(self.tokenizer, [prompt], special=special, hint=WAY_OUT)
        sequence = GeneratedSequence(self.tokenizer, text, settings, self.config.context_length)
        chosen = None if draft is None else draft.draft_for(self)
        return (piece for _, piece in generate_stream(self.model, [sequence], settings, chosen))

    def chat(
        self,
        *,
        system: str | None = None,
        template: str | None = None,
        settings: GenerationSettings | None = None,
        draft: Draft | None = None,
    ) -> Conversation:
        """Begin a conversation: `say` sends a message and returns the reply, `reply` yields it piece by piece.

            >>> conversation = luthier.load("runs/chat").chat(template="chatml", system="You are a poet.")
            >>> reply = conversation.say("ka lo?")
            >>> conversation.messages[0]
            {'role': 'user', 'content': 'ka lo?'}

        system: the system prompt. template: how turns are written for the model, a Jinja file or a name such as
        "chatml"; the model's own unless given. Raises a LuthierError for a model without a chat template.
        """
        from luthier.generation.conversation import Conversation  # with Jinja, which is slow to import
        from luthier.tokenizers.chat.chat_template import template_of

        chosen = template_of(self.tokenizer, template)
        how = settings or GenerationSettings(max_new_tokens=1000)
        return Conversation(self.model, chosen, how, self.config.context_length, system, draft)

    def draft_for(self, large: LanguageModel, name: str = "the draft") -> Draft:
        """Use the model as a draft model for `large`. Raises a LuthierError if their vocabularies differ."""
        check_vocabulary(self.tokenizer, large.tokenizer, name)
        return Draft(self.model, self.config.context_length)


def load(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    quantize: Kind | None = None,
) -> LanguageModel:
    """Load a model: a training run, a Hugging Face folder, `hf:ORG/NAME` on the hub, Meta's or OpenAI's folder, a .gguf
    file, or a .pth file of the book "LLMs from scratch". The format is detected by the files' content.

        >>> luthier.load("runs/book")
        LanguageModel(llama, ... parameters, context 16, ... tokens, float32 on cpu)

    dtype: that of the file unless given. On the CPU, weights that need no conversion are memory-mapped: they use memory
    only when accessed, and the file may be replaced but not modified in place. quantize: matrices in 8 or 4 bits, for
    faster generation on a CPU; a GGUF file's quantized blocks are kept. Raises a LuthierError that names what is
    missing, unknown or of the wrong shape, and a UsageError for a device that is not available.
    """
    if not str(path):
        raise UsageError("an empty name is no model: give a file, a folder, or hf:ORG/NAME")
    place = hub.fetch(str(path)) if str(path).startswith(hub.PREFIX) else Path(path)
    if quantize is not None:
        if torch.device(device).type != "cpu" or dtype not in (None, torch.bfloat16):
            raise UsageError(
                f"{setting('quantize', quantize)} computes in bfloat16 on the cpu: leave {setting('device')} and "
                f"{setting('dtype')} out"
            )
        model, config, tokenizer = quantized.read(place, quantize)
    else:
        model, config, tokenizer = auto.read(place, existing(device), dtype)
    if broken := nonfinite_weights(model):
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        remark(
            f"{path}: weights are NaN or infinite, in {broken[0]}{more}: the file is damaged, or its training failed, "
            "and what the model computes means nothing"
        )
    return LanguageModel(model.eval(), tokenizer, config)


def existing(device: torch.device | str) -> torch.device:
    """The device, if this machine has it."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):  # torch's errors here are long, and of both kinds
        raise UsageError(f"device '{device}' is not available here; 'cpu' is") from None
