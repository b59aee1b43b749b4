"""The gRPC contract: its committed stubs, its names, and the codes of its errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import grpc
import pytest
from anabranch_rpc import controller_pb2, controller_pb2_grpc
from anabranch_rpc.statuses import CODES, RETRIED_BY_CLIENTS, Trouble

RPC = Path(__file__).resolve().parents[3] / "shared" / "rpc"


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rpc_generate", RPC / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_stubs_are_those_of_the_contract(tmp_path: Path) -> None:
    """A contract edited without `make stubs` would be served with yesterday's messages."""
    generator = _generator()
    generator.generate(tmp_path)
    for name in generator.STUBS:
        assert (tmp_path / name).read_text() == (RPC / name).read_text(), (
            f"{name} is stale: run `make stubs`"
        )


def test_service_has_the_name_and_the_calls_that_clients_put_into_the_path() -> None:
    """A client asks by full name; one letter off is UNIMPLEMENTED for every Pravega client."""
    service = controller_pb2.DESCRIPTOR.services_by_name["ControllerService"]
    assert service.full_name == "io.pravega.controller.stream.api.grpc.v1.ControllerService"
    names = {method.name for method in service.methods}
    assert len(names) == 47
    assert {"getSegmentsImmediatlyFollowing", "getSegmentsImmediatelyFollowing"} <= names
    assert all(hasattr(controller_pb2_grpc.ControllerServiceServicer, name) for name in names)


@pytest.mark.parametrize(
    ("message", "field", "number"),
    [
        ("ListCompletedTxnResponse", "response", 2),
        ("SuccessorResponse.SegmentEntry", "value", 2),
        ("SegmentsAtTime.SegmentLocation", "offset", 2),
        ("ReaderGroupConfiguration", "rolloverSizeBytes", 11),
        ("StreamConfig", "rolloverSizeBytes", 6),
        ("SubscriberStreamCut", "streamCut", 4),
        ("RemoveWriterResponse", "result", 1),
        ("CreateTxnResponse", "activeSegments", 2),
    ],
)
def test_field_numbers_that_are_easy_to_get_wrong(message: str, field: str, number: int) -> None:
    """A wrong field number loses that field without an error on either side."""
    descriptor = controller_pb2.DESCRIPTOR
    found = descriptor.message_types_by_name[message.split(".")[0]]
    for nested in message.split(".")[1:]:
        found = found.nested_types_by_name[nested]
    assert found.fields_by_name[field].number == number


def test_enum_values_that_travel_as_numbers() -> None:
    """A client reads the number; a shifted enum turns a refusal into another one."""
    assert controller_pb2.UpdateStreamStatus.STREAM_SEALED == 4
    assert controller_pb2.UpdateSubscriberStatus.GENERATION_MISMATCH == 5
    assert controller_pb2.PingTxnStatus.UNKNOWN == 7
    assert controller_pb2.TxnState.ABORTED == 5
    assert controller_pb2.StreamInfo.READ_WRITE == 5


@pytest.mark.parametrize("trouble", [Trouble.MISSING, Trouble.BAD_ARGUMENT, Trouble.REFUSED])
def test_permanent_trouble_is_not_retried(trouble: Trouble) -> None:
    """A retried code for a missing stream would hang its user for a minute."""
    assert CODES[trouble] not in RETRIED_BY_CLIENTS


@pytest.mark.parametrize("trouble", [Trouble.UNAVAILABLE, Trouble.CONFLICT, Trouble.OVERLOADED])
def test_passing_trouble_is_retried(trouble: Trouble) -> None:
    """A final code for a restart of NATS would fail a client that had only to wait."""
    assert CODES[trouble] in RETRIED_BY_CLIENTS
    assert CODES[trouble] is not grpc.StatusCode.UNKNOWN
