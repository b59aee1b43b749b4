"""What the tierer can be told."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final, Self

from anabranch_kit.settings import ServiceSettings
from pydantic import Field, model_validator

# One order in work needs its bytes in memory (domain/orders.py, ORDER_BYTES_MAX).
SLOTS_MAX: Final = 64


class TiererSettings(ServiceSettings):
    """Moves ranges of segments from tier 1 to immutable objects in tier 2."""

    service: ClassVar[str] = "tierer"

    tier2_dir: Path | None = Field(
        None, description="folder of a file-system tier 2; this or --tier2-url is required"
    )
    tier2_url: str | None = Field(
        None,
        description="tier 2 by its URL: file:///absolute/path or s3://bucket/prefix?endpoint=URL",
    )
    slots: int = Field(2, ge=1, le=SLOTS_MAX, description="flush orders in work at once")
    replicas: int = Field(
        1, ge=1, le=5, description="copies of the work queue in a cluster of NATS servers"
    )

    @model_validator(mode="after")
    def _one_tier2(self) -> Self:
        if (self.tier2_dir is None) == (self.tier2_url is None):
            raise ValueError("give one of --tier2-dir and --tier2-url: the place of the objects")
        return self

    @property
    def tier2(self) -> str:
        """The URL of tier 2."""
        if self.tier2_dir is not None:
            return self.tier2_dir.absolute().as_uri()
        assert self.tier2_url is not None, "checked when the settings were read"
        return self.tier2_url
