"""Milliseconds of OpenVINO files: alternate.py SIZE FILE... One at a time 22 passes of each, the first two of which do
not count, in six rounds; compiled for one image, and for any batch, as before."""

import sys
import time

import numpy as np
import openvino

OPTIONS = {"INFERENCE_NUM_THREADS": 2, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
core, size = openvino.Core(), int(sys.argv[1])
image = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)


def opened(path: str, batch: int):
    net = core.read_model(path)
    net.reshape([batch, 3, size, size])
    compiled = core.compile_model(net, "CPU", OPTIONS)
    return lambda: compiled(image)[0].copy()


files = [(f"{path}, batch {batch}", opened(path, batch)) for path in sys.argv[2:] for batch in (1, -1)]
times = [[] for _ in files]
for _ in range(6):
    for (_, run), own in zip(files, times):
        for i in range(22):
            started = time.perf_counter()
            run()
            if i > 1:
                own.append(1e3 * (time.perf_counter() - started))
for (name, _), own in zip(files, times):
    print(f"{name:60s} {np.median(own):6.2f}  {np.percentile(own, 25):.2f} to {np.percentile(own, 75):.2f}")
