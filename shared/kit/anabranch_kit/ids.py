"""Fresh random ids, handed to services as an argument by their bootstrap."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from uuid import UUID

NewId = Callable[[], UUID]


def new_id() -> UUID:
    """A random (version 4) id. Take it as an argument of type NewId, do not call it inside."""
    return uuid.uuid4()
