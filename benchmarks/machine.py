"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import time

import psutil


def hardware() -> list[str]:
    """Processor, memory, kernel and Python."""
    return describe(0)[1:-1]


def describe(cpus: int) -> list[str]:
    """Date, processor, memory, kernel, Python, and how busy the machine was before the run."""
    model = platform.machine()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory_gb = psutil.virtual_memory().total / 1e9
    return [
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        f"{model}, {len(os.sched_getaffinity(0))} CPUs usable"
        + (f", `num_cpus={cpus}` for every library" if cpus else ""),
        f"{memory_gb:.0f} GB memory, {platform.system()} {platform.release()}",
        f"{platform.python_implementation()} {platform.python_version()}",
        f"load average before the run: {os.getloadavg()[0]:.2f}",
    ]
