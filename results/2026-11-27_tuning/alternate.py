"""Median milliseconds of OpenVINO files, 22 passes of each in turn, the first two not counted, six rounds."""
import sys, time
import numpy as np, openvino as ov
core, S = ov.Core(), int(sys.argv[1])
x = np.random.default_rng(0).random((1, 3, S, S), dtype=np.float32)
def opened(f, shape):
    m = core.read_model(f); m.reshape(shape)
    c = core.compile_model(m, "CPU", {"INFERENCE_NUM_THREADS": 2, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"})
    return lambda: c(x)[0].copy()
runs = [(f + ("" if b == 1 else " (any batch)"), opened(f, [b, 3, S, S])) for f in sys.argv[2:] for b in (1, -1)]
ts = [[] for _ in runs]
for _ in range(6):
    for (n, r), t in zip(runs, ts):
        for i in range(22):
            a = time.perf_counter(); r(); b = time.perf_counter()
            if i > 1: t.append(1e3 * (b - a))
for (n, _), t in zip(runs, ts): print(f"{n:60s} {np.median(t):6.2f}  {np.percentile(t,25):.2f} to {np.percentile(t,75):.2f}")
