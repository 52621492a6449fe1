"""Near-duplicates between the two sides of a split, by a perceptual hash."""

import cv2
import numpy as np

HASH_SIDE = 16  # 16 x 16 = 256 bits
NEAR = 12  # bits of 256 that may differ
_CHUNK = 1 << 20  # pairs compared at a time


def difference_hash(image: np.ndarray) -> str:
    """256-bit dHash of an (H, W, 3) RGB image, 64 hex digits: which of 16 x 17 cells are darker than the next."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes().hex()


def near_duplicates(hashes: list[str], others: list[str], limit: int = NEAR) -> list[tuple[int, int, int]]:
    """(i, j, distance) for each of `others` (j) that has one of `hashes` (i) within `limit` bits: the nearest."""
    one, other = _words(hashes), _words(others)
    if not len(one) or not len(other):
        return []
    found = []
    step = max(_CHUNK // len(one), 1)
    for start in range(0, len(other), step):
        distances = _bit_counts(other[start:start + step, None] ^ one[None])
        nearest = distances.argmin(1)
        for k, i in enumerate(nearest.tolist()):
            if distances[k, i] <= limit:
                found.append((i, start + k, int(distances[k, i])))
    return found


def _words(hashes: list[str]) -> np.ndarray:
    """(N, 4) uint64."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint64).reshape(-1, 4)


def _bit_counts(words: np.ndarray) -> np.ndarray:
    """(N, M, 4) uint64 -> (N, M) int: how many bits are set."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(words).sum(-1, dtype=np.int64)
    return _BITS[words.view(np.uint16)].sum(-1, dtype=np.int64)


_BITS = np.array([bin(i).count("1") for i in range(1 << 16)], np.uint8)
