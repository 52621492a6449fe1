"""Tiny nets of the tests. Their layers have names: {NAME} in a section is that section's number."""

NET = "[net]\nwidth={side}\nheight={side}\nchannels={channels}\n\n"
EXPANDED = {"[se]\nreduction=2\n": 4}  # layers that a section stands for


def cfg_text(layers: dict[str, str], side: int = 64, channels: int = 3, **words: str) -> str:
    """The cfg of {name: section}. words: what else stands in braces, act the activation above all."""
    numbers = {name: number for number, name in enumerate(layers)}
    sections = "\n".join(section.format(**numbers, **({"act": "leaky"} | words)) for section in layers.values())
    return NET.format(side=side, channels=channels) + sections


def place(layers: dict[str, str], name: str) -> int:
    """The number of a named layer in the net that is made of the cfg."""
    before = list(layers.values())[:list(layers).index(name)]
    return sum(EXPANDED.get(section, 1) for section in before)


def with_layer(layers: dict[str, str], before: str, **more: str) -> dict[str, str]:
    """The layers with others behind the one named before."""
    parts = [{name: section} | (more if name == before else {}) for name, section in layers.items()]
    return {name: section for part in parts for name, section in part.items()}


def convolution(filters: int, size: int = 1, stride: int = 1, groups: int = 1, normalised: int = 1,
                act: str = "{act}") -> str:
    """A padded convolution."""
    return ("[convolutional]\n" + "batch_normalize=1\n" * normalised + f"filters={filters}\nsize={size}\n"
            f"stride={stride}\npad=1\n" + f"groups={groups}\n" * (groups > 1) + f"activation={act}\n")


def predictions(filters: int, size: int = 1) -> str:
    """The convolution before a head."""
    return convolution(filters, size, normalised=0, act="linear")


def added(*others: str, act: str = "linear") -> str:
    """A shortcut: the layer before and others."""
    return f"[shortcut]\nfrom={','.join('{%s}' % name for name in others)}\nactivation={act}\n"


def route(*layers: str, more: str = "") -> str:
    """Layers one behind the other."""
    return f"[route]\nlayers={','.join('{%s}' % name for name in layers)}\n{more}"


HALF = "groups=2\ngroup_id=1\n"  # of a route: the second half of each layer's channels
UPSAMPLE = "[upsample]\nstride=2\n"
POOL = "[maxpool]\nsize=5\nstride=1\n"
YOLO = "[yolo]\nmask=0,1\nanchors=10,10, 20,20\nclasses=1\nnum=2\n"
ANCHORS = "anchors=4,6, 8,10, 12,14, 20,24, 30,30, 48,50\nclasses=1\nnum=6\n"

# YOLOv3 in small: a residual block, two heads, the second after upsampling
TINY = {
    "stem": convolution(8, 3, stride=2),
    "half": convolution(16, 3, stride=2),
    "squeeze": convolution(8),
    "expand": convolution(16, 3),
    "block": added("half"),
    "deep": convolution(24, 3, stride=2),
    "neck": convolution(12),
    "coarse": predictions(18),
    "coarse_head": "[yolo]\nmask=3,4,5\n" + ANCHORS,
    "again": route("neck"),
    "lateral": convolution(8),
    "raised": UPSAMPLE,
    "both": route("raised", "block"),
    "mixed": convolution(16, 3),
    "fine": predictions(18),
    "fine_head": "[yolo]\nmask=0,1,2\n" + ANCHORS,
}
TINY_YOLO = cfg_text(TINY)

# depthwise and grouped convolutions, routes of halves, pooling, attention of channels, [reorg], an unpadded convolution
MIXED = {
    "stem": convolution(16, 3, stride=2),
    "depthwise": convolution(16, 3, groups=16),
    "linear": convolution(16, act="linear"),
    "block": added("stem", act="{act}"),
    "grouped": convolution(24, 3, groups=4),
    "deep": convolution(32, 3, stride=2),
    "half": route("deep", more=HALF),
    "narrow": convolution(16, 3),
    "pool": POOL,
    "joined": route("pool", "half"),
    "average": "[avgpool]\n",
    "gate": convolution(32, act="logistic"),
    "gated": "[scale_channels]\nfrom={deep}\n",
    "after": convolution(32, 3),
    "raised": UPSAMPLE,
    "both": route("raised", "grouped"),
    "unpadded": convolution(16, 3, stride=2).replace("pad=1", "padding=0"),
    "moved": "[reorg]\nstride=1\n",
    "raw": predictions(12, 3),
    "head": YOLO,
}

