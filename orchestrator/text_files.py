"""Text files of the field as text: byte-order marks, encodings, line ends and compression."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import zlib
from pathlib import Path

__all__ = ["TextFileError", "decoded", "lines_of", "read_bytes", "read_text", "tail_of"]

_MOST_BYTES = 1 << 30
_GZIP = b"\x1f\x8b"
# In this order: the mark of UTF-16 is the beginning of that of UTF-32.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class TextFileError(ValueError):
    """The file cannot be read as text; the message says why and names the file."""


def read_text(path: Path, *, fallback: str | None = None) -> str:
    """Read a text file, compressed with gzip or not (see `decoded`). Raises `TextFileError`."""
    return decoded(read_bytes(path), path, fallback=fallback)


def read_bytes(path: Path) -> bytes:
    """Read a file of at most 1 GiB, gzip or plain, or raise `TextFileError`."""
    try:
        file = path.expanduser()
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
        if data.startswith(_GZIP):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise TextFileError(f"{file}: no such file; give the path of an existing one") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TextFileError(f"{path}: damaged gzip file: {error}") from None
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the path; an unknown ~user
        reason = error.strerror if isinstance(error, OSError) else None
        raise TextFileError(f"{path}: cannot be read: {reason or error}") from None
    if len(data) > _MOST_BYTES:
        raise TextFileError(f"{path}: more than 1 GiB; give a smaller file")
    return data


def decoded(data: bytes, path: Path, *, fallback: str | None = None) -> str:
    """Return a file's text in UTF-8, as its byte-order mark says, or in ``fallback``.

    Raises `TextFileError`, which names ``path``, for other bytes.
    """
    mark, encoding = next((one for one in _MARKS if data.startswith(one[0])), (b"", "utf-8"))
    body = data[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        if fallback is None or mark:
            line = 1 + body.count(b"\n", 0, error.start)
            raise TextFileError(
                f"{path}, line {line}: byte {len(mark) + error.start} is not "
                f"{encoding.upper()} text; save the file as UTF-8"
            ) from None
        text = body.decode(fallback)
    if "\0" in text:
        line = 1 + text.count("\n", 0, text.index("\0"))
        raise TextFileError(f"{path}, line {line}: a NUL character; expected a text file in UTF-8")
    return text


def tail_of(path: Path, most_bytes: int) -> str:
    """Return the end of a file that a program writes, stripped; raises ``OSError``."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most_bytes))
        return file.read().decode(errors="replace").strip()


def lines_of(text: str) -> list[str]:
    r"""Split a text at ``\n``, ``\r\n`` and ``\r``, as editors count lines.

    >>> lines_of("one\r\ntwo\u2028still two\x0c\rthree")
    ['one', 'two\u2028still two\x0c', 'three']
    """
    return io.StringIO(text, newline=None).read().removesuffix("\n").split("\n")
