"""NVML through ctypes: what is asked, how answers lie in memory, and what is made of errors."""

from __future__ import annotations

import ctypes

import pytest

from obsray.core.node import detection
from obsray.core.node.detection import accelerator_type, accelerator_types, detect
from obsray.gpu import nvml
from obsray.gpu.nvml import Found, Nvml, NvmlError, Rows
from tests.unit.gpu.fake_nvml import Card, FakeLibrary


def opened(*cards: Card, absent: tuple[str, ...] = ()) -> tuple[Nvml, list[ctypes.c_void_p], FakeLibrary]:
    library = FakeLibrary(list(cards), absent)
    found = Nvml(library)
    found.open()
    return found, [found.handle(index) for index in range(found.count())], library


def test_structures_lie_in_memory_as_the_public_interface_says():
    layouts = {
        nvml._Memory: (24, {"total": 0, "free": 8, "used": 16}),
        nvml._MemoryV2: (40, {"version": 0, "total": 8, "reserved": 16, "free": 24, "used": 32}),
        nvml._Utilization: (8, {"gpu": 0, "memory": 4}),
        nvml._Process: (24, {"pid": 0, "memory": 8, "gpu_instance": 16, "compute_instance": 20}),
        nvml._Event: (32, {"device": 0, "kind": 8, "data": 16, "gpu_instance": 24, "compute_instance": 28}),
    }
    for structure, (size, offsets) in layouts.items():
        assert ctypes.sizeof(structure) == size, structure
        assert {name: getattr(structure, name).offset for name in offsets} == offsets


def test_a_gpu_says_what_it_is_and_how_it_fares():
    gpu, (handle,), _ = opened(Card(uuid="GPU-a", processes=[(4321, 2 << 30), (99, (1 << 64) - 1)], slow=0x24))
    assert gpu.found(0, handle) == Found(0, "GPU-a", "NVIDIA H100 80GB HBM3", 80 << 30, False)
    assert gpu.memory(handle) == (3 << 30, 80 << 30)
    assert gpu.utilization(handle) == (0.4, 0.07), "the second is the memory bus, not the memory"
    assert (gpu.power(handle), gpu.temperature(handle)) == (250.0, 61.0)
    assert gpu.slowdowns(handle) == "power cap, heat"
    assert gpu.processes(handle) == [(4321, 2 << 30), (99, None)]
    assert gpu.rows(handle) == Rows(False, False)


def test_older_drivers_are_asked_in_their_own_words():
    newer = ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetCurrentClocksEventReasons")
    gpu, (handle,), _ = opened(Card(slow=0x8), absent=newer)
    assert gpu.memory(handle) == (3 << 30, 80 << 30)
    assert gpu.slowdowns(handle) == "hardware slowdown"


def test_an_error_says_what_was_asked_and_which_kind_it_is():
    gpu, (handle,), _ = opened(
        Card(refuses={"nvmlDeviceGetPowerUsage": 3, "nvmlDeviceGetTemperature": 15}), absent=("nvmlDeviceGetMigMode",)
    )
    with pytest.raises(NvmlError, match=r"nvmlDeviceGetPowerUsage: Not Supported \(3\)") as unsupported:
        gpu.power(handle)
    with pytest.raises(NvmlError, match="GPU is lost") as lost:
        gpu.temperature(handle)
    with pytest.raises(NvmlError, match="does not have it") as absent:
        gpu.mig(handle)
    assert (unsupported.value.unsupported, unsupported.value.lost) == (True, False)
    assert (lost.value.unsupported, lost.value.lost) == (False, True)
    assert absent.value.unsupported


def test_errors_of_the_hardware_come_with_their_device_and_number():
    gpu, handles, library = opened(Card(), Card(refuses={"nvmlDeviceRegisterEvents": 3}))
    events = gpu.watch(handles)
    assert library.watched == [1]
    assert gpu.wait(events, 1) is None
    library.xids = [(1, 79)]
    assert gpu.wait(events, 1) == (handles[0].value, 79)


def test_where_no_error_can_be_watched_for_that_is_said():
    gpu, handles, _ = opened(Card(refuses={"nvmlDeviceRegisterEvents": 3}))
    with pytest.raises(NvmlError, match="Not Supported"):
        gpu.watch(handles)


def test_without_a_library_or_a_driver_there_is_nothing_and_no_error(tmp_path):
    broken = tmp_path / "libnvidia-ml.so.1"
    broken.write_bytes(b"no library")
    assert nvml.devices("") == nvml.devices("libthere-is-none.so.7") == nvml.devices(str(broken)) == []