# what MIXED lacks: an inverted residual block with dropout (as in Yolo-Fastest and MobileNet-YOLO), a shortcut of three
# inputs, a depthwise layer with two outputs per input, a convolution without batch norm in the middle, [sam], a grouped
# route of two inputs, a [reorg] that moves places, two kinds of heads. {joins}: a section that reads doubled and wide
ODD = {
    "stem": convolution(8, 3, stride=2),
    "wider": convolution(16),
    "depthwise": convolution(16, 3, groups=16),
    "linear": convolution(8, act="linear"),
    "dropout": "[dropout]\nprobability=0.15\n",
    "block": added("stem"),
    "narrow": convolution(8),
    "three": added("block", "stem", act="{act}"),
    "doubled": convolution(16, 3, groups=8),
    "plain": convolution(16, 3, normalised=0),
    "wide": convolution(16, 3),
    "joined": "{joins}",
    "half": route("joined", "wide", more=HALF),
    "quarter": convolution(16, 3, stride=2),
    "thin": convolution(8),
    "moved": "[reorg]\nstride=2\n",
    "back": route("quarter"),
    "eighth": convolution(12, 3, stride=2),
    "pool": POOL,
    "all": route("pool", "eighth", "moved"),
    "deep": convolution(16, 3),
    "raw": predictions(12),
    "region": "[region]\nanchors=1,1, 2,2\nclasses=1\nnum=2\ncoords=4\nsoftmax=1\n",
    "again": route("deep"),
    "raised": UPSAMPLE,
    "both": route("raised", "quarter"),
    "mixed": convolution(8, 3),
    "fine": predictions(12),
    "yolo": YOLO,
}
SAM = "[sam]\nfrom=8\nactivation=linear\n"
ADD = "[shortcut]\nfrom=8\nactivation=linear\n"
ROUTE = "[route]\nlayers=8,10\n"

# layers of other people's cfgs: shortcuts of unequal widths (the other input narrower, wider, two of them, chained;
# what they do not add is read by padded convolutions), dilation, strides that differ, [reorg3d], [local_avgpool],
# scaled upsampling, [se], [depthwise], [Gaussian_yolo]
FOREIGN = {
    "stem": convolution(8, 3, stride=2),
    "flat": convolution(12, 3).replace("stride=1", "stride_x=1\nstride_y=2"),
    "tall": convolution(12, 3).replace("stride=1", "stride_x=2\nstride_y=1"),
    "dilated": convolution(8, 3).replace("pad=1", "pad=1\ndilation=2"),
    "cut_short": added("tall", act="{act}"),  # 8 channels and the first 8 of 12
    "wider": convolution(16, 3),
    "passed_on": added("cut_short"),  # 16 channels, the first 8 with those of cut_short
    "three": added("tall", "cut_short", act="{act}"),  # 16, 12 and 8 channels
    "narrow": convolution(8, 3),
    "depthwise": "[depthwise]\nbatch_normalize=1\nfilters=8\nsize=5\npad=1\nactivation={act}\n",
    "attention": "[se]\nreduction=2\n",
    "ten": convolution(10, 3),
    "spread": "[reorg3d]\nstride=2\n",
    "twelve": convolution(12, 3),
    "average": "[local_avgpool]\nsize=3\nstride=1\n",
    "fourteen": convolution(14, 3),
    "of_forty": added("spread"),  # 14 channels and the first 14 of 40 that share ten
    "again": convolution(14, 3),
    "raised": "[upsample]\nstride=2\nscale=0.5\n",
    "both": route("raised", "three"),
    "mixed": convolution(12, 3),
    "raw": predictions(20),
    "head": "[Gaussian_yolo]\nmask=0,1\nanchors=10,10, 20,20, 30,30\nclasses=1\nnum=3\n",
}

# ResNet's first block as Darknet's cfg has it: the convolutions shrink the map, the shortcut takes every second cell
RESNET = {
    "stem": convolution(8, 3),
    "smaller": convolution(8, 3, stride=2),
    "linear": convolution(12, act="linear"),
    "block": added("stem", act="{act}"),
    "raw": predictions(18),
    "head": "[yolo]\nmask=0,1,2\nanchors=3,4, 5,6, 7,8\nclasses=1\nnum=3\n",
}

# two shortcuts of unequal widths, one on the other
PARTIAL = {
    "six": convolution(6, 3),
    "four": convolution(4, 3),
    "first": added("six"),  # 4 channels, of six's the first 4
    "nine": convolution(9, 3),
    "second": added("first"),  # 9 channels, the first 4 with first's
    "eight": convolution(8, 3),
    "raw": predictions(18),
    "head": "[yolo]\nmask=0,1,2\nanchors=1,2,3,4,5,6\nclasses=1\n",
}
