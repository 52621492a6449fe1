"""What a run begins with: weights from a file or from scratch, gammas at the scale that -sr needs."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from utils.batch_norm import rescale_gammas, rescale_obstacles
from utils.checkpoint import CheckpointError, load_weights
from utils.darknet_weights import WeightsError, file_bytes
from utils.origin import PUBLIC_CLASSES, PUBLIC_WEIGHTS, origin
from utils.parse_config import rebuild_heads
from utils.training.args import Source, SparsityOptions

AUTO_RESCALE = 0.05  # at an s that is set by hand; one that is found needs none and does better without


@dataclass(frozen=True)
class Start:
    """words: what was done; rescale: the factor that the gammas carry now, see utils.batch_norm."""

    words: str
    rescale: float = 1.0

    @classmethod
    def resumed(cls, last: str) -> "Start":
        """That of a run which goes on."""
        return cls(f"resumed from {last}")


def load_start(model: nn.Module, source: Source, sparsity: SparsityOptions) -> Start:
    """Load --weights into a new `model`, and shrink its gammas when asked. A default start that is not there or does
    not fit is a warning; one that was named raises WeightsError, CheckpointError or FileNotFoundError."""
    words, loaded = "from scratch", {}
    if source.weights and (source.weights_named or Path(source.weights).is_file()):
        try:
            report, loaded = load_weights(model, source.weights, strict=False)
            words = f"{source.weights}: {report}"
        except (WeightsError, CheckpointError) as error:
            if source.weights_named:
                raise
            words = f"warning: the default start does not fit this cfg ({error}): from scratch"
    elif source.weights and _default_start_fits(model, source.weights):
        words = f"warning: {source.weights} is not there{origin(source.weights)}: from scratch"
    start = Start(words, float(loaded.get("rescale", 1.0)))
    return _rescaled(model, start, sparsity) if sparsity.sr and sparsity.rescale != "none" else start


def _default_start_fits(model: nn.Module, weights: str) -> bool:
    """Whether the public weights, which are of 80 classes, are those of this net."""
    defs = rebuild_heads(model.module_defs, PUBLIC_CLASSES)
    return file_bytes(defs) == PUBLIC_WEIGHTS.get(Path(weights).name)


def _rescaled(model: nn.Module, start: Start, sparsity: SparsityOptions) -> Start:
    """Shrink the gammas as --rescale says; where "auto" cannot, say why and leave them."""
    alpha, auto = sparsity.rescale, sparsity.rescale == "auto"
    if auto:
        alpha = 1.0 if sparsity.aimed else AUTO_RESCALE
    if alpha == start.rescale:
        return start
    obstacles = rescale_obstacles(model.module_defs)
    if obstacles and auto:
        more = f" (and {len(obstacles) - 1} more)" if len(obstacles) > 1 else ""
        return Start(f"{start.words}; gammas not rescaled: {obstacles[0]}{more}", start.rescale)
    rescale_gammas(model, alpha / start.rescale)
    return Start(f"{start.words}; gammas rescaled by {alpha:g}, same function", alpha)


def freeze(model: nn.Module, count: int, cfg: Path) -> nn.ModuleList:
    """The first `count` layers, which are not trained from here on. Raises ValueError where `cfg` has no more."""
    if count >= len(model.module_list):
        raise ValueError(f"--freeze: found {count}, expected less than {len(model.module_list)}, the layers of {cfg}")
    return model.module_list[:count].requires_grad_(False)
