"""A cfg made for the data of a run, where the command line names none: base, width, classes, clustered anchors."""

import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Iterator

from utils import torchrun
from utils.data.anchors import mean_best_iou, sizes_at, used_anchors, with_fitted_anchors
from utils.data.data_config import DataConfig, parse_data_config
from utils.data.datasets import ListDataset
from utils.families import SMALL, SMALL_WIDTH, build
from utils.loading import picture_defs
from utils.output import counted
from utils.parse_config import class_count, format_model_config, input_size, write_model_config
from utils.training.args import Source, TrainOptions, train_options
from utils.training.run_folder import refuse_existing, run_path

MOST_IMAGES = 2000  # whose boxes are clustered: each is decoded, since its header does not tell how it is turned
PLAIN_NAMES = ("data", "dataset")  # of data files that only their folder tells apart


@dataclass(frozen=True)
class NewCfg:
    """A cfg that was made. words: of what; name: its file name without .cfg."""

    defs: list[dict]
    name: str
    words: str


@contextmanager
def cfg_for_data(options: TrainOptions) -> Iterator[TrainOptions]:
    """Options of train.py with a cfg: `options` themselves, or with one that is made where none was named and the
    default does not fit the data's classes, or --base or --width asks for it.

    It is written into the run's folder and, unless --no-publish, config/; one line says so when the block has ended.
    What was written goes again when the block raises, and always in the further processes of torchrun.
    """
    output, source = options.output, options.source
    made = None if output.resume else _made(options)
    if made is None:
        yield options
        return
    first = torchrun.rank() == 0
    run = run_path(options, made.name)
    if first:
        refuse_existing(run)
    folder, written = run if first else Path(tempfile.mkdtemp()), []
    try:
        paths = [folder / f"{made.name}.cfg"]
        if first and not output.no_publish:
            paths.append(_place(made))
        for path in paths:
            if not path.exists():
                written.append(path)
            write_model_config(path, made.defs)
        start = {} if source.weights_named or _public(source) else {"weights": None}
        name = run.relative_to("logs").as_posix()
        yield train_options(options.given | start | {"cfg": str(path), "name": name})
    except BaseException:
        _remove(written, folder)
        raise
    if first:
        print(_how_to_use(made, path, run))
    else:
        shutil.rmtree(folder)


def _public(source: Source) -> bool:
    """Whether the net is one that the default start, the public YOLOv3, has weights for."""
    return source.base == "yolov3" and source.width in (None, 1.0)


def _made(options: TrainOptions) -> NewCfg | None:
    """The cfg that the options ask for; None where one was named, or the default is right."""
    source = options.source
    if "cfg" in options.typed:
        return None
    data = parse_data_config(source.data, source.class_path, source.keep_classes)
    if source.base is None and source.width is None and Path(source.cfg).is_file() and (
            class_count(picture_defs(Path(source.cfg))) == data.classes):
        return None
    # a base by itself is the public net; without one the small default
    base, width = source.base or SMALL, source.width or (1.0 if source.base else SMALL_WIDTH)
    size = (source.img_size, source.img_size) if source.img_size else (416, 416)
    defs, fitted = _fitted(build(base, data.classes, width, size), data, options.read.skip_bad)
    slim = "" if width == 1 else f"-w{100 * width:02.0f}"
    about = f"{base}{f' of width {width:g}' * (width != 1)} for {counted(data.classes, 'class', 'classes')}"
    return NewCfg(defs, f"{base}{slim}-{_data_name(data)}", f"{about} of {data.path}, {fitted}")


def _data_name(data: DataConfig) -> str:
    """What a data file is about, as a part of file names."""
    path = data.path.resolve()
    name = path.parent.name if path.stem.lower() in PLAIN_NAMES and path.parent.name else path.stem
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "data"


def _fitted(defs: list[dict], data: DataConfig, skip_bad: bool) -> tuple[list[dict], str]:
    """module_defs with anchors clustered from training boxes, and that in words; its own where they are too few."""
    images = ListDataset(data.lists("train"), input_size(defs), len(data.written or data.names), skip_bad=skip_bad)
    if data.written:
        images.keep_classes([data.written.index(name) for name in data.names])
    step = -(-len(images) // MOST_IMAGES)
    wh = sizes_at(images.images[::step], images.labels[::step], input_size(defs))
    anchors = len(used_anchors(defs))
    if len(wh) < anchors:
        return defs, f"the base's own {anchors} anchors (of {len(wh)} boxes none can be clustered)"
    fitted = with_fitted_anchors(defs, wh)
    overlap = mean_best_iou(wh, used_anchors(fitted))
    return fitted, f"{anchors} anchors from {len(wh):,} boxes (mean best IoU {overlap:.2f})"


def _place(made: NewCfg) -> Path:
    """config/NAME.cfg, or NAME-2, NAME-3, ... where another net has that name."""
    names = (Path("config") / f"{made.name}{f'-{number}' * (number > 1)}.cfg" for number in count(1))
    text = format_model_config(made.defs)
    return next(path for path in names if not path.exists() or path.read_text(encoding="utf-8") == text)


def _remove(written: list[Path], folder: Path) -> None:
    """Take back what was written, and the folder where nothing else is in it."""
    for path in written:
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _how_to_use(made: NewCfg, path: Path, run: Path) -> str:
    kept, weights = f", a copy in {run}", ""
    if path.parent == run:
        kept, weights = "", f" --weights {run / 'best.pth'}"
    return (f"made {path} ({made.words}){kept}; once trained: python test.py --cfg {path}{weights}, likewise detect.py "
            "and test_prune.py")
