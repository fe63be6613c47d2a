"""Download a file atomically: it gets its name only after its size and digest are verified.

The data is written to a hidden file beside the target, counted and hashed on the way, and renamed at the end. Only
https is allowed, also in redirects; plain http is for this machine's own addresses.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import urlsplit

from luthier.errors import LuthierError
from luthier.files.sync import sync
from luthier.files.unfinished import unfinished
from luthier.terminal.progress import progress

BLOCK = 1 << 20  # bytes
SECONDS = 30.0  # timeout without receiving a byte
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def download(url: str, target: Path, *, sha256: str | None, size: int | None) -> None:
    """Download `url` to `target`.

    size: in bytes; None takes the server's Content-Length. sha256: None where none is published.
    Raises LuthierError, and leaves nothing behind, on a network error, a wrong size or digest, or if `target` cannot be
    written.
    """
    _check(url)
    try:
        with unfinished(target) as part:
            with part.open("wb") as file:
                digest = _copy(url, file, target.name, size)
            if sha256 is not None and digest != sha256:
                raise LuthierError(f"{url}: wrong sha256: expected {sha256}, got {digest}; nothing was kept")
            sync(part)
            part.replace(target)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        code = f"{error.code} " if isinstance(error, urllib.error.HTTPError) else ""
        raise LuthierError(f"cannot download {url}: {code}{reason}") from error
    except OSError as error:
        raise LuthierError(f"cannot write {target}: {error.strerror or error}") from error


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(url: str, file: BinaryIO, name: str, expected: int | None) -> str:
    digest, done = hashlib.sha256(), 0
    with contextlib.ExitStack() as stack:
        answer = stack.enter_context(_open(url))
        size = _said_size(url, answer) if expected is None else expected
        advance = stack.enter_context(progress(f"downloading {name} ({size / 1e6:,.1f} MB)", size))
        while block := answer.read(BLOCK):
            done += len(block)
            if done > size:
                raise LuthierError(f"{url}: larger than the {size:,} bytes it should be; nothing was kept")
            file.write(block)
            digest.update(block)
            advance(len(block))
    if done < size:
        raise LuthierError(f"{url}: ended after {done:,} of {size:,} bytes; nothing was kept, try again")
    return digest.hexdigest()


def _said_size(url: str, answer: http.client.HTTPResponse) -> int:
    said = answer.headers.get("Content-Length", "")
    if not said.isdecimal():
        raise LuthierError(f"{url}: the server does not say how large it is; nothing was kept")
    return int(said)


def _open(url: str) -> http.client.HTTPResponse:
    handlers: list[urllib.request.BaseHandler] = [_Redirect()]
    if urlsplit(url).hostname in LOOPBACK:
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers={"User-Agent": "luthier"})  # noqa: S310 (the scheme is checked)
    answer: http.client.HTTPResponse = urllib.request.build_opener(*handlers).open(request, timeout=SECONDS)
    return answer


class _Redirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise LuthierError(f"{url}: not an https address; nothing was downloaded")
