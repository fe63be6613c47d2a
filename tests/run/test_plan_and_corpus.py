"""What a run is made of: the plan, and the batches of its text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import plan, records, words

from luthier.architectures.registry import presets
from luthier.data.batches import PaddedDocuments
from luthier.errors import LuthierError, Remark, UsageError
from luthier.files.sealed_json import sealed
from luthier.run import corpus, train
from luthier.run.plan import Plan, read_recipe, recipes, resolve
from luthier.run.token_splits import TokenSplits, bits_per_byte
from luthier.terminal.durations import duration
from luthier.tokenizers.core.tokenizer import Tokenizer


def prepared(chosen: Plan, out: Path) -> tuple[Tokenizer, Path]:
    return corpus.prepare_tokens(chosen.data, chosen.settings, chosen.model.vocab_size, out)


@pytest.mark.parametrize("name", presets())
def test_every_preset_survives_its_recipe(tmp_path, name):
    path = tmp_path / "run.toml"
    first = resolve(("a.txt", "b c"), options={"preset": name, "learning_rate": 3e-4})
    path.write_text(first.toml(), encoding="utf-8")
    assert resolve(recipe=read_recipe(str(path))) == first


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_that_is_shipped_is_whole(name):
    assert resolve(recipe=read_recipe(name), where=name).data


def test_a_recipe_without_a_preset_changes_the_usual_one():
    assert resolve(recipe={"model": {"dim": 64}}).model == resolve(model={"dim": 64}).model


def test_an_unknown_setting_or_size_is_named_with_its_place():
    with pytest.raises(UsageError, match=r"my\.toml has no setting n_layer: there are preset"):
        resolve(recipe={"n_layer": 3}, where="my.toml")
    with pytest.raises(UsageError, match=r"\[model\] in my\.toml has no setting n_layer: did you mean n_layers"):
        resolve(recipe={"model": {"n_layer": 3}}, where="my.toml")


@pytest.mark.parametrize("kind", ["characters", "bpe", "gpt2"])
def test_prompts_are_cleaned_as_the_text_of_the_run_was(tmp_path, kind):
    book = tmp_path / "book.txt"
    book.write_bytes(("\ufeff" + 20 * "Un cafe\u0301 s'il te plai\u0302t\r\nune page\x0c").encode())
    chosen = plan(book, tokenizer=kind, vocab_size=300 if kind == "bpe" else 0)
    tokenizer, _ = prepared(chosen, tmp_path / "tokens")
    clean = tokenizer.encode("café\nune page\n")
    assert tokenizer.decode(clean) == "café\nune page\n"
    assert tokenizer.encode("\ufeffcafe\u0301\r\nune page\x0c") == clean


def test_characters_are_those_of_the_text_to_validate_on_too(book, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("ŷ" * 40, encoding="utf-8")
    tokenizer, tokens = prepared(plan(book, validation=str(other)), tmp_path / "tokens")
    validation = TokenSplits(tokens, 0).held_out
    assert tokenizer.decode(validation[:].tolist()) == "ŷ" * 40


def test_documents_are_evaluated_as_they_are_trained_on(book, tmp_path):
    folder = tmp_path / "lines"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(words(4, number), encoding="utf-8")
    chosen = plan(folder, batches="documents", validation=0.3)
    tokenizer, tokens = prepared(chosen, tmp_path / "tokens")
    text = TokenSplits(tokens, tokenizer.pad_id or 0)
    held_out = text.held_out
    batches = [
        list(text.splits(replace(chosen.settings, eval_batches=n), 16)["validation"].batches()) for n in (2, 2, 0)
    ]
    assert len(batches[0]) == 2
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(batches[0], batches[1], strict=True))
    assert all(batch.valid is not None for batch in batches[0])
    everything = PaddedDocuments(held_out, 16, 2, seed=1)
    assert sum(int((b.targets >= 0).sum()) for b in batches[2]) == len(held_out) - len(held_out.documents)
    assert len(batches[2]) == everything.batches_per_epoch


@pytest.mark.parametrize("kind", ["random", "sliding", "documents"])
def test_an_evaluation_does_not_depend_on_how_a_step_is_cut_into_batches(tmp_path, kind):
    folder = tmp_path / "lines"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(words(9, number), encoding="utf-8")
    losses: dict[str, list[float]] = {"train_loss": [], "validation_loss": []}
    for size in (1, 2, 8):
        cut = {
            "batch_size": size,
            "gradient_accumulation_steps": 8 // size,
            "batches": kind,
            "steps": 2,
            "eval_batches": 1,
        }
        out = train.start(plan(folder, **cut, validation=0.5, learning_rate=0.1), tmp_path / f"run-{size}")
        for name, found in losses.items():
            found.append(records(out / "metrics.jsonl")[-1 if kind == "random" else 0][name])
    for found in losses.values():
        assert found == pytest.approx([found[0]] * 3, abs=1e-5)


def test_a_prepared_folder_is_trained_on_as_it_is_and_must_be_whole(book, tmp_path):
    chosen = plan(book, steps=2)
    _, folder = prepared(chosen, tmp_path / "prepared")
    straight = train.start(chosen, tmp_path / "straight")
    with pytest.warns(Remark, match="tokenizer='characters' has no effect: the text is prepared already"):
        out = train.start(plan(folder, steps=2), tmp_path / "run")
    assert records(out / "metrics.jsonl") == records(straight / "metrics.jsonl")
    assert not (out / "tokens").exists()
    train.resume(out, {"steps": 3}, {}, ())
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(sealed({**index, "tokenizer": "0" * 64})))
    with pytest.raises(LuthierError, match="its tokenizer is not the one that made its tokens"):
        train.start(plan(folder), tmp_path / "other")


def test_bits_per_byte_do_not_depend_on_the_tokenizer():
    from luthier.data.shards import TokenShards

    coarse = TokenShards([np.zeros(10, np.uint16)], bytes=80)
    fine = TokenShards([np.zeros(80, np.uint16)], bytes=80)
    assert bits_per_byte(8 * np.log(2), coarse) == pytest.approx(bits_per_byte(np.log(2), fine))
    assert bits_per_byte(np.log(2), fine) == pytest.approx(1)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.7, "1 h 0 min"), (7805, "2 h 10 min")],
)
def test_durations_as_people_say_them(seconds, said):
    assert duration(seconds) == said
