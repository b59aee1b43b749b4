"""What the segment store can be told."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final, Literal, Self

from anabranch_kit.settings import ServiceSettings
from pydantic import Field, model_validator

MIB: Final = 1024 * 1024


class SegmentStoreSettings(ServiceSettings):
    """Holds segments: appends, reads and table segments over a write-ahead log.

    It takes the containers that the controllers assign to it in the registry, and needs
    NATS and Redis to be reachable for that, but not to go on serving.
    """

    service: ClassVar[str] = "segmentstore"

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(12345, ge=0, le=65535, description="port to listen on; 0: any free one")
    admin_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="port for FlushToStorage and ListStorageChunks, on the same address; 0: none",
    )
    share_port: bool = Field(
        False,
        description="listen with SO_REUSEPORT, for a supervisor that holds the port meanwhile",
    )
    advertised_host: str = Field(
        "", description="name by which clients reach this store; empty: the address it listens on"
    )
    tier1: Literal["file", "jetstream"] = Field(
        "file",
        description="where the write-ahead logs are: file, a folder of this host; jetstream, a "
        "stream of the NATS servers for each container",
    )
    wal_dir: Path | None = Field(
        None,
        description="folder of the write-ahead logs, required with --tier1 file",
    )
    tier1_replicas: int = Field(
        1, ge=1, le=5, description="NATS servers that keep each log with --tier1 jetstream"
    )
    nats_monitor_urls: str = Field(
        "",
        description="monitoring ports of the NATS servers, http://host:8222,…: at each start they "
        "are asked whether the servers sync before they acknowledge (--tier1 jetstream)",
    )
    tier2_dir: Path | None = Field(
        None, description="folder of a file-system tier 2; this or --tier2-url is required"
    )
    tier2_url: str | None = Field(
        None,
        description="tier 2 by its URL: file:///absolute/path or s3://bucket/prefix?endpoint=URL",
    )
    containers: int = Field(
        0, ge=0, le=4096, description="containers of the cluster; 0: ask the registry"
    )
    cache_mib: int = Field(128, ge=1, description="memory for cached segment data, in MiB")
    log_file_mib: int = Field(
        64, ge=1, le=1024, description="length of a write-ahead log file, in MiB"
    )
    flush_mib: int = Field(
        8, ge=1, le=1024, description="a segment's bytes go to tier 2 when this many MiB wait"
    )
    flush_age_s: float = Field(
        10.0, gt=0, description="a segment's bytes go to tier 2 at the latest after this time"
    )
    untiered_mib: int = Field(
        1024, ge=64, description="MiB of a container that may wait for tier 2 before writers wait"
    )

    @model_validator(mode="after")
    def _folder_for_files(self) -> Self:
        if self.tier1 == "file" and self.wal_dir is None:
            raise ValueError(
                "wal_dir is required: give --wal-dir, the folder of the write-ahead logs, or "
                "choose --tier1 jetstream"
            )
        return self

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

    @property
    def reachable_host(self) -> str:
        return self.advertised_host or self.host
