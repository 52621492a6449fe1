"""Exported files, each run by its own runtime: images (B, 3, H, W) float32 RGB 0..1 -> (B, N, 5 + K), as Darknet in
eval mode."""

import contextlib
import json
import mmap
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from utils import torch_archive
from utils.deploy.metadata import Metadata, net_hash
from utils.deploy.onnx_runtimes import BF16, FROM_ONNX, QUIET, Predict
from utils.deploy.openvino_export import KEY
from utils.deploy.packages import missing, require_packages
from utils.deploy.processor import require_bf16
from utils.deploy.torchscript_export import EXTRA
from utils.loading import select_device
from utils.text import first_line

INT8_SUFFIXES = (".xml", ".onnx")  # that export.py writes 8-bit numbers in
# default first
RUNTIMES = {
    ".onnx": ("onnxruntime", "openvino", BF16),
    ".xml": ("openvino", BF16),
    ".param": ("ncnn",),
    ".torchscript": ("torch",),
    ".tflite": ("ai_edge_litert",),
}


@dataclass(frozen=True)
class Exported:
    """An exported file, ready to run on the CPU."""

    path: Path
    metadata: Metadata
    runtime: str
    size: tuple[int, int]  # (width, height) of the images it was opened for
    predict: Predict

    @property
    def channels(self) -> int:
        """Of its images: 3, or 1 (brightness)."""
        return self.metadata.channels

    @property
    def device(self) -> torch.device:
        """Where its images are to lie."""
        return torch.device("cpu")

    def words(self) -> str:
        """What it is, for a script's first line."""
        cut = (
            f"; its own suppression keeps objectness from {self.metadata.nms.conf_thres:g} on"
            if self.metadata.nms
            else ""
        )
        return f"{self.path}: {self.metadata.precision}, by {self.runtime}{cut}"

    def files(self) -> list[Path]:
        """The files that a device needs."""
        return files_of(self.path)

    def bytes(self) -> int:
        """Their size."""
        return sum(path.stat().st_size for path in self.files())


def files_of(path: Path) -> list[Path]:
    """An exported file, and its weights where they lie beside it."""
    return [path] + ([path.with_suffix(".bin")] if path.suffix.lower() in (".xml", ".param") else [])


def open_exported(path, backend: str = "auto", size: tuple[int, int] | None = None) -> Exported:
    """The file with what runs it, on images of (width, height) `size` alone (default: the metadata's).

    Raises FileNotFoundError; ValueError when the backend cannot run such a file, a package is missing (naming the pip
    command), the size is not the file's, or the file is damaged.
    """
    path = Path(path)
    runtimes = RUNTIMES[path.suffix.lower()]
    for needed in files_of(path):
        if not needed.is_file():
            beside = "" if needed == path else f"; {path} needs it beside it"
            raise FileNotFoundError(f"{needed}: no such file{beside}")
    runtime = runtimes[0] if backend == "auto" else backend
    if runtime not in runtimes:
        raise ValueError(f"--backend {backend}: found {path}, which is run by {' or '.join(runtimes)}; leave --backend "
                         "out")
    package, bf16 = runtime.removesuffix("-bf16"), runtime == BF16
    require_packages(*(() if package == "torch" else (package,)), what=f"{path}")
    if bf16:
        require_bf16()
    with _blamed_on(path, f"{runtime} cannot read it"):
        metadata, make = _OPENERS[path.suffix.lower(), package](path)
    size = size or metadata.size
    metadata.require_size(size, path)
    with _blamed_on(path, f"{runtime} cannot take it for {size[0]}x{size[1]}"):
        run = make(metadata, size, "bf16" if bf16 else "f32")
    return Exported(path, metadata, runtime, size, _checked(run, metadata, size, path))


@contextlib.contextmanager
def _blamed_on(path: Path, words: str) -> Iterator[None]:
    """Whatever a runtime raises within this block, for a damaged file, becomes a ValueError that names the file; but
    too little memory, or a runtime that does not work, is not the file's fault."""
    try:
        yield
    except MemoryError:
        raise
    except ImportError as error:
        raise ValueError(f"{path}: its runtime does not work here ({first_line(error)}); install that again, or export "
                         "for another") from error
    except Exception as error:
        if isinstance(error, (ValueError, OSError)) and str(error).startswith(str(path.with_suffix(""))):
            raise  # it, or what lies beside it, is named already
        if isinstance(error, OSError):
            words = "cannot be read"
        raise ValueError(f"{path}: {words} ({first_line(error)}), expected a file as export.py wrote it") from error


def int8_files(model: nn.Module, size: tuple[int, int], folders: Iterable[Path]) -> Iterator[Exported]:
    """The 8-bit files of `folders` made of these very weights that run here on (width, height) `size`."""
    mark = net_hash(model).encode()
    for folder in dict.fromkeys(Path(folder).resolve() for folder in folders):
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            if path.suffix.lower() in INT8_SUFFIXES and _holds(path, mark):
                try:
                    file = open_exported(path, size=size)
                except (ValueError, FileNotFoundError):
                    continue  # of another size, without its runtime or its .bin: no file to use here
                if file.metadata.precision == "int8" and file.metadata.made_from == mark.decode():
                    yield file


