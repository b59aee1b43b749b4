"""What a segment's name says about whether the autoscaler cares for it."""

from __future__ import annotations

import re
from typing import Final

# scope/stream/number.#epoch.epoch, the stream's name made of what users may use; streams of
# the system start with an underscore, transactions and transient segments have a suffix
# (wire-protocol.md section 9).
_USER_SEGMENT: Final = re.compile(r"[^/_][^/]*/[A-Za-z0-9.\-]+/\d+\.#epoch\.\d+\Z")


def is_user_stream_segment(name: str) -> bool:
    return _USER_SEGMENT.match(name) is not None
