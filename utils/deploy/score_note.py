"""The scores of a net in bfloat16 and float32 that test.py noted beside its weights, for --backend auto."""

import json
from dataclasses import dataclass
from pathlib import Path

from utils.deploy.metadata import net_hash
from utils.output import write_json

NEGLIGIBLE = 0.001  # AP that bfloat16 may lose and still be taken unasked
FLOAT32, BFLOAT16 = "float32", "bfloat16"


@dataclass(frozen=True)
class ScoreNote:
    """The scores of one file of weights, kept beside it: WEIGHTS.scores.json."""

    path: Path

    @classmethod
    def of(cls, weights) -> "ScoreNote":
        """Of a file of weights."""
        return cls(Path(f"{weights}.scores.json"))

    def scores(self, model) -> dict[str, dict]:
        """Precision -> what was noted; empty where the note is missing, damaged or of other weights."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return dict(content["scores"]) if content["made_from"] == net_hash(model) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def add(self, model, precision: str, aps: tuple[float, float], conditions: dict) -> None:
        """Note AP@.5 and AP@[.5:.95] under `conditions` (data, size, thresholds), in place of an earlier score."""
        scores = self.scores(model) | {precision: {"ap": list(aps), "conditions": conditions}}
        write_json(self.path, {"made_from": net_hash(model), "scores": scores})

    def bf16_drop(self, model) -> float | None:
        """The larger AP that bfloat16 loses to float32; None unless both were scored under the same conditions."""
        scores = self.scores(model)
        try:
            full, half = scores[FLOAT32], scores[BFLOAT16]
            if full["conditions"] != half["conditions"]:
                return None
            return max(float(one) - float(other) for one, other in zip(full["ap"], half["ap"], strict=True))
        except (KeyError, TypeError, ValueError):
            return None
