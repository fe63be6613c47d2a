"""stdout and stderr that are closed, full, narrow or gone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SAY = "from luthier.terminal.printing import say, warn, output\n"


def run(code: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python program, its output led as a shell says."""
    command = f'"{sys.executable}" -c "$CODE" {shell}'
    full = {**os.environ, "CODE": SAY + code, **environment}
    return subprocess.run(
        ["bash", "-c", command], env=full, capture_output=True, text=True, errors="replace", timeout=120
    )


LINES = "for i in range(2000): say('line ' * 20)\nopen('/dev/fd/2', 'w').write('worked on\\n')"


@pytest.mark.parametrize(
    ("shell", "why"),
    [("| head -1", "nobody reads it any more"), (">/dev/full", "No space left on device")],
)
def test_work_goes_on_without_its_stdout_and_says_so_once(shell, why):
    done = run(LINES, shell)
    assert done.stderr.splitlines() == [f"luthier: stdout is gone ({why}): going on without it", "worked on"]
    assert done.returncode == 0


@pytest.mark.parametrize("shell", [">&-", "2>/dev/null >&-", ">&- 2>&-", ">/dev/full 2>&1"])
def test_work_goes_on_with_no_stream_at_all(shell):
    code = "say('x'); warn('y'); say('z'); open('done', 'w').close()"
    done = run(f"import os, tempfile\nos.chdir(tempfile.mkdtemp())\n{code}\nos._exit(7)", shell)
    assert done.returncode == 7


def test_a_warning_never_goes_to_stdout():
    assert run("warn('y')", "2>&-").stdout == ""


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_what_an_encoding_lacks_is_replaced_and_that_is_said_once(encoding):
    done = run("say('caf\\xe9 \\ufffd'); say('\\U0001f99c'); output('\\ufffd')", PYTHONIOENCODING=encoding)
    lines = done.stdout.splitlines()
    assert [line[-1] for line in lines] == ["?", "?", "?"]
    name = "iso8859-1" if encoding == "latin-1" else encoding
    assert done.stderr == f"luthier: stdout is in {name}: what that cannot write is printed as ?\n"


def test_a_file_never_gets_the_number_of_a_closed_stdout(tmp_path):
    code = (
        "from luthier.terminal.streams import hold_standard_streams\nhold_standard_streams()\n"
        f"file = open({str(tmp_path / 'weights')!r}, 'wb')\nimport os\nassert file.fileno() > 2\n"
        "os.write(1, b'a library prints')"
    )
    assert run(code, ">&- <&-").returncode == 0
    assert (tmp_path / "weights").read_bytes() == b""
