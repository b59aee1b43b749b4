"""`python -m anabranch_controller`: see --help."""

from __future__ import annotations

import sys

from anabranch_kit.logging import configure_logging
from anabranch_kit.run import run_service
from anabranch_kit.settings import load_settings

from anabranch_controller.settings import ControllerSettings


def main() -> int:
    settings = load_settings(ControllerSettings)
    configure_logging(
        service=settings.service,
        member=settings.member_id,
        level=settings.log_level,
        log_format=settings.log_format,
    )
    # After the settings, so that --help and a wrong flag are answered at once.
    from anabranch_controller.bootstrap import serve

    return run_service(lambda stop: serve(settings, stop), uvloop=settings.uvloop)


if __name__ == "__main__":
    sys.exit(main())
