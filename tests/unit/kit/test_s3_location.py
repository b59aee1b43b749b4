"""The URL of an S3 tier 2, its credentials, and that nothing of it is loaded without need."""

from __future__ import annotations

import subprocess
import sys

import pytest
from anabranch_kit.adapters.s3_object_store_location import (
    S3Credentials,
    S3Location,
    credentials_from_environment,
    parse_s3_url,
)
from anabranch_kit.ports.object_store import UnsupportedObjectStore

URL = "s3://bucket/prefix"


def test_everything_has_a_place_in_the_url() -> None:
    """Objects would be written to another bucket than the settings name."""
    url = "s3://my-bucket/a/b/?endpoint=https://s3.example:9000&region=eu-1&addressing=virtual"
    url += "&multipart=yes"
    assert parse_s3_url(url) == S3Location(
        url=url,
        bucket="my-bucket",
        prefix="a/b/",
        endpoint="https://s3.example:9000",
        region="eu-1",
        addressing="virtual",
        multipart=True,
    )


def test_defaults_suit_aws_and_others() -> None:
    """A store that is not AWS would be asked for a host name that it does not have."""
    aws = parse_s3_url("s3://bucket")
    assert (aws.prefix, aws.endpoint, aws.region, aws.addressing) == ("", None, None, "virtual")
    other = parse_s3_url("s3://bucket/?endpoint=http://127.0.0.1:8333")
    assert (other.prefix, other.region, other.addressing) == ("", "us-east-1", "path")
    assert (aws.multipart, other.multipart) == (True, False)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://ab/prefix", "'ab' is no bucket name"),
        ("s3:///prefix", "'' is no bucket name"),
        ("s3://Bucket", "'Bucket' is no bucket name"),
        ("s3://bucket/a//b", "the prefix has"),
        ("s3://bucket/a%20b", "the prefix has"),
        ("s3://bucket/" + "a" * 257, "the prefix has"),
        ("s3://bucket?endpiont=http://x", "no option 'endpiont'; there are endpoint, region"),
        ("s3://bucket?endpoint=", "the option 'endpoint' takes one value"),
        ("s3://bucket?region=a&region=b", "the option 'region' takes one value"),
        ("s3://bucket?endpoint=127.0.0.1:8333", "the endpoint is http://host:port"),
        ("s3://bucket?endpoint=http://me:secret@host", "the endpoint is http://host:port"),
        ("s3://bucket?addressing=auto", "addressing is one of path, virtual"),
        ("s3://bucket?multipart=maybe", "multipart is one of yes, no"),
    ],
)
def test_wrong_urls_are_told(url: str, message: str) -> None:
    """An operator would look for the mistake in the store."""
    with pytest.raises(UnsupportedObjectStore, match=message):
        parse_s3_url(url)


def test_secrets_are_kept_out_of_messages() -> None:
    """A key would stand in the logs."""
    with pytest.raises(UnsupportedObjectStore, match="ANABRANCH_S3_ACCESS_KEY_ID") as told:
        parse_s3_url("s3://key:hunter2@bucket/prefix")
    assert "hunter2" not in str(told.value)
    for query in ("endpoint=http://key:hunter2@host", "secret_access_key=hunter2"):
        with pytest.raises(UnsupportedObjectStore) as told:
            parse_s3_url(f"s3://bucket?{query}")
        assert "hunter2" not in str(told.value)
    assert "hunter2" not in repr(S3Credentials("key", "hunter2", "hunter2"))


def test_credentials_of_ours_come_first() -> None:
    """A machine's own role would be used for a store that does not know it."""
    key, secret = "ANABRANCH_S3_ACCESS_KEY_ID", "ANABRANCH_S3_SECRET_ACCESS_KEY"
    assert credentials_from_environment(URL, {"AWS_ACCESS_KEY_ID": "x"}) is None
    both = {key: "key", secret: "secret"}
    assert credentials_from_environment(URL, both) == S3Credentials("key", "secret", None)
    with_token = {**both, "ANABRANCH_S3_SESSION_TOKEN": "token"}
    assert credentials_from_environment(URL, with_token) == S3Credentials("key", "secret", "token")
    for given, missing in ((key, secret), (secret, key)):
        with pytest.raises(UnsupportedObjectStore, match=f"{missing} is not set"):
            credentials_from_environment(URL, {given: "value"})


def test_s3_is_loaded_only_when_it_is_asked_for() -> None:
    """Every service would start a second later and take 40 MB more, with files as tier 2."""
    program = """
import asyncio, sys, tempfile
import anabranch_tierer.bootstrap, anabranch_segmentstore.bootstrap
from anabranch_kit.adapters.object_stores import open_object_store
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ids import new_id

async def main():
    with tempfile.TemporaryDirectory() as folder:
        url = "file://" + folder
        store = await open_object_store(url, clock=SystemClock(), new_id=new_id)
        await store.close()

asyncio.run(main())
print([name for name in ("aioboto3", "aiobotocore", "botocore", "boto3") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
