"""The highest rate of arithmetic of a device, for model FLOPs utilisation (MFU): the maker's figure of a GPU, and
what a CPU was seen to do.
"""

from __future__ import annotations

import functools
import os
import time

import torch

from reasoning.engines.products import linear

PEAKS: dict[str, dict[torch.dtype, float]] = {
    "B200": {torch.bfloat16: 2250e12, torch.float32: 75e12},
    "H200": {torch.bfloat16: 989e12, torch.float32: 67e12},
    "H100 PCIe": {torch.bfloat16: 756e12, torch.float32: 51e12},
    "H100": {torch.bfloat16: 989e12, torch.float32: 67e12},
    "A100": {torch.bfloat16: 312e12, torch.float32: 19.5e12},
    "L40S": {torch.bfloat16: 362e12, torch.float32: 91.6e12},
    "L4": {torch.bfloat16: 121e12, torch.float32: 30.3e12},
    "RTX 4090": {torch.bfloat16: 165e12, torch.float32: 82.6e12},
}
"""FLOPs per second by a part of the device's name (the first that fits), dense, accumulated in float32; NVIDIA's data
sheets. float32 is that of the plain cores, which torch uses unless TF32 is switched on."""


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOPs per second at most of ``device`` in ``dtype``; None where it is not known. Of a CPU, what torch's threads
    reach in a matrix product."""
    if device.type == "cpu":
        return multiplying(dtype, torch.get_num_threads())
    return of_device(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None


def of_device(name: str, dtype: torch.dtype) -> float | None:
    """That of a device called ``name``, as torch calls it."""
    return next((peaks.get(dtype) for known, peaks in PEAKS.items() if known in name), None)


@functools.cache
def multiplying(dtype: torch.dtype, threads: int, size: int = 512, tries: int = 5) -> float:
    """FLOPs per second that ``threads`` of the CPU reach at most: what one of them reaches in the quickest of some
    products of two square matrices, by the faster of PyTorch's libraries, times their number; a few hundredths of a
    second once in a process.

    By the thread's own processor time, so that other work on the machine takes nothing away; threads that wait for
    one another would. A processor that is slower where all cores work has less: MFU is rather too low than too high.
    """
    matrix = torch.ones(size, size, dtype=dtype)
    seconds = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for product in (torch.nn.functional.linear, lambda x, y: linear(x, (y, None))):
            for _ in range(tries):
                started = time.thread_time()
                product(matrix, matrix)
                seconds.append(time.thread_time() - started)
    finally:
        torch.set_num_threads(before)
    return min(threads, cpus()) * 2 * size**3 / min(seconds)


def cpus() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
