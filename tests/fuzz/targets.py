"""What reads each kind of input. A target is called with a folder and a generator: it writes a damaged file there and
reads it as the scripts do. Returns nothing; raises what the reader raises."""

import importlib.util
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from models import Darknet
from tests.fuzz import corpus
from tests.fuzz.mutate import ODD, mutated, replaced
from utils.checkpoint import load_weights, weights_classes
from utils.data import classes, formats
from utils.data.annotations import Faults
from utils.data.data_config import parse_data_config
from utils.data.image_files import read_image_list
from utils.data.source import Source
from utils.data.yolo_labels import read_labels
from utils.deploy.runtimes import open_exported
from utils.deploy.sources import Item, frames, is_film, read_picture
from utils.letterbox import letterbox
from utils.class_names import read_names
from utils.loading import checked_size
from utils.parse_config import class_count, format_model_config, parse_model_config
from utils.pruning.channel_graph import channel_graph
from utils.shapes import total_cost

MOST_MACS = 1e8  # of a net that is also run: the fuzzer is after faults, not after heat
ROOT = Path(__file__).resolve().parent.parent.parent


def convert_module():
    """data/converter.py, which no module may import by name."""
    spec = importlib.util.spec_from_file_location("converter", ROOT / "data" / "converter.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Targets:
    """Every kind of input; `home` keeps the sound files."""

    home: Path
    exported: dict[str, bytes] = field(default_factory=dict)

    @cached_property
    def net(self) -> tuple[Darknet, bytes, dict]:
        """The tiny net, its .weights, its checkpoint."""
        return corpus.nets(self.home)

    @cached_property
    def pictures(self) -> dict[str, list[bytes]]:
        """Suffix -> files."""
        return corpus.pictures()

    @cached_property
    def mats(self) -> list[bytes]:
        """.mat files."""
        return corpus.mats()

    @cached_property
    def converter(self):
        """data/converter.py."""
        return convert_module()

    def cfg(self, folder: Path, rng: np.random.Generator) -> None:
        """A cfg, built, run where that is cheap, and looked at as pruning does."""
        texts = [text.encode() for text in (corpus.NET, *corpus.OTHERS)]
        path = _written(folder / "input.cfg", mutated(rng, _one(rng, texts), texts))
        defs = parse_model_config(path)
        model = Darknet(defs, initialise=False).eval()
        size = checked_size(None, defs)
        class_count(defs)
        channel_graph(defs)
        assert format_model_config(defs)
        if total_cost(defs).macs < MOST_MACS and size[0] * size[1] <= 1 << 20:
            with torch.inference_mode():
                model(torch.zeros(1, model.channels, *size[::-1]))

    def weights(self, folder: Path, rng: np.random.Generator) -> None:
        """A .weights file."""
        model, content, _ = self.net
        self._load(_written(folder / "input.weights", mutated(rng, content, [content])))

    def checkpoint(self, folder: Path, rng: np.random.Generator) -> None:
        """A checkpoint: its values, or its bytes."""
        content = self.net[2]
        if rng.uniform() < 0.7:
            odd = (*ODD, torch.zeros(3), torch.full((8, 3, 3, 3), float("nan")), torch.zeros(3, dtype=torch.complex64))
            data = corpus.saved(replaced(rng, content, odd), _use_new_zipfile_serialization=bool(rng.integers(4)))
        else:
            old = bool(rng.integers(2))
            data = mutated(rng, corpus.saved(content, _use_new_zipfile_serialization=old), [])
        self._load(_written(folder / "input.pth", data))

    def _load(self, path: Path) -> None:
        model = self.net[0]
        weights_classes(path, model.module_defs)
        load_weights(model, path)

    def data(self, folder: Path, rng: np.random.Generator) -> None:
        """A .data file or a YAML one."""
        suffix, content = _one(rng, ((".data", corpus.DATA), (".yaml", corpus.YAML)))
        for name in ("images/train", "images/valid", "more"):
            (folder / name).mkdir(parents=True)
        for name in ("train.txt", "valid.txt", "a.names"):
            (folder / name).write_text("a\nb\n")
        config = parse_data_config(_written(folder / f"input{suffix}", mutated(rng, content, [corpus.YAML])))
        for part in ("train", "valid"):
            config.lists(part)

    def names(self, folder: Path, rng: np.random.Generator) -> None:
        """A file of class names."""
        read_names(_written(folder / "input.names", mutated(rng, "hand\nfoot\n\u00fc b\n".encode(), [b"a\r\nb"])))

    def lists(self, folder: Path, rng: np.random.Generator) -> None:
        """A list of images."""
        _written(folder / "a.png", self.pictures[".png"][0])
        read_image_list(_written(folder / "input.txt", mutated(rng, b"a.png\n./a.png\n# a.png\n", [b"../a"])))

    def labels(self, folder: Path, rng: np.random.Generator) -> None:
        """Labels of an image."""
        content = b"0 0.5 0.5 0.2 0.3\n1 0.25 0.5 0.125 0.5\n0 0.1 0.1 0.2 0.2\n"
        rows = read_labels(_written(folder / "input.txt", mutated(rng, content, [content])), 2)
        assert rows.shape[1] == 5 and np.isfinite(rows).all() and (rows >= 0).all()

    def mat(self, folder: Path, rng: np.random.Generator) -> None:
        """An annotation file of the Oxford release."""
        self.converter.read_mat(_written(folder / "input.mat", mutated(rng, _one(rng, self.mats), self.mats)))

    def image(self, folder: Path, rng: np.random.Generator) -> None:
        """A picture, as detection and the converter read it."""
        suffix = _one(rng, sorted(self.pictures))
        content = mutated(rng, _one(rng, self.pictures[suffix]), self.pictures[suffix])
        path = _written(folder / f"input{suffix}", content)
        if suffix == ".gif" and is_film(path):
            for _ in frames(Item(str(path), Path("input"), True)):
                pass
        letterbox(read_picture(path), (64, 64))
        self.converter.image_size(path)

    def annotation(self, folder: Path, rng: np.random.Generator) -> None:
        """An annotation file of another program, with its picture."""
        _written(folder / "a.png", self.pictures[".png"][0])
        suffix, files = _one(rng, sorted(corpus.annotations().items()))
        content = _one(rng, files)
        if suffix == ".json" and rng.uniform() < 0.7:
            content = json.dumps(replaced(rng, json.loads(content), [*ODD[:16], *ODD[17:]]), default=str).encode()
        else:
            content = mutated(rng, content, files)
        _written(folder / f"input{suffix}", content)
        faults = Faults(skip_bad=bool(rng.integers(2)))
        source = Source(folder, faults)
        found = formats.read(formats.detect(source), source)
        classes.join_repeated(found, faults)

    def export(self, folder: Path, rng: np.random.Generator) -> None:
        """A file of export.py."""
        if not self.exported:
            self.exported = exported_files(self.net[0], self.home)
        name = _one(rng, sorted(self.exported))
        for other, content in self.exported.items():
            if other != name and other.partition(".")[0] == name.partition(".")[0]:
                _written(folder / other.replace("net", "input"), content)
        path = _written(folder / name.replace("net", "input"), mutated(rng, self.exported[name], []))
        if path.suffix in (".bin", ".json"):
            path = next(folder / f"input{end}" for end in (".xml", ".ncnn.param") if (folder / f"input{end}").exists())
        file = open_exported(path)
        file.predict(torch.zeros(1, 3, *file.size[::-1]))


def exported_files(model: Darknet, home: Path) -> dict[str, bytes]:
    """File name -> content of the net in the formats whose packages are installed."""
    from utils.deploy.formats import FORMATS, Order, export_format

    folder, found = home / "exported", {}
    for name, kind in FORMATS.items():
        if kind.write is not None and name in ("onnx", "torchscript"):
            try:
                export_format(model, name, folder / f"net{kind.suffix}", Order(("hand",), (32, 32), "float32", None))
            except ValueError:  # a package is missing
                continue
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _one(rng: np.random.Generator, values):
    return values[int(rng.integers(len(values)))]


# kind -> its share of the inputs
SHARES = {"cfg": 20, "weights": 5, "checkpoint": 10, "data": 12, "names": 3, "lists": 4, "labels": 6, "mat": 6,
          "image": 14, "annotation": 16, "export": 4}
