"""Packed files as plain ones: .gz and .zst, in bounded memory, refused when broken or when a bomb."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from didact.data.words import brief
from didact.errors import DataProblem, MissingExtra

EXPANSION_LIMIT = 200  # unpacked bytes a packed byte: text packs 3 to 50 times, a bomb 1,000 and more
EXPANSION_FREE = 64 * 2**20  # unpacked bytes below which the ratio does not matter


class _Unpacked(io.RawIOBase):
    """Chunks of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def unpacked(path: Path, raw: BinaryIO) -> BinaryIO:
    """What the suffix of ``path`` says is packed in ``raw``, or ``raw`` itself.

    Reading it raises DataProblem where the packing is damaged; asking for .zst without zstandard
    raises MissingExtra.
    """
    packing = path.suffix.lower()
    if packing not in PACKED:
        return raw
    return io.BufferedReader(_Unpacked(_bounded(path, raw, PACKED[packing](path, raw))))


def _bounded(path: Path, raw: BinaryIO, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, refused once they expand the file as no text does."""
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > max(EXPANSION_FREE, EXPANSION_LIMIT * raw.tell()):
            raise DataProblem(
                f"unpacks to more than {EXPANSION_LIMIT} times its size",
                where=str(path),
                remedy="unpack it yourself if you trust it",
            )
        yield chunk


def _gzip(path: Path, raw: BinaryIO) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=raw) as packed:
            while chunk := packed.read(2**18):
                yield chunk
    except EOFError:
        raise _broken(path, "the gzip file ends too early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _broken(path, f"not a valid gzip file: {brief(error)}") from None


def _zstd(path: Path, raw: BinaryIO) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise MissingExtra("zstandard", "zstd", f"reading {path.name}") from None
    size = 2048  # one packed byte can stand for 32 KiB, so a read this small keeps a chunk under 64 MiB
    frame, data = None, raw.read(size)
    try:
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data = frame.unused_data or raw.read(size)
            frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise _broken(path, f"not a valid zstd file: {brief(error)}") from None
    if frame is not None:  # the library says nothing about a last frame that stays open
        raise _broken(path, "the zstd file ends too early")


def _broken(path: Path, what: str) -> DataProblem:
    return DataProblem(what, where=str(path), remedy="fetch or write it again")


PACKED = {".gz": _gzip, ".zst": _zstd}
