"""What a file of torch.save would take in memory, worked out before torch reads it: its zip directory's sizes, and the
sizes of its tensors' storages as its pickle states them.

torch.load trusts both: a storage that states more values than its record holds is read beyond its end, and a record of
zeros unpacks to a thousand times its size.
"""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import BinaryIO, Iterable

from utils.limits import MOST_HEADER_BYTES, MOST_UNPACKED_BYTES

BYTES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1,
         "Bool": 1, "ComplexDouble": 16, "ComplexFloat": 8, "Untyped": 1}  # per value of a ...Storage
_LEGACY_PICKLES = 4  # magic number, protocol, system, content; the tensors' bytes follow


class ArchiveError(ValueError):
    """A file claims more than it holds or than is read; the message does not name it."""


class _Stub:
    """What stands for every class of a pickle: takes anything, keeps nothing."""

    def __new__(cls, *_args, **_kwargs):
        return super().__new__(cls)

    def __call__(self, *_args, **_kwargs):
        return self

    def __setstate__(self, _state):
        pass

    def __setitem__(self, _key, _value):
        pass

    def append(self, _value):
        """Of a list."""

    def extend(self, _values):
        """Of a list."""

    def add(self, _value):
        """Of a set."""


class _Sizes(pickle.Unpickler):
    """Reads a pickle without making anything of it but plain containers; gathers the storages that it names."""

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, int] = {}  # key -> bytes

    def find_class(self, module: str, name: str) -> type:
        """A stub of that name, whatever it is."""
        return type(name, (_Stub,), {})

    def persistent_load(self, identity) -> _Stub:
        """torch's ("storage", type, key, device, values, ...)."""
        kind, storage, key, _device, values = identity[:5]
        if kind == "storage" and isinstance(values, int):
            name = getattr(storage, "__name__", str(storage)).removesuffix("Storage")
            self.storages[str(key)] = max(self.storages.get(str(key), 0), values * BYTES.get(name, 1))
        return _Stub()


def is_zip(path: Path) -> bool:
    """Whether a file is a zip archive, as torch.save makes. zipfile.is_zipfile raises on some damaged ones."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def zip_names(path: Path) -> list[str]:
    """Names of the files in a zip archive; empty where it is none, or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name for name in archive.namelist() if not name.endswith("/")]
    except Exception:  # a zip directory can be damaged in any way
        return []


def is_torch_zip(path: Path) -> bool:
    """Whether a zip archive holds a pickle where torch.save puts it."""
    return _header_of(zip_names(path)) is not None


def _header_of(names: Iterable[str]) -> str | None:
    """The pickle among the names in an archive of torch.save."""
    return next((name for name in names if name.endswith("/data.pkl") or name == "data.pkl"), None)


def check(path: Path) -> None:
    """Raise ArchiveError where the file would take more memory than it is worth. What is damaged otherwise is left to
    torch, which says so."""
    try:
        if is_zip(path):
            _check_zip(path)
        else:
            _check_legacy(path)
    except ArchiveError:
        raise
    except Exception:  # pickles and zip directories can be damaged in any way
        return


def _check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        unpacked, held = sum(entry.file_size for entry in entries.values()), path.stat().st_size
        if unpacked > max(held, MOST_UNPACKED_BYTES):
            raise ArchiveError(f"found {held:,} bytes that unpack to {unpacked:,}, expected at most "
                               f"{MOST_UNPACKED_BYTES:,}, or a file that is stored uncompressed, as torch.save does")
        header = _header_of(entries)
        if header is None:
            return
        _check_header(entries[header].file_size)
        storages = _storages(io.BytesIO(archive.read(header)))
        for key, size in storages.items():
            record = entries.get(f"{header[:-len('data.pkl')]}data/{key}")
            if record is not None and size > record.file_size:
                raise ArchiveError(f"found a tensor of {size:,} bytes whose record has {record.file_size:,}, expected "
                                   "as many")


def _check_legacy(path: Path) -> None:
    """Of the format before torch 1.6: pickles one after another, then the bytes of the storages."""
    held = os.stat(path).st_size
    with open(path, "rb") as file:
        if file.read(1) != b"\x80":
            return
        file.seek(0)
        header = io.BytesIO(file.read(MOST_HEADER_BYTES))  # some opcodes read to the next line end, wherever that is
    storages = {}
    for _ in range(_LEGACY_PICKLES):
        storages |= _storages(header)
    if (claimed := sum(storages.values())) > held:
        raise ArchiveError(f"found tensors of {claimed:,} bytes in a file of {held:,}, expected as many bytes")


def _storages(file: BinaryIO) -> dict[str, int]:
    """Bytes of each storage that the pickle at the file's position names. A negative count is a count too large."""
    sizes = _Sizes(file)
    try:
        sizes.load()
    finally:
        if any(size < 0 for size in sizes.storages.values()):
            raise ArchiveError("found a tensor of negative size, expected 0 or more")
    return sizes.storages


def _check_header(size: int) -> None:
    if size > MOST_HEADER_BYTES:
        raise ArchiveError(f"found {size:,} bytes beside the tensors, expected at most {MOST_HEADER_BYTES:,}")
