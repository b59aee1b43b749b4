"""`python -m anabranch_segmentstore`: see --help."""

from __future__ import annotations

import gc
import sys

from anabranch_kit.logging import configure_logging
from anabranch_kit.run import run_service
from anabranch_kit.settings import load_settings

from anabranch_segmentstore.bootstrap import serve
from anabranch_segmentstore.collection import THRESHOLDS
from anabranch_segmentstore.settings import SegmentStoreSettings


def main() -> int:
    settings = load_settings(SegmentStoreSettings)
    configure_logging(
        service=settings.service,
        member=settings.member_id,
        level=settings.log_level,
        log_format=settings.log_format,
    )
    gc.set_threshold(*THRESHOLDS)
    return run_service(lambda stop: serve(settings, stop), uvloop=settings.uvloop)


if __name__ == "__main__":
    sys.exit(main())
