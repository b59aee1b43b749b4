"""The documents of the feed are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from anabranch_controller import feed_docs

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_asyncapi_document_is_that_of_the_code() -> None:
    """A consumer generated from a stale document would refuse real events."""
    made = feed_docs.asyncapi_text()
    assert (DOCS / "asyncapi.json").read_text() == made, (
        "run `python -m anabranch_controller.feed_docs`"
    )


def test_page_lists_every_kind_as_the_code_has_it() -> None:
    """An operator copies subjects and members from this page."""
    page = (DOCS / "feed.md").read_text()
    assert feed_docs.with_kinds(page) == page, "run `python -m anabranch_controller.feed_docs`"


def test_page_without_its_marks_is_refused() -> None:
    """Writing it anyway would wipe what people wrote."""
    with pytest.raises(ValueError, match="lacks the marks"):
        feed_docs.with_kinds("# The public feed\n")


def test_every_reference_of_the_document_leads_somewhere() -> None:
    """A dangling reference makes every generator give up."""
    document = feed_docs.asyncapi()
    text = feed_docs.asyncapi_text()
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', text))
    assert len(references) > 2 * len(document["channels"])
    for reference in references:
        place = document
        for part in reference.split("/"):
            place = place[part]
