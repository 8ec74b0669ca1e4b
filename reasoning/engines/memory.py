"""How much memory there is, and how much a checkpoint's weights take: what the engines check before they load.

Reads the headers of safetensors files and the machine's own figures. Loads nothing.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from safetensors import safe_open

from reasoning.errors import UserError

GIB = 2**30
_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def free_memory_bytes() -> int:
    """What Linux says can be had without swapping; elsewhere half of the machine's memory."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def out_of_memory(error: BaseException) -> bool:
    """Whether torch, or Python, found no room; on a CPU torch says it in words alone."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in said or "out of memory" in said.lower()
    )


def stored_tensors(folder: str | Path) -> list[tuple[str, tuple[int, ...], str]]:
    """(name, shape, type) of each tensor in the safetensors files of ``folder``; their headers alone are read.

    Raises UserError for a damaged file.
    """
    out = []
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    part = file.get_slice(name)
                    out.append((name, tuple(part.get_shape()), str(part.get_dtype())))
        except Exception as error:  # SafetensorError, OSError: the file cannot be read
            raise UserError(f"{path} cannot be read: {error}") from error
    return out


def weights_bytes(folder: str | Path, dtype: str) -> int:
    """Size of a checkpoint's tensors once they are loaded as ``dtype`` ("auto": as they are stored)."""
    return sum(
        math.prod(shape) * _DTYPE_BYTES.get(dtype, _BYTES.get(kind, 4))
        for _, shape, kind in stored_tensors(folder)
    )
