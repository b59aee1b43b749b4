"""Where an S3 tier 2 is, and who we are there.

    s3://bucket/prefix?endpoint=https://host:port&region=name&addressing=path|virtual&multipart=yes|no

Long objects go in parts only when the store is AWS or the URL says so: some stores look whether
the name is free, and join the parts later, so that several uploads to one name can all win. A
check cannot rule that out, for the moment between the two is short.

The URL is logged and shows in `ps`, so it holds no secret. Credentials come from
ANABRANCH_S3_ACCESS_KEY_ID, ANABRANCH_S3_SECRET_ACCESS_KEY and ANABRANCH_S3_SESSION_TOKEN, else
from the chain that all AWS tools have (AWS_… variables, profile, role of the machine).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from anabranch_kit.ports.object_store import UnsupportedObjectStore

ACCESS_KEY_VARIABLE: Final = "ANABRANCH_S3_ACCESS_KEY_ID"
SECRET_KEY_VARIABLE: Final = "ANABRANCH_S3_SECRET_ACCESS_KEY"  # noqa: S105 - a variable's name
SESSION_TOKEN_VARIABLE: Final = "ANABRANCH_S3_SESSION_TOKEN"  # noqa: S105 - a variable's name

# Keys have 1024 bytes; object names of ours take up to 512.
PREFIX_LENGTH_MAX: Final = 256
OPTIONS: Final = ("endpoint", "region", "addressing", "multipart")
CHOICES: Final = {"addressing": ("path", "virtual"), "multipart": ("yes", "no")}
# What stores that are not AWS expect in a signature when they were not told another.
REGION_OF_ENDPOINTS: Final = "us-east-1"

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._=+@-]+(?:/[A-Za-z0-9._=+@-]+)*")


class S3Location(NamedTuple):
    """`prefix` is empty or ends with a slash; no endpoint: AWS; no region: the AWS chain's."""

    url: str
    bucket: str
    prefix: str
    endpoint: str | None
    region: str | None
    addressing: str
    multipart: bool


@dataclass(frozen=True, slots=True)
class S3Credentials:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def parse_s3_url(url: str) -> S3Location:
    """Raises UnsupportedObjectStore."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        # Not the URL itself: it has a secret in it.
        raise UnsupportedObjectStore(
            f"s3://{parts.netloc.rpartition('@')[2]}",
            f"credentials do not belong in the URL: set {ACCESS_KEY_VARIABLE} and "
            f"{SECRET_KEY_VARIABLE}",
        )
    if not _BUCKET.fullmatch(parts.netloc):
        raise UnsupportedObjectStore(
            url,
            f"{parts.netloc!r} is no bucket name: 3 to 63 lower-case letters, digits, dots and "
            "hyphens, as in s3://bucket/prefix?endpoint=URL",
        )
    prefix = unquote(parts.path).strip("/")
    if prefix and (not _PREFIX.fullmatch(prefix) or len(prefix) > PREFIX_LENGTH_MAX):
        raise UnsupportedObjectStore(
            url,
            f"the prefix has letters, digits, ._=+@- and single slashes, at most "
            f"{PREFIX_LENGTH_MAX} of them",
        )
    options = _options(url, parts.query)
    endpoint = options.get("endpoint")
    return S3Location(
        url=url,
        bucket=parts.netloc,
        prefix=prefix + "/" if prefix else "",
        endpoint=endpoint,
        region=options.get("region", REGION_OF_ENDPOINTS if endpoint else None),
        addressing=options.get("addressing", "path" if endpoint else "virtual"),
        multipart=options.get("multipart", "no" if endpoint else "yes") == "yes",
    )


def credentials_from_environment(
    url: str, environment: Mapping[str, str] = os.environ
) -> S3Credentials | None:
    """None: the AWS chain decides. Raises UnsupportedObjectStore for half of a pair."""
    access_key = environment.get(ACCESS_KEY_VARIABLE)
    secret_key = environment.get(SECRET_KEY_VARIABLE)
    if access_key and secret_key:
        token = environment.get(SESSION_TOKEN_VARIABLE) or None
        return S3Credentials(access_key, secret_key, token)
    if access_key or secret_key:
        missing = SECRET_KEY_VARIABLE if access_key else ACCESS_KEY_VARIABLE
        raise UnsupportedObjectStore(url, f"{missing} is not set, its counterpart is")
    return None


def _options(url: str, query: str) -> dict[str, str]:
    # Somebody may have written a secret into the query, so no message repeats it.
    told = url.partition("?")[0]
    options: dict[str, str] = {}
    for name, values in parse_qs(query, keep_blank_values=True).items():
        if name not in OPTIONS:
            raise UnsupportedObjectStore(
                told, f"there is no option {name!r}; there are {', '.join(OPTIONS)}"
            )
        if len(values) > 1 or not values[0]:
            raise UnsupportedObjectStore(told, f"the option {name!r} takes one value")
        options[name] = values[0]
    endpoint = urlsplit(options.get("endpoint", "http://none"))
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname or "@" in endpoint.netloc:
        raise UnsupportedObjectStore(told, "the endpoint is http://host:port or https://host:port")
    for name, choices in CHOICES.items():
        if options.get(name, choices[0]) not in choices:
            raise UnsupportedObjectStore(told, f"{name} is one of {', '.join(choices)}")
    return options
