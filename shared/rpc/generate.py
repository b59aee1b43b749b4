"""Generate the Python stubs from controller.proto: `make stubs`, or this file with a directory.

The stubs are committed, so that no user needs a compiler; a test generates them into a
directory of its own and compares.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path
from typing import Final

from grpc_tools import protoc

ROOT: Final = Path(__file__).resolve().parent
CONTRACT: Final = "anabranch_rpc/controller.proto"
STUBS: Final = tuple(
    f"anabranch_rpc/controller_{name}"
    for name in ("pb2.py", "pb2.pyi", "pb2_grpc.py", "pb2_grpc.pyi")
)


class GenerationFailed(Exception):
    """protoc refused the contract; it has printed why."""

    def __init__(self, status: int) -> None:
        super().__init__(f"protoc ended with status {status} on {CONTRACT}")
        self.status = status


def generate(into: Path) -> None:
    """Write the stubs below `into`, in the package's own directory.

    The include path is the package's parent, so that the modules import each other as
    `anabranch_rpc.…`. The mypy plug-ins are found beside the running interpreter.
    """
    plugins = Path(sys.executable).parent
    well_known = resources.files("grpc_tools") / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"-I{ROOT}",
            f"-I{well_known}",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--python_out={into}",
            f"--grpc_python_out={into}",
            f"--mypy_out=quiet:{into}",
            f"--mypy_grpc_out=quiet:{into}",
            CONTRACT,
        ]
    )
    if status != 0:
        raise GenerationFailed(status)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
