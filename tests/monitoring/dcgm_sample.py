"""What dcgm-exporter would serve, for tests: ``python -m tests.monitoring.dcgm_sample`` writes ``dcgm_sample.txt``.

No exporter was run: names, types and help texts are those of the CSV that it is given (it serves them as they stand
there), labels are those that its documentation and published outputs show (``gpu``, ``UUID``, ``pci_bus_id``,
``device``, ``modelName``, ``Hostname``; ``err_code`` and ``err_msg`` of XIDs; ``hpc_job`` for a GPU whose file in the
mapping directory names a job, one series for each job). The numbers are made up.
"""

from __future__ import annotations

import csv
from pathlib import Path

COUNTERS = Path(__file__).resolve().parents[2] / "deploy/compose/dcgm-counters.csv"
FILE = Path(__file__).with_name("dcgm_sample.txt")
#: Of a GPU that works.
_VALUES = {
    "DCGM_FI_DEV_SM_CLOCK": 1980, "DCGM_FI_DEV_MEM_CLOCK": 2619, "DCGM_FI_DEV_GPU_TEMP": 47,
    "DCGM_FI_DEV_POWER_USAGE": 312.5, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 24318811735,
    "DCGM_FI_DEV_GPU_UTIL": 83, "DCGM_FI_DEV_FB_FREE": 61440, "DCGM_FI_DEV_FB_USED": 19566,
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": 0.812, "DCGM_FI_PROF_SM_ACTIVE": 0.641, "DCGM_FI_PROF_SM_OCCUPANCY": 0.213,
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 0.184, "DCGM_FI_PROF_DRAM_ACTIVE": 0.301,
    "DCGM_FI_PROF_PCIE_TX_BYTES": 1841224, "DCGM_FI_PROF_PCIE_RX_BYTES": 9120445,
}  # fmt: skip
#: The jobs of each GPU: none on the second.
_JOBS = (("00000001",), ())


def counters() -> dict[str, tuple[str, str]]:
    """Field -> type and help, as the exporter is configured."""
    rows = csv.reader(COUNTERS.read_text().splitlines(), skipinitialspace=True)
    return {row[0].strip(): (row[1].strip(), ", ".join(row[2:])) for row in rows if row and not row[0].startswith("#")}


def text() -> str:
    """``dcgm_sample.txt``."""
    lines = []
    for field, (kind, told) in counters().items():
        lines += [f"# HELP {field} {told}", f"# TYPE {field} {kind}"]
        for gpu, jobs in enumerate(_JOBS):
            labels = {
                "gpu": str(gpu), "UUID": f"GPU-00000000-0000-0000-0000-00000000000{gpu}",
                "pci_bus_id": f"00000000:{15 + gpu:02X}:00.0", "device": f"nvidia{gpu}",
                "modelName": "NVIDIA H100 80GB HBM3", "Hostname": "gpu-1",
            }  # fmt: skip
            if field == "DCGM_FI_DEV_XID_ERRORS":
                labels |= {"err_code": "0", "err_msg": "No Error"}
            for job in jobs or ("",):
                found = {**labels, "hpc_job": job} if job else labels
                shown = ",".join(f'{name}="{value}"' for name, value in found.items())
                lines.append(f"{field}{{{shown}}} {_VALUES.get(field, 0)}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
