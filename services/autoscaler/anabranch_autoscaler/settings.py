"""What the autoscaler can be told; a stream's tags go before these defaults."""

from __future__ import annotations

from typing import ClassVar

from anabranch_kit.settings import ServiceSettings
from pydantic import Field

from anabranch_autoscaler.domain.tags import DURATION_S_MAX, DURATION_S_MIN, ScaleSettings

_DEFAULTS = ScaleSettings()


class AutoscalerSettings(ServiceSettings):
    """Turns load reports into scale commands."""

    service: ClassVar[str] = "autoscaler"

    window_s: float = Field(
        _DEFAULTS.window_s,
        ge=DURATION_S_MIN,
        le=DURATION_S_MAX,
        description="seconds that a load above the target must last to be split",
    )
    cooldown_s: float = Field(
        _DEFAULTS.cooldown_s,
        ge=DURATION_S_MIN,
        le=DURATION_S_MAX,
        description="least age in seconds of a segment that is split",
    )
    merge_window_s: float = Field(
        _DEFAULTS.merge_window_s,
        ge=DURATION_S_MIN,
        le=DURATION_S_MAX,
        description="seconds that a load must be low to be merged",
    )
    merge_cooldown_s: float = Field(
        _DEFAULTS.merge_cooldown_s,
        ge=DURATION_S_MIN,
        le=DURATION_S_MAX,
        description="least age in seconds of segments that are merged",
    )

    @property
    def scale_defaults(self) -> ScaleSettings:
        return ScaleSettings(
            window_s=self.window_s,
            cooldown_s=self.cooldown_s,
            merge_window_s=self.merge_window_s,
            merge_cooldown_s=self.merge_cooldown_s,
        )