# --- which of them a node has -----------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """A function that sets the GPUs of this machine."""

    def has(*cards: Card) -> FakeLibrary:
        library = FakeLibrary(list(cards))
        monkeypatch.setattr(nvml.ctypes, "CDLL", lambda path: library)
        return library

    return has


def cards(*uuids: str, model: str = "NVIDIA A100-SXM4-40GB") -> list[Card]:
    return [Card(uuid=uuid, model=model, total=40 << 30) for uuid in uuids]


def test_all_gpus_are_found_and_the_library_is_left_again(machine):
    library = machine(*cards("GPU-aa", "GPU-bb"))
    found, notes = detect(None, "fake")
    assert {number: gpu.uuid for number, gpu in found.items()} == {0: "GPU-aa", 1: "GPU-bb"}
    assert not notes and not library.opened


@pytest.mark.parametrize(
    ("visible", "numbers", "uuids", "noted"),
    [
        ("1", [1], ["GPU-bb"], False),
        ("1,0", [1, 0], ["GPU-bb", "GPU-aa"], False),
        ("GPU-bb,GPU-a", [0, 1], ["GPU-bb", "GPU-aa"], False),
        ("0,-1,1", [0], ["GPU-aa"], False),
        ("0,7,1", [0], ["GPU-aa"], True),
        ("GPU-none,GPU-aa", [], [], True),
        ("GPU-", [], [], True),
        ("", [], [], False),
        ("-1", [], [], False),
        ("NoDevFiles", [], [], False),
    ],
)
def test_what_cuda_would_not_show_is_not_there(machine, visible, numbers, uuids, noted):
    machine(*cards("GPU-aa", "GPU-bb"))
    found, notes = detect(visible, "fake")
    assert list(found) == numbers
    assert [gpu.uuid for gpu in found.values()] == uuids
    assert bool(notes) == noted


def test_without_nvml_the_variable_alone_counts(monkeypatch):
    monkeypatch.setattr(detection, "_device_files", lambda: [0, 1])
    assert list(detect("4,5", "").gpus) == [4, 5]
    assert list(detect("GPU-x,MIG-y", "").gpus) == [0, 1]
    assert list(detect(None, "").gpus) == [0, 1]
    assert not detect("-1", "").gpus


def test_a_lost_gpu_is_not_offered_and_the_others_keep_their_numbers(machine):
    machine(Card(uuid="GPU-aa"), Card(refuses={"handle": 15}), Card(uuid="GPU-cc"))
    found, notes = detect(None, "fake")
    assert {number: gpu.uuid for number, gpu in found.items()} == {0: "GPU-aa", 2: "GPU-cc"}
    assert "GPU 1 does not answer" in notes[0]


def test_a_gpu_divided_by_mig_is_said_and_its_parts_can_be_named(machine):
    machine(Card(uuid="GPU-aa", mig=True), Card(uuid="MIG-11", total=10 << 30))
    _, notes = detect(None, "fake")
    assert any("GPU 0 is divided by MIG" in note and "CUDA_VISIBLE_DEVICES=MIG-" in note for note in notes)
    found, notes = detect("MIG-11", "fake")
    assert found[0].uuid == "MIG-11" and found[0].mig and found[0].index == -1 and not notes


def test_different_models_whose_numbers_may_differ_from_cudas_are_said(machine):
    machine(Card(uuid="GPU-aa"), Card(uuid="GPU-bb", model="Tesla T4"))
    assert any("PCI_BUS_ID" in note for note in detect(None, "fake").notes)
    assert not detect(None, "fake", "PCI_BUS_ID").notes


def test_a_driver_that_does_not_answer_does_not_keep_a_node_from_starting(monkeypatch):
    import threading

    answered = threading.Event()
    monkeypatch.setattr(detection, "ANSWER_SECONDS_MAX", 0.05)
    monkeypatch.setattr(detection, "_device_files", lambda: [0])
    monkeypatch.setattr(nvml, "devices", lambda path: answered.wait(60) and [])
    found, notes = detect(None, "fake")
    answered.set()
    assert list(found) == [0] and "did not say" in notes[0]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla T4", "T4"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("", ""),
    ],
)
def test_models_have_the_names_that_programs_ask_for(model, name):
    assert accelerator_type(model) == name


def test_an_a100_can_be_asked_for_with_its_memory():
    assert accelerator_types({0: Found(0, "", "NVIDIA A100-SXM4-80GB", 80 << 30, False)}) == ["A100", "A100-80G"]
    assert accelerator_types({0: Found(0, "", "NVIDIA A100-PCIE-40GB", 40 << 30, False)}) == ["A100", "A100-40G"]
