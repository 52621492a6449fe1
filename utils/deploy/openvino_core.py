"""OpenVINO's entrance, opened once per process."""

import functools


@functools.cache
def openvino_core():
    """The one openvino.Core of this process, never closed.

    Each Core of its own gives the thread a stack for signal handlers, and puts back the one before when it is closed.
    Cores that are not closed in reverse order leave the thread with a stack that is gone: the next signal that Python
    handles, such as that of a loader's process that ends, is a segmentation fault.
    """
    import openvino

    return openvino.Core()
