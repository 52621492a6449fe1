"""Tensors by name as other programs keep them: safetensors, and the arrays of numpy.savez.

safetensors: the header's length (uint64), the header (JSON: name -> dtype, shape, data_offsets), then the bytes of the
tensors. Source: the format's description in huggingface/safetensors, README.
"""

import json
import math
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.limits import MOST_HEADER_BYTES
from utils.torch_archive import ArchiveError, zip_names

LENGTH = struct.Struct("<Q")  # of the header
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}


def is_safetensors(path: Path) -> bool:
    """Whether a file is of safetensors, by its first bytes: no .weights file has a version like such a length."""
    with open(path, "rb") as file:
        head = file.read(LENGTH.size + 1)
    return len(head) == LENGTH.size + 1 and head[-1:] == b"{" and 2 <= LENGTH.unpack(head[:-1])[0] <= MOST_HEADER_BYTES


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, copied. Raises ArchiveError where it does not hold what its header says."""
    with open(path, "rb") as file:
        (length,) = LENGTH.unpack(file.read(LENGTH.size))
        text, content = file.read(length), file.read()
    try:
        header = json.loads(text)
        return {name: _tensor(name, entry, content) for name, entry in header.items() if name != "__metadata__"}
    except ArchiveError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ArchiveError("found a header that is none of safetensors, expected dtype, shape and data_offsets by "
                           "name") from None


def _tensor(name: str, entry: dict, content: bytes) -> Tensor:
    """The tensor that a header's entry describes."""
    if entry["dtype"] not in DTYPES:
        raise ArchiveError(f"found {name[-100:]} of type {str(entry['dtype'])[:20]}, expected one of "
                           f"{', '.join(DTYPES)}")
    dtype, shape, (start, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not 0 <= start <= end <= len(content) or end - start != math.prod(shape) * dtype.itemsize or min(
            shape, default=0) < 0:
        raise ArchiveError(f"found {len(content):,} bytes of tensors, expected {name[-100:]} of shape "
                           f"{str(shape)[:50]} at {start} to {end}: the file is cut off")
    return torch.frombuffer(bytearray(content[start:end]), dtype=dtype).reshape(shape) if end > start else (
        torch.zeros(shape, dtype=dtype))


def is_npz(path: Path) -> bool:
    """Whether a file is a zip archive of NumPy's arrays alone."""
    names = zip_names(path)
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of numpy.savez by name. Raises ArchiveError where one holds objects, which are not unpickled."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ArchiveError(f"found arrays that cannot be read ({error}), expected numbers as numpy.savez writes "
                           "them") from None
