"""Ways to run a trained network: each is a function images (B, 3, H, W) float32 -> (B, N, 5 + K), as Darknet in eval
mode.

"torch": batch norms folded, channels-last, on any device. "compile": the same through torch.compile. "onnxruntime" and
"openvino": on the CPU, from an ONNX file made for the purpose. "auto": on a CPU the first of FROM_ONNX that is
installed and runs, where there is work enough to pay for its start; else "torch". Before these, an 8-bit file that
export.py made and scored of these very weights, on a processor with instructions for it. "openvino-bf16": in bfloat16,
where the processor computes with it; taken by "auto" where test.py noted that it costs no score and it is the faster.
"""

import math
import tempfile
import time
from pathlib import Path
from typing import Iterator

import torch
from torch import nn

from utils import processes
from utils.compare import measured_alternately, random_images
from utils.deploy.onnx_export import export_onnx
from utils.deploy.onnx_runtimes import BF16, FROM_ONNX, Predict, missing_packages, require_backend, run_onnx
from utils.deploy.processor import computes_bf16, computes_int8, require_bf16
from utils.deploy.runtimes import int8_files
from utils.deploy.score_note import NEGLIGIBLE, ScoreNote
from utils.text import first_line

FLOATS = ("torch", "compile", *FROM_ONNX)
# seconds of forward passes from which "auto" makes an ONNX file: 10 to 17 s of start save a tenth (yolov3) to a half
# (narrow nets)
WORTH_IT = 120.0
TRIALS = 9  # passes that tell whether bfloat16 is the faster


def make_backend(name: str, model: nn.Module, size: tuple[int, int], images: float = math.inf,
                 weights=None) -> tuple[str, Predict]:
    """(name of the backend taken, its function) for a Darknet, which stays as it is.

    size: (width, height) of the input; images: how many will be run, for "auto"; weights: the file that the model was
    loaded from, beside which "auto" looks for what was made of it. Raises ValueError where a package is missing, naming
    the pip command, or where the backend cannot run on the model's device.
    """
    if name == "auto":
        return _made_before(model, size, weights) or _first_that_runs(model, size, images, weights)
    if name not in MAKERS:
        raise ValueError(f"--backend {name}: found no such backend, expected one of auto, {', '.join(MAKERS)}")
    require_backend(name, next(model.parameters()).device)
    try:
        return name, MAKERS[name](model, size)
    except ValueError:
        raise
    except Exception as error:  # whatever a package raises that is there and does not work
        raise ValueError(f"--backend {name} does not work here ({first_line(error)}); take --backend torch") from error


def same_backend(name: str, model: nn.Module, size: tuple[int, int], images: float = math.inf,
                 weights=None) -> tuple[str, Predict]:
    """`make_backend` by several processes: what process 0 takes for "auto", which depends on a time, all take."""
    if processes.world_size() == 1:
        return make_backend(name, model, size, images, weights)
    made = make_backend(name, model, size, images) if processes.rank() == 0 else None
    taken = processes.from_first(made and made[0])
    return made or make_backend(taken, model, size)


def _made_before(model: nn.Module, size: tuple[int, int], weights) -> tuple[str, Predict] | None:
    """The 8-bit file that export.py made of these very weights, where the processor has instructions for it."""
    if weights is None or next(model.parameters()).device.type != "cpu" or not computes_int8():
        return None
    for file in int8_files(model, size, (Path(weights).parent, Path("output"))):
        return f"{file.runtime} (int8, {file.path.name}: made and scored of these weights)", file.predict
    return None


def _first_that_runs(model: nn.Module, size: tuple[int, int], images: float, weights) -> tuple[str, Predict]:
    """What "auto" stands for where no file was made before: an ONNX file where there is work enough to pay for it."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    found = [name for name in FROM_ONNX if on_cpu and not missing_packages(name)]
    if found and (images == math.inf or images * _seconds(model, size) >= WORTH_IT):
        wanted = [*[BF16] * _bf16_is_free(model, weights), *found]
        fast = next(_those_that_run(wanted, model, size), None)
        if fast and fast[0] == BF16 and (float32 := next(_those_that_run(found, model, size), None)):
            return _faster(fast, float32, model, size)
        if fast:
            return fast
    return make_backend("torch", model, size)


def _those_that_run(names: list[str], model: nn.Module, size: tuple[int, int]) -> Iterator[tuple[str, Predict]]:
    """Of the backends those that work here, made one by one; says why of the others."""
    for name in names:
        try:
            yield make_backend(name, model, size)
        except ValueError as error:
            print(f"warning: {first_line(error)}")


def _faster(half: tuple[str, Predict], float32: tuple[str, Predict], model: nn.Module,
            size: tuple[int, int]) -> tuple[str, Predict]:
    """The faster of two backends, timed alternately: an Intel processor with AVX-512 BF16 but without AMX sums bfloat16
    products at half the speed of float32's."""
    in_half, in_float32 = measured_alternately([half[1], float32[1]], random_images(model, size), TRIALS)
    if in_half.median < in_float32.median:
        return half
    print(f"bfloat16 is slower than float32 on this processor ({1e3 * in_half.median:.1f} against "
          f"{1e3 * in_float32.median:.1f} ms): {float32[0]} is taken")
    return float32


def _bf16_is_free(model: nn.Module, weights) -> bool:
    """Whether test.py noted that bfloat16 costs these weights no score; says how to find out where it did not look."""
    if weights is None or not computes_bf16() or missing_packages(BF16):
        return False
    drop = ScoreNote.of(weights).bf16_drop(model)
    if drop is None:
        print("this processor computes in bfloat16; float32 is taken until test.py --backend openvino and test.py "
              "--backend openvino-bf16 have scored both on the same data")
    return drop is not None and drop <= NEGLIGIBLE


@torch.inference_mode()
def _seconds(model: nn.Module, size: tuple[int, int]) -> float:
    """Of one forward pass by torch, the second of two."""
    fast, image = model.optimize(), torch.zeros(1, model.channels, size[1], size[0])
    fast(image)
    started = time.perf_counter()
    fast(image)
    return time.perf_counter() - started


def _torch(model: nn.Module, size: tuple[int, int]) -> Predict:
    return model.optimize()


def _compiled(model: nn.Module, size: tuple[int, int]) -> Predict:
    # freezing makes the weights constants, so that kernels are chosen and packed for them
    fast = torch.compile(model.optimize(), options={"freezing": True})
    with torch.inference_mode():  # compiles now, where a compiler that is missing can be reported
        fast(torch.zeros(1, model.channels, size[1], size[0], device=next(model.parameters()).device))
    return fast


def _onnxruntime(model: nn.Module, size: tuple[int, int]) -> Predict:
    run = run_onnx("onnxruntime", _onnx_bytes(model, size))
    return lambda images: torch.from_numpy(run(images.contiguous().numpy()))


def _openvino(model: nn.Module, size: tuple[int, int], precision: str = "f32") -> Predict:
    run = run_onnx("openvino", _onnx_bytes(model, size), precision)
    return lambda images: torch.from_numpy(run(images.contiguous().numpy()).copy())


def _openvino_bf16(model: nn.Module, size: tuple[int, int]) -> Predict:
    require_bf16()
    return _openvino(model, size, "bf16")


def _onnx_bytes(model: nn.Module, size: tuple[int, int]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        export_onnx(model, path, size)
        return path.read_bytes()


MAKERS = {
    "torch": _torch,
    "compile": _compiled,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    BF16: _openvino_bf16,
}
