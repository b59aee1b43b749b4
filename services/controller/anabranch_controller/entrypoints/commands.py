"""Scale commands from the autoscaler, over the bus."""

from __future__ import annotations

import msgspec
import structlog
from anabranch_events import subjects
from anabranch_events.bus import ScaleAnswer, ScaleCommand
from anabranch_kit.ports.bus import Bus, Subscription

from anabranch_controller.api import Controller

log = structlog.stdlib.get_logger("anabranch.commands")


async def serve_scale_commands(bus: Bus, controller: Controller) -> Subscription:
    """Answer them together with the other controllers: each command goes to one of them."""
    decoder = msgspec.json.Decoder(ScaleCommand)

    async def answer(payload: bytes) -> bytes:
        try:
            command = decoder.decode(payload)
        except msgspec.DecodeError as error:
            log.warning("command.unreadable", error=str(error), length_bytes=len(payload))
            return msgspec.json.encode(ScaleAnswer("refused", f"unreadable: {error}"))
        result = await controller.scale_by_command(command)
        log.info(
            "command.scale",
            scope=command.scope,
            stream=command.stream,
            epoch=command.epoch,
            outcome=result.outcome,
            detail=result.detail,
            reason=command.reason,
        )
        return msgspec.json.encode(result)

    return await bus.serve(subjects.SCALE_COMMAND, answer, queue=subjects.CONTROLLERS_QUEUE)
