"""Text files that may be compressed, as bytes."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ntk_numba.errors import FileError
from ntk_numba.opening import open_ordinary

PIECE = 1 << 16  # bytes of a compressed file that are read at a time
XZ_MEMORY = 256 << 20  # bytes; xz -9 needs 65 MB, and a file may ask for 4 GB
_UNPACKERS: dict[str, Any] = {
    ".bz2": bz2.BZ2Decompressor, ".xz": partial(lzma.LZMADecompressor, memlimit=XZ_MEMORY),
}  # fmt: skip
COMPRESSIONS = (".gz", *_UNPACKERS)


def open_bytes(path: Path) -> Any:
    """Open a file for reading, and unpack it if its name says that it is compressed."""
    ending = path.suffix.lower()
    if ending in _UNPACKERS:
        return io.BufferedReader(_Unpacked(path, _UNPACKERS[ending]))
    return gzip.open(path, "rb") if ending == ".gz" else open_ordinary(path)


class _Unpacked(io.RawIOBase):
    """The bytes of compressed streams, one after another.

    The standard library ends without an error where a second stream does not begin as it should,
    which would drop its rows.

    make : a function that makes the decompressor of a stream
    """

    def __init__(self, path: Path, make: Callable[[], Any]) -> None:
        self._file, self._make, self._stream = open_ordinary(path), make, make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = b""
        while not found:
            data = b""
            if self._stream.eof:
                data = self._stream.unused_data.lstrip(b"\0")  # zeros are padding
                while not data and (more := self._file.read(PIECE)):
                    data = more.lstrip(b"\0")
                if not data:
                    return 0
                self._stream = self._make()
            elif self._stream.needs_input and not (data := self._file.read(PIECE)):
                raise FileError("it ends within a stream")
            found = self._stream.decompress(data, len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()
