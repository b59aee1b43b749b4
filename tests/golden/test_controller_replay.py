"""The recorded calls to a controller, replayed; and the replayer itself.

The live test starts a whole cluster as processes, or uses the controller at
ANABRANCH_CONTROLLER (host:port) and ANABRANCH_REST (URL). What may differ is listed in
docs/compatibility.md.
"""

from __future__ import annotations

import asyncio
import fnmatch
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc.aio
import httpx
import pytest
from anabranch_testkit.waiting import eventually

COMPATIBILITY = Path(__file__).parents[2] / "docs" / "compatibility.md"
START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0


def _load_replayer() -> ModuleType:
    """Tests are not a package, so a neighbour is loaded from its file."""
    spec = importlib.util.spec_from_file_location(
        "controller_replay", Path(__file__).with_name("controller_replay.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


controller_replay = _load_replayer()


def accepted_differences() -> list[tuple[str, str]]:
    """What docs/compatibility.md accepts: patterns of a step's name and of what differs."""
    section = COMPATIBILITY.read_text().partition("## Controller")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| `")]
    return [(row.split("`")[1], row.split("`")[2].strip() or "*") for row in rows]


def _is_accepted(difference: Any, accepted: list[tuple[str, str]]) -> bool:
    return any(
        fnmatch.fnmatchcase(difference.name, name) and fnmatch.fnmatchcase(difference.place, place)
        for name, place in accepted
    )


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Any]:
    if "ANABRANCH_CONTROLLER" in os.environ:
        rest = os.environ["ANABRANCH_REST"]
        yield controller_replay.Target(os.environ["ANABRANCH_CONTROLLER"], rest)
        return
    ready = tmp_path / "ready.json"
    ports = [f"--{name}-port=0" for name in ("controller", "rest", "segmentstore", "nats", "redis")]
    command = [Path(sys.executable).with_name("anabranch"), "standalone", *ports]
    with (tmp_path / "standalone.log").open("wb") as log:
        cluster = await asyncio.create_subprocess_exec(
            *command, f"--data={tmp_path / 'data'}", f"--ready-file={ready}", stdout=log, stderr=log
        )
    try:

        def started() -> bool:
            assert cluster.returncode is None, (tmp_path / "standalone.log").read_text()
            return ready.exists() and ready.stat().st_size > 0

        await eventually(started, START_LIMIT_S)
        addresses = json.loads(ready.read_text())
        controller = addresses["controller"].removeprefix("tcp://")
        yield controller_replay.Target(controller, addresses["rest"])
    finally:
        if cluster.returncode is None:
            cluster.terminate()
        async with asyncio.timeout(STOP_LIMIT_S):
            await cluster.wait()


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_every_recorded_call_is_answered_as_by_pravega(target: Any) -> None:
    """A client or script that works with Pravega must see no difference that is not our choice."""
    scenarios = controller_replay.recorded_scenarios()
    assert sum(len(steps) for _, steps in scenarios) == 957 + 175
    differences = await controller_replay.replay(target, scenarios)
    accepted = accepted_differences()
    faults = [str(one) for one in differences if not _is_accepted(one, accepted)]
    assert faults == []
    idle = [
        choice for choice in accepted if not any(_is_accepted(one, [choice]) for one in differences)
    ]
    assert idle == [], "docs/compatibility.md lists differences that there are not"


# --- the replayer itself -------------------------------------------------------------------


def _scenario(*steps: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    return "told", [{"scenario": "told", "step": n, **step} for n, step in enumerate(steps, 1)]


class Told:
    """Stands in for a live server: each call is answered with the next of `answers`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []
        monkeypatch.setattr(controller_replay._Replay, "_rpc", self._answer)

    async def _answer(self, _name: str, request: Any) -> tuple[str, Any]:
        self.asked.append(json.loads(json.dumps(request)))
        status, answer = self.answers.pop(0)
        return status, json.loads(json.dumps(answer).replace("q0zz", "rec0"))

    async def differences(self, *steps: dict[str, Any]) -> list[str]:
        async with grpc.aio.insecure_channel("127.0.0.1:1") as channel, httpx.AsyncClient() as http:
            replay = controller_replay._Replay(channel, http, _scenario(*steps), "q0zz")
            return [f"{one.name} {one.place}" for one in await replay.run()]


def _step(rpc: str, request: Any, response: Any, status: str = "OK", **more: Any) -> dict[str, Any]:
    return {"rpc": rpc, "request": request, "response": response, "grpc_status": status, **more}


async def test_names_of_a_run_stand_for_the_recorded_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay under the recorded names would meet what an earlier run left behind."""
    told = Told(monkeypatch, ("OK", {"scopes": ["q0zz-a", "other", "_system"]}))
    step = _step("listScopes", {"scope": "rec0-a"}, {"scopes": ["_system", "rec0-a"]})
    assert await told.differences(step) == []
    assert told.asked == [{"scope": "q0zz-a"}]


async def test_made_up_transaction_is_bound_and_its_epoch_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Later calls must name the live transaction, and its epoch is a promise to clients."""
    recorded = {"txnId": {"highBits": 1 << 32, "lowBits": 7}}
    live = {"txnId": {"highBits": 1 << 32, "lowBits": 99}}
    wrong = {"txnId": {"highBits": 2 << 32, "lowBits": 5}}
    told = Told(monkeypatch, ("OK", live), ("OK", {"status": "OK"}), ("OK", wrong))
    steps = [
        _step("createTransaction", {}, recorded),
        _step("pingTransaction", recorded, {"status": "OK"}),
        _step("createTransaction", {}, {"txnId": {"highBits": 1 << 32, "lowBits": 8}}),
    ]
    assert await told.differences(*steps) == ["told#3 txnId"]
    assert told.asked[1] == live


async def test_order_counts_for_ranges_and_not_for_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pravega lists by hash; the numbering of a scale is told by its order."""
    told = Told(monkeypatch, ("OK", {"streams": [2, 1]}), ("OK", {"segments": [2, 1]}))
    steps = [
        _step("listStreamsInScope", {}, {"streams": [1, 2]}),
        _step("scale", {}, {"segments": [1, 2]}),
    ]
    assert await told.differences(*steps) == ["told#2 segments", "told#2 segments"]


async def test_kinder_code_passes_and_a_final_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """INVALID_ARGUMENT for INTERNAL saves a client a minute; NOT_FOUND says something else."""
    told = Told(monkeypatch, ("INVALID_ARGUMENT", None), ("NOT_FOUND", None))
    steps = [_step("checkScale", {}, None, "INTERNAL"), _step("checkScale", {}, None, "INTERNAL")]
    assert await told.differences(*steps) == ["told#2 status"]


async def test_quirk_is_judged_by_what_is_sane(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of the recorded server must not be asked of ours, its mending must."""
    told = Told(monkeypatch, ("OK", {"status": "SUCCESS"}), ("OK", {"status": "FAILURE"}))
    quirk = _step(
        "truncateStream",
        {},
        None,
        "DEADLINE_EXCEEDED",
        quirk=True,
        instead={"status": "SUCCESS"},
    )
    assert await told.differences(quirk, quirk) == ["told#2 instead"]


async def test_pages_are_asked_for_up_to_the_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing that ends a page too early hides its last names."""

    def page(names: list[str], token: str) -> tuple[str, Any]:
        return "OK", {"streams": names, "continuationToken": {"token": token}}

    told = Told(monkeypatch, page(["a"], "1"), page(["b"], "2"), page([], "2"))
    response = {"streams": ["b", "a"], "continuationToken": {"token": "z"}}
    assert await told.differences(_step("listStreamsInScopeForTag", {}, response, pages=True)) == []
    assert [asked.get("continuationToken") for asked in told.asked] == [
        None,
        {"token": "1"},
        {"token": "2"},
    ]
