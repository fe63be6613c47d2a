"""Files of JSON lines that a run appends to and that may be cut off or damaged: metrics.jsonl and samples.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.files.atomic_file import replacing_file
from luthier.terminal.printing import warn


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Append a line of JSON; NaN and infinity become null."""
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(clean, ensure_ascii=False) + "\n")


def parse_lines(path: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], list[bytes]]:
    """Lines of a .jsonl file: (valid records that have a step, as (line, record); other lines)."""
    records, bad = [], []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # a line that a stop cut off, or that something else damaged
            record = None
        step = record.get("step") if isinstance(record, dict) else None
        if isinstance(step, int) and not isinstance(step, bool):
            records.append((line, record))
        else:
            bad.append(line)
    return records, bad


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Valid records of a .jsonl file."""
    return [record for _, record in parse_lines(path)[0]]


def forget_after(path: Path, step: int) -> None:
    """Remove records after `step`, which a resumed run writes again. Invalid lines are moved to another file."""
    if not path.exists():
        return
    records, bad = parse_lines(path)
    if bad:
        aside = path.with_name(f"{path.stem}.damaged{path.suffix}")
        with aside.open("ab") as file:
            file.writelines(line + b"\n" for line in bad)
        count = f"{len(bad)} lines are" if len(bad) > 1 else "a line is"
        warn(f"{path}: {count} no record (cut off or damaged); put into {aside.name}, the other records are kept")
    with replacing_file(path) as part:
        part.write_bytes(b"".join(line + b"\n" for line, record in records if record["step"] <= step))
