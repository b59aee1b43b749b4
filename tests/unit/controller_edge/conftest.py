"""A controller that answers as told, for the tests of the ways in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest


class ToldController:
    """Answers each method with what the test put under its name: a value, or an exception."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def method(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments, named))
            answer = self.answers[name]
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            if isinstance(answer, Exception):
                raise answer
            return await answer() if callable(answer) else answer

        return method


@pytest.fixture
def controller() -> ToldController:
    return ToldController()
