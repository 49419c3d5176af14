"""Shell: which GPUs this node has: by NVML, else by the files of their driver; and what CUDA_VISIBLE_DEVICES says.

A GPU's *number* is what ``CUDA_VISIBLE_DEVICES`` of a task has: NVML's index, or its place among the names (UUIDs,
parts of GPUs) that the variable has for the node.
"""

from __future__ import annotations

import os
import re
import threading
from typing import NamedTuple

from obsray.gpu import nvml
from obsray.gpu.nvml import Found

#: A driver in trouble may not answer for minutes; a node starts without its answer then.
ANSWER_SECONDS_MAX = 20.0
#: What the variable says where there are none.
_NONE = frozenset({"", "NoDevFiles", "none", "void"})
#: How models are called: who made it, then its family, then the name.
_VENDOR = re.compile(r"^(NVIDIA|Tesla|GeForce|Quadro)\s+", re.IGNORECASE)
_NAME = re.compile(r"[A-Z]+[0-9]+[A-Z]*")
_GIB = 1 << 30


class Detected(NamedTuple):
    """GPUs by number, and what people should know about them."""

    gpus: dict[int, Found]
    notes: list[str]


def detect(visible: str | None, library: str, order: str = "") -> Detected:
    """The GPUs that tasks of this node may see. ``visible``: CUDA_VISIBLE_DEVICES, ``order``: CUDA_DEVICE_ORDER."""
    words = None if visible is None else [word.strip() for word in visible.split(",")]
    if words is not None and (not words or words[0] in _NONE or words[0].startswith("-")):
        return Detected({}, [])
    notes: list[str] = []
    known = _asked(library, notes)
    if words is None:
        gpus = {each.index: each for each in known} or {number: unknown(number) for number in _device_files()}
    else:
        gpus = _visible(words, known, library, notes)
    for number in [number for number, each in gpus.items() if known and not each.uuid]:
        del gpus[number]
        notes.append(f"GPU {number} does not answer (the driver says that it is lost), so it is not offered")
    models = {each.model for each in gpus.values() if each.model}
    if len(models) > 1 and order != "PCI_BUS_ID":
        notes.append(
            f"GPUs of different models ({', '.join(sorted(models))}): CUDA counts the fastest first, NVML by their "
            "place on the bus. Set CUDA_DEVICE_ORDER=PCI_BUS_ID where nodes and programs start, or numbers differ"
        )
    for number, each in gpus.items():
        if each.mig and each.index >= 0:
            notes.append(
                f"GPU {number} is divided by MIG and offered as one device, of which CUDA shows a program one part "
                "only; start the node with CUDA_VISIBLE_DEVICES=MIG-... (nvidia-smi -L lists them) to offer each part"
            )
    return Detected(gpus, notes)


def unknown(number: int) -> Found:
    """A GPU of which only the number is known, or said by whoever starts a node."""
    return Found(number, "", "", 0, False)


def _asked(library: str, notes: list[str]) -> list[Found]:
    """What NVML knows. In a thread: a driver in trouble may never answer."""
    found: list[Found] = []
    asking = threading.Thread(target=lambda: found.extend(nvml.devices(library)), daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS_MAX)
    if asking.is_alive():
        notes.append(f"NVML ({library}) did not say within {ANSWER_SECONDS_MAX:g} s which GPUs there are")
        return []
    return found


def _visible(words: list[str], known: list[Found], library: str, notes: list[str]) -> dict[int, Found]:
    """What CUDA would show for these words: up to the first that names nothing."""
    by_number = all(word.isdigit() or word.startswith("-") for word in words)
    parts = nvml.parts(library, [word for word in words if word.startswith("MIG-")]) if known else {}
    gpus: dict[int, Found] = {}
    for place, word in enumerate(words):
        number = int(word) if by_number else place
        if word.startswith("-"):
            break
        if not known:
            gpus[number] = unknown(number)
            continue
        found = _named(word, known, parts)
        if found is None:
            notes.append(f"CUDA_VISIBLE_DEVICES names {word}, which is not here; CUDA shows none from there on")
            break
        gpus[number] = found
    return gpus


def _named(word: str, known: list[Found], parts: dict[str, Found]) -> Found | None:
    if word.isdigit():
        return next((each for each in known if each.index == int(word)), None)
    # UUIDs may be cut short as long as they stay unique.
    matching = [each for each in known if each.uuid and each.uuid.lower().startswith(word.lower())]
    return parts.get(word) or (matching[0] if len(matching) == 1 else None)


def _device_files() -> list[int]:
    names = (entry.name.removeprefix("nvidia") for entry in os.scandir("/dev") if entry.name.startswith("nvidia"))
    found = sorted(int(name) for name in names if name.isdigit())
    if found:
        return found
    try:
        # Some containers name the devices otherwise; the driver still lists one directory for each.
        return list(range(len(os.listdir("/proc/driver/nvidia/gpus"))))
    except OSError:
        return []


def accelerator_type(model: str) -> str:
    """How ``accelerator_type=`` calls a model: ``NVIDIA A100-SXM4-80GB`` is ``A100``; empty if nothing is known."""
    name, before = model.strip(), ""
    while name != before:
        before, name = name, _VENDOR.sub("", name)
    matched = _NAME.match(name)
    if matched:
        return matched.group()
    return "-".join(word for word in name.split() if not re.fullmatch(r"\d+GB", word))


def accelerator_types(gpus: dict[int, Found]) -> list[str]:
    """All names under which these GPUs may be asked for, the plain ones first."""
    plain: dict[str, None] = {}
    sized: dict[str, None] = {}
    for each in gpus.values():
        name = accelerator_type(each.model)
        if name:
            plain[name] = None
        if name == "A100" and each.memory_bytes and not (each.mig and each.index < 0):
            sized[f"A100-{80 if each.memory_bytes > 60 * _GIB else 40}G"] = None
    return [*plain, *sized]
