"""Learning rate as a pure function of the step."""

import math


def learning_rate(
    step: int, total: int, base: float, warmup: int = 0, kind: str = "cosine", final: float = 0.01
) -> float:
    """Learning rate of optimiser step `step` (from 0) out of `total`.

    Rises linearly over `warmup` steps, then "cosine": falls to base x final (Loshchilov and Hutter 2017, eq. 5);
    "steps": base / 10 after 80 % and / 100 after 90 % (YOLOv3's policy); "constant": stays.
    """
    if step < warmup:
        return base * (step + 1) / warmup
    if kind == "cosine":
        done = (step - warmup) / max(total - warmup, 1)
        return base * (final + (1 - final) * (1 + math.cos(math.pi * min(done, 1.0))) / 2)
    if kind == "steps":
        return base * (0.1 if step >= 0.8 * total else 1.0) * (0.1 if step >= 0.9 * total else 1.0)
    return base
