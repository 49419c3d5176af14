"""Generate the Python modules of the control plane from ``obsray/core/protocol/control.proto``.

``python scripts/generate_protocol.py`` rewrites them in place. It needs grpcio-tools, which running obsray does not.
``tests/unit/control/test_generated_protocol.py`` compares what is committed with what this makes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = "obsray/core/protocol/control.proto"
GENERATED = (
    "obsray/core/protocol/control_pb2.py",
    "obsray/core/protocol/control_pb2.pyi",
    "obsray/core/protocol/control_pb2_grpc.py",
)
HEADER = f"# Generated from {PROTO} by scripts/generate_protocol.py; edit that and run this.\n"


def generate(into: Path) -> None:
    """Write the generated modules below ``into``. Raises CalledProcessError if the compiler refuses the file."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}"]
    command += [f"--python_out={into}", f"--pyi_out={into}", f"--grpc_python_out={into}", str(ROOT / PROTO)]
    subprocess.run(command, check=True, cwd=ROOT)
    for name in GENERATED:
        path = into / name
        path.write_text(HEADER + path.read_text())


if __name__ == "__main__":
    generate(ROOT)
