"""Two tables: of activations, their names in a cfg, their functions, and what pruning has to know of them; and of layer
types, what pruning and rescaling may assume of each."""

from dataclasses import dataclass
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Activation:
    """An elementwise activation. function: Tensor -> a new Tensor; module: makes the layer of a net, None for a plain
    call of the function; homogeneous: f(a x) = a f(x) for every a > 0."""

    function: Callable[[Tensor], Tensor]
    module: Callable[[], nn.Module] | None = None
    homogeneous: bool = False


def _stair(x: Tensor) -> Tensor:
    whole = x.floor()
    return (x / 2).floor() + (x - whole) * (whole.remainder(2) != 0)


def _plse(x: Tensor) -> Tensor:
    return torch.where(x < -4, 0.01 * (x + 4), torch.where(x > 4, 0.01 * (x - 4) + 1, 0.125 * x + 0.5))


def _hard_mish(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.where(x > -2, x * x / 2 + x, 0.0))


def _leaky(slope: float) -> Activation:
    return Activation(lambda x: F.leaky_relu(x, slope), lambda: nn.LeakyReLU(slope, inplace=True), homogeneous=True)


_HARD_SWISH = Activation(F.hardswish, nn.Hardswish)
_HARD_SIGMOID = Activation(F.hardsigmoid, nn.Hardsigmoid)
# Darknet's names and constants (activations.c of both public ones); silu and the last ones are of PyTorch forks
# (Howard et al. 2019, section 5.2)
ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda x: x, nn.Identity, homogeneous=True),
    "leaky": _leaky(0.1),
    "revleaky": _leaky(0.1),
    "relie": _leaky(0.01),
    "relu": Activation(F.relu, lambda: nn.ReLU(inplace=True), homogeneous=True),
    "relu6": Activation(F.relu6, lambda: nn.ReLU6(inplace=True)),
    "ramp": Activation(lambda x: F.relu(x) + 0.1 * x, homogeneous=True),
    "elu": Activation(F.elu, nn.ELU),
    "selu": Activation(lambda x: 1.0507 * F.elu(x, 1.6732)),
    "gelu": Activation(lambda x: F.gelu(x, approximate="tanh"), lambda: nn.GELU("tanh")),
    "mish": Activation(F.mish, nn.Mish),
    "hard_mish": Activation(_hard_mish),
    "swish": Activation(F.silu, nn.SiLU), "silu": Activation(F.silu, nn.SiLU),
    "logistic": Activation(torch.sigmoid, nn.Sigmoid),
    "loggy": Activation(lambda x: 2 * torch.sigmoid(x) - 1),
    "tanh": Activation(torch.tanh, nn.Tanh),
    "hardtan": Activation(F.hardtanh, nn.Hardtanh),
    "lhtan": Activation(lambda x: torch.where(x < 0, 0.001 * x, torch.where(x > 1, 0.001 * (x - 1) + 1, x))),
    "plse": Activation(_plse),
    "stair": Activation(_stair),
    "h_swish": _HARD_SWISH, "hswish": _HARD_SWISH, "hard_swish": _HARD_SWISH,
    "h_sigmoid": _HARD_SIGMOID, "hard_sigmoid": _HARD_SIGMOID,
}
# Darknet's others, which are not elementwise
MIXING = ("normalize_channels", "normalize_channels_softmax", "normalize_channels_softmax_maxval")


@dataclass(frozen=True)
class LayerType:
    """What may be assumed of a layer type; of one that is not in LAYER_TYPES nothing is, so pruning leaves the layers
    around it alone. homogeneous: f(a x) = a f(x) for every a > 0, its activation aside. constant: given the section and
    the (C,) constants that the channels of its one input hold, those of its own channels, one for one; None: channels
    do not pass one for one, and pruning knows it by name (utils.pruning.channel_graph, surgery) or not at all."""

    homogeneous: bool = False
    constant: Callable[[dict, Tensor], Tensor] | None = None


_SAME = LayerType(homogeneous=True, constant=lambda section, values: values)
LAYER_TYPES: dict[str, LayerType] = {
    "maxpool": _SAME, "local_avgpool": _SAME, "avgpool": _SAME, "dropout": _SAME,
    "upsample": LayerType(homogeneous=True, constant=lambda section, values: values * float(section.get("scale", 1))),
    **dict.fromkeys(("convolutional", "route", "shortcut", "reorg", "reorg3d", "yolo", "region", "Gaussian_yolo"),
                    LayerType(homogeneous=True)),
    **dict.fromkeys(("scale_channels", "sam"), LayerType()),
}


class Elementwise(nn.Module):
    """An activation that has no module of its own."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """A new tensor of x's shape."""
        return ACTIVATIONS[self.name].function(x)

    def extra_repr(self) -> str:
        """Its name in the cfg."""
        return self.name


def activation(name: str) -> nn.Module:
    """The module of a cfg activation name."""
    return make() if (make := ACTIVATIONS[name].module) else Elementwise(name)


def activation_name(section: dict) -> str:
    """Name of a section's activation."""
    return section.get("activation", default_activation(section["type"]))


def default_activation(kind: str) -> str:
    """Darknet's, of a layer of the type `kind` whose section names none."""
    return "logistic" if kind == "convolutional" else "linear"


def activation_of(section: dict) -> Callable[[Tensor], Tensor]:
    """Function of a section's activation."""
    return ACTIVATIONS[activation_name(section)].function


def carrier_beta(section: dict) -> float:
    """Beta for which the layer's activation gives 1; 0 where it gives something there already (logistic), 1 where it
    never gets to 1 (tanh)."""
    function = activation_of(section)

    def value(x: float) -> float:
        """The activation of one number."""
        return function(torch.tensor(x, dtype=torch.float64)).item()

    if value(0.0) != 0:
        return 0.0
    if value(1.0) == 1 or value(8.0) <= 1:
        return 1.0
    from scipy.optimize import brentq  # not above: it would take a tenth of every script's start, for few nets

    return brentq(lambda x: value(x) - 1.0, 0.0, 8.0, xtol=1e-15)


def module_name(kind: str, layer_i: int) -> str:
    """Name of a convolutional layer's module: "conv", "batch_norm", or the activation's, with the layer's number."""
    return f"{kind}_{layer_i}"


def state_key(layer_i: int, part: str) -> str:
    """state_dict key of a convolution's part: "conv" or "batch_norm" with its attribute, such as "conv.weight"."""
    kind, attribute = part.split(".")
    return f"module_list.{layer_i}.{module_name(kind, layer_i)}.{attribute}"


def split_key(key: str) -> tuple[int, str]:
    """(layer, part) of a key that `state_key` made."""
    _, layer_i, module, attribute = key.split(".")
    return int(layer_i), f"{module.removesuffix(module_name('', int(layer_i)))}.{attribute}"