def _holds(path: Path, mark: bytes) -> bool:
    """Whether the file holds these bytes; faster than having a runtime parse what was made of other weights."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(mark) >= 0
    except (OSError, ValueError):  # not readable, or empty
        return False


def open_on_cpu(path, backend: str, img_size: int | None, device: str = "", threads: int = 0) -> Exported:
    """The exported file that --weights names, with the values of --backend, --img_size, --device and --threads; auto:
    of the runtimes that take it the fastest that is installed. Raises ValueError on a device other than the CPU, and
    what open_exported raises."""
    if select_device(device or "cpu", threads).type != "cpu":
        raise ValueError(f"--device {device}: found {path}, which is run on the CPU; leave --device out")
    if backend == "auto" and Path(path).suffix.lower() == ".onnx":
        backend = next((name for name in FROM_ONNX if not missing((name,))), backend)
    return open_exported(path, backend, (img_size, img_size) if img_size else None)


def _checked(run: Callable[[np.ndarray], np.ndarray], metadata: Metadata, size: tuple[int, int],
             path: Path) -> Predict:
    """`run` on tensors, the sizes of its images and of what it gives looked at."""
    entries = 5 + len(metadata.names)

    def predict(images: Tensor) -> Tensor:
        if (found := (images.shape[3], images.shape[2])) != size:
            raise ValueError(f"{path}: found images of {found[0]}x{found[1]}, expected {size[0]}x{size[1]}, the size "
                             "it was opened for")
        with _blamed_on(path, "it cannot be run"):
            found = torch.from_numpy(run(np.ascontiguousarray(images.detach().cpu().numpy())))
        if found.ndim != 3 or found.shape[0] != len(images) or found.shape[2] != entries:
            raise ValueError(f"{path}: found predictions of shape {tuple(found.shape)}, expected ({len(images)}, "
                             f"boxes, {entries}) as its metadata say: the file is damaged, or another program's")
        return found
    return predict


def _detections_as_predictions(outputs: list[np.ndarray], classes: int) -> np.ndarray:
    """boxes, scores, classes of a file that suppresses itself -> (B, D, 5 + K): the score as objectness, the class
    certain."""
    boxes, scores, labels = outputs[:3]
    low, high = boxes[..., :2], boxes[..., 2:]
    one_hot = (labels[..., None] == np.arange(classes)).astype(np.float32)
    return np.concatenate([(low + high) / 2, high - low, scores[..., None], one_hot], axis=-1)



def _onnxruntime(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), QUIET
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    metadata = Metadata.from_text(session.get_modelmeta().custom_metadata_map, path)

    def make(metadata: Metadata, size: tuple[int, int], hint: str):
        def run(images: np.ndarray) -> np.ndarray:
            outputs = session.run(None, {"images": images})
            return _detections_as_predictions(outputs, len(metadata.names)) if metadata.nms else outputs[0]
        return run
    return metadata, make


def _openvino(path: Path):
    from utils.deploy.openvino_core import openvino_core, run_openvino

    net = openvino_core().read_model(path)
    place = "framework" if path.suffix.lower() == ".onnx" else KEY  # of an ONNX file its metadata_props
    metadata = Metadata.from_text({
        key: str(net.get_rt_info([place, key]).astype(str))
        for key in Metadata.__dataclass_fields__
        if net.has_rt_info([place, key])
    }, path)

    def make(metadata: Metadata, size: tuple[int, int], hint: str):
        compiled = run_openvino(net, (metadata.channels, size[1], size[0]), hint)

        def run(images: np.ndarray) -> np.ndarray:
            found = compiled(images)  # in buffers that the next call overwrites
            if metadata.nms:
                return _detections_as_predictions(
                    [found[name] for name in ("boxes", "scores", "classes")], len(metadata.names)
                )
            return found[0].copy()
        return run
    return metadata, make


def _metadata_beside(path: Path) -> Metadata:
    """Of the .json beside a file that has no room for metadata."""
    note = path.with_suffix(".json")
    if not note.is_file():
        raise FileNotFoundError(f"{note}: no such file; {path} needs it beside it for names and size (export.py writes "
                                "it)")
    return Metadata.from_text(json.loads(note.read_text(encoding="utf-8")), note)


def _ncnn(path: Path):
    import ncnn

    metadata = _metadata_beside(path)
    net = ncnn.Net()
    net.opt.num_threads, net.opt.use_vulkan_compute = torch.get_num_threads(), False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise ValueError(f"{path}: ncnn cannot read it")

    def one(image: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image))
        status, found = extractor.extract("out0")
        if status:
            raise ValueError(f"{path}: ncnn cannot run it (status {status})")
        return np.array(found)

    def make(metadata: Metadata, size: tuple[int, int], hint: str):
        return lambda images: np.stack([one(image) for image in images])
    return metadata, make


def _torchscript(path: Path):
    torch_archive.check(path)
    extra = {EXTRA: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is said to be replaced some day
        net = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    if not extra[EXTRA]:
        raise ValueError(
            f"{path}: found TorchScript without names and size in it, expected a file that export.py wrote"
        )

    def make(metadata: Metadata, size: tuple[int, int], hint: str):
        def run(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return net(torch.from_numpy(images)).numpy()
        return run
    return Metadata.from_text(json.loads(extra[EXTRA]), path), make


def _litert(path: Path):
    from ai_edge_litert.interpreter import Interpreter

    metadata = _metadata_beside(path)
    net = Interpreter(str(path), num_threads=torch.get_num_threads())
    net.allocate_tensors()
    [taken], [given] = net.get_input_details(), net.get_output_details()

    def one(image: np.ndarray) -> np.ndarray:
        net.set_tensor(taken["index"], image[None])
        net.invoke()
        return net.get_tensor(given["index"])[0]

    def make(metadata: Metadata, size: tuple[int, int], hint: str):
        return lambda images: np.stack([one(image) for image in images])
    return metadata, make


_OPENERS = {(".onnx", "onnxruntime"): _onnxruntime, (".onnx", "openvino"): _openvino, (".xml", "openvino"): _openvino,
            (".param", "ncnn"): _ncnn, (".torchscript", "torch"): _torchscript,
            (".tflite", "ai_edge_litert"): _litert}
