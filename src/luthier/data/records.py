"""Read documents from records: lines of .jsonl, values of .json, rows of .csv, .tsv and .parquet.

One field of each record is its text. Records whose field is null are skipped and counted.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import chain, count
from typing import Any, BinaryIO

from luthier.data.decoding import Invalid, decode, decoded, without_surrogates
from luthier.errors import LuthierError, setting

RECORDS = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
LONGEST = 1 << 28  # bytes of one record: bounds the memory that a hostile file can take
SHOWN = 60  # characters of an unexpected value shown in errors
DELIMITERS = ",;\t|"


def json_lines(file: BinaryIO, name: str, field: str, invalid: Invalid, nulls: Counter[str]) -> Iterator[str]:
    """Texts of a .jsonl file: one object or string per line."""
    offset = 0
    for number in count(1):
        line = file.readline(LONGEST)
        if not line:
            return
        where = f"{name}, line {number:,}"
        if len(line) == LONGEST:
            raise LuthierError(f"{where}: longer than {LONGEST:,} bytes; is this one JSON object a line?")
        source = decode(line, name, offset, invalid).removeprefix("\ufeff").strip()
        offset += len(line)
        if not source:
            continue
        try:
            record = json.loads(source)
        except (ValueError, RecursionError) as error:
            raise LuthierError(f"{where}: not JSON: {error}") from None
        yield from _text_of(record, field, where, invalid, nulls, name)


def json_values(file: BinaryIO, name: str, field: str, invalid: Invalid, nulls: Counter[str]) -> Iterator[str]:
    """Texts of a .json file: an array of objects or strings, or such values concatenated."""
    for number, record in enumerate(_values(decoded(file, name, invalid), name), 1):
        yield from _text_of(record, field, f"{name}, item {number:,}", invalid, nulls, name)


def _values(blocks: Iterator[str], name: str) -> Iterator[Any]:
    """Values of a JSON array, or concatenated values, decoded incrementally: the file may be larger than memory."""
    decoder = json.JSONDecoder()
    held, place, ended = "", 0, False

    def more(size: int) -> None:
        """Buffer at least `size` characters after the current position, if available."""
        nonlocal held, place, ended
        parts, length, place_before = [held[place:]], len(held) - place, place
        while length < size and not ended:
            block = next(blocks, None)
            ended = block is None
            parts.append(block or "")
            length += len(parts[-1])
        held, place = "".join(parts), place - place_before

    def skip(characters: str) -> str:
        """Skip these characters. Returns the next character, "" at the end."""
        nonlocal place
        while True:
            while place < len(held) and held[place] in characters:
                place += 1
            if place < len(held) or ended:
                return held[place : place + 1]
            more(1)

    white = " \t\n\r\ufeff"
    array = skip(white) == "["
    place += array
    for number in count(1):
        first = skip(white + "," if number > 1 and array else white)
        if not first or (array and first == "]"):
            if array and not first:
                raise LuthierError(f"{name}: the array has no end: the file is cut short")
            return
        wanted = 1 << 16
        while True:
            try:
                value, end = decoder.raw_decode(held, place)
                if end < len(held) or ended:
                    break
            except RecursionError as error:
                raise LuthierError(f"{name}, item {number:,}: not JSON: {error}") from None
            except ValueError as error:
                if ended or wanted > LONGEST:
                    raise LuthierError(f"{name}, item {number:,}: not JSON: {error}") from None
            more(wanted := 4 * wanted)
        yield value
        place = end


def csv_rows(file: BinaryIO, name: str, field: str, invalid: Invalid, *, tabs: bool) -> Iterator[str]:
    """Texts of a .csv or .tsv file (tabs), whose first row names the columns. In .tsv files quotes are text."""
    lines = _lines(decoded(file, name, invalid))
    first = next(lines, "").removeprefix("\ufeff")
    delimiter = "\t" if tabs else max(DELIMITERS, key=first.count)
    csv.field_size_limit(LONGEST)
    rows = csv.reader(
        chain([first], lines),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        strict=not tabs,
    )
    try:
        columns = next(rows, [])
        if field not in columns:
            raise LuthierError(f"{name}: the first row names no column '{field}': {_named(columns)}")
        place = columns.index(field)
        for row in rows:
            if not row:
                continue
            if len(row) != len(columns):
                raise LuthierError(
                    f"{name}, line {rows.line_num:,}: {len(row)} columns where the first row names {len(columns)}"
                )
            yield row[place]
    except csv.Error as error:
        raise LuthierError(f"{name}, line {rows.line_num:,}: not sound CSV: {error}") from None


def _lines(blocks: Iterable[str]) -> Iterator[str]:
    """Lines including their ends; only line feeds end lines."""
    held = ""
    for block in blocks:
        *whole, held = (held + block).split("\n")
        yield from (line + "\n" for line in whole)
    if held:
        yield held


def need_pyarrow(name: str) -> None:
    """Raise LuthierError if pyarrow, which reads .parquet, is not installed."""
    if find_spec("pyarrow") is None:
        raise LuthierError(f"{name}: reading .parquet needs pyarrow: pip install 'luthier[hub]'")


def parquet_rows(file: BinaryIO, name: str, field: str, invalid: Invalid, nulls: Counter[str]) -> Iterator[str]:
    """Texts of a column of a .parquet file."""
    need_pyarrow(name)
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        table = pq.ParquetFile(file if file.seekable() else io.BytesIO(file.read()))
        columns: Sequence[str] = table.schema_arrow.names
        if field not in columns:
            raise LuthierError(f"{name}: no column '{field}': {_named(columns)}")
        kind = table.schema_arrow.field(field).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(
            is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
        ):
            raise LuthierError(f"{name}: the column '{field}' holds {kind}, not text: {_named(columns)}")
        for batch in table.iter_batches(batch_size=1024, columns=[field]):
            column = batch.column(0)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            for value in column.cast(pa.large_binary()).to_pylist():  # as bytes: pyarrow does not validate UTF-8
                row += 1
                if value is None:
                    nulls[name] += 1
                else:
                    yield decode(value, f"{name}, row {row:,}", 0, invalid)
    except (pa.ArrowException, OSError) as error:
        raise LuthierError(f"{name}: not a sound .parquet file: {error}") from error


def _text_of(record: Any, field: str, where: str, invalid: Invalid, nulls: Counter[str], name: str) -> Iterator[str]:
    """Text of a JSON record, nothing for null."""
    if isinstance(record, dict):
        if field not in record:
            raise LuthierError(f"{where}: no field '{field}': {_named(list(record))}")
        value = record[field]
    else:
        value = record
    if value is None:
        nulls[name] += 1
    elif isinstance(value, str):
        yield without_surrogates(value, where, invalid)
    elif isinstance(record, dict):
        raise LuthierError(f"{where}: the field '{field}' holds {_kind(value)}, not text: {_named(list(record))}")
    else:
        raise LuthierError(f"{where}: {_kind(value)}, neither an object with the field '{field}' nor a string")


def _named(columns: Sequence[str]) -> str:
    """List the available names, and how to choose one."""
    names = ", ".join(repr(name if len(name) <= SHOWN else name[:SHOWN] + "...") for name in columns[:20])
    more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
    return f"there are {names or 'none'}{more}; name the one that holds the text ({setting('field')})"


KINDS: dict[type, Callable[[Any], str]] = {
    dict: lambda value: f"an object of {len(value)} fields",
    list: lambda value: f"a list of {len(value)}",
    bool: lambda value: "true or false",
    int: lambda value: "a number",
    float: lambda value: "a number",
}


def _kind(value: Any) -> str:
    """Description of a JSON value."""
    shown = json.dumps(value, ensure_ascii=True)
    return f"{KINDS[type(value)](value)} ({shown if len(shown) <= SHOWN else shown[:SHOWN] + '...'})"
