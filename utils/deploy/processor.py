"""What number formats the processor computes with: by the flags that Linux names in /proc/cpuinfo."""

import platform
import re
from pathlib import Path

INT8_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")  # 8-bit products summed by one instruction
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # the same of bfloat16 numbers; the last is ARM's
# what a processor may have, in words -> the flags of which any says so
ABILITIES = {"AVX2": ("avx2",), "AVX-512": ("avx512f",), "8-bit products (VNNI)": INT8_FLAGS, "bfloat16": BF16_FLAGS,
             "AMX": ("amx_tile",)}


def instructions(wanted: tuple[str, ...], cpuinfo: str | None = None) -> list[str]:
    """Which of the flags the processor has, by the text of /proc/cpuinfo; none where that is not there."""
    path = Path("/proc/cpuinfo")
    if cpuinfo is None:
        cpuinfo = path.read_text() if path.is_file() else ""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, flags=re.MULTILINE)
    there = line[1].split() if line else []
    return [flag for flag in wanted if flag in there]


def int8_words() -> str:
    """What to expect of 8-bit numbers here, in words."""
    if found := instructions(INT8_FLAGS):
        return f"this processor sums 8-bit products ({', '.join(found)})"
    if platform.system() != "Linux":
        return "whether this processor sums 8-bit products cannot be told here"
    return ("this processor has no instruction for 8-bit products (VNNI): "
            "int8 makes the file small, but will not pay here in time")


def computes_int8() -> bool:
    """Whether the processor is known to sum 8-bit products by one instruction (VNNI and its like)."""
    return bool(instructions(INT8_FLAGS))


def computes_bf16() -> bool:
    """Whether the processor is known to compute with bfloat16 (AVX-512 BF16, AMX, ARM's)."""
    return bool(instructions(BF16_FLAGS))


def require_bf16() -> None:
    """Raise ValueError on a Linux machine whose processor would only imitate bfloat16."""
    if platform.system() == "Linux" and not instructions(BF16_FLAGS):
        raise ValueError(f"--backend openvino-bf16: found a processor without bfloat16, expected one of "
                         f"{', '.join(BF16_FLAGS)} in /proc/cpuinfo; take --backend openvino")
