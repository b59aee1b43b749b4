"""What a service does not use is not loaded with it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("service", ["controller", "segmentstore", "autoscaler", "tierer"])
def test_a_service_loads_neither_aiohttp_nor_rich(service: str) -> None:
    """Each process would take 11 MB more and be back a quarter later after a crash."""
    code = (
        f"import anabranch_{service}.__main__, anabranch_{service}.bootstrap, sys; "
        "print(sorted({'aiohttp', 'rich'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_both_can_still_be_imported_afterwards() -> None:
    """S3 needs aiohttp, the command line rich."""
    code = "import anabranch_kit, aiohttp, rich; print(aiohttp.__name__, rich.__name__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "aiohttp rich\n"
