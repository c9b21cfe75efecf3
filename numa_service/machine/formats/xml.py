"""Parsing of XML that nobody vouches for: nothing is fetched or expanded, and depth and size are limited."""

from __future__ import annotations

import re
from typing import Any

from lxml import etree

from numa_service.machine.spec import SpecError

#: Most elements, and most attributes of them all. A topology of 8192 CPUs with caches has 40,000 and 400,000.
MAX_OBJECTS = 200_000
_MAX_ATTRIBUTES = 500_000
_CHUNK = 1 << 16
#: Most bytes of one tag and the text behind it: the parser reports, and parse_xml counts, only whole tags.
_MAX_TAG = 1 << 20
_LONG_TAG = re.compile(rb"<[^<]{%d}" % _MAX_TAG)
#: What may stand before the root element, and the name of that.
_ROOT = re.compile(
    rb"\A(?>\xef\xbb\xbf)?(?>\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*>)*+<([A-Za-z]\w*)", re.DOTALL
)

Element = etree._Element


def is_xml(content: bytes) -> bool:
    """Whether the content begins as XML does."""
    return content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def root_tag(start: bytes) -> str:
    """Name of the root element of XML that begins so; "" if it does not become clear."""
    found = _ROOT.match(start)
    return found[1].decode("ascii", "replace") if found else ""


def parse_xml(content: bytes, source: str) -> Element:
    """The root element. Nothing is fetched or expanded: entities are refused, depth and size are limited."""
    parser = etree.XMLPullParser(
        ("start",),
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    elements = attributes = 0
    if _LONG_TAG.search(content):
        raise SpecError(
            f"{source}: XML: more than {_MAX_TAG} bytes between two '<': nothing that is read here"
        )
    try:
        # fed in chunks, so that a document that is too large is refused before all of it is in memory
        for start in range(0, len(content), _CHUNK):
            parser.feed(content[start : start + _CHUNK])
            event: Any
            for event in parser.read_events():
                elements += 1
                attributes += len(event[1].attrib)
            if elements > MAX_OBJECTS or attributes > _MAX_ATTRIBUTES:
                raise SpecError(f"{source}: more than {MAX_OBJECTS} elements or {_MAX_ATTRIBUTES} attributes")
        root = parser.close()
    except (etree.XMLSyntaxError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        line = getattr(error, "lineno", None) or 1
        raise SpecError(f"{source}:{line}: XML: {one_text_line(str(error))}") from None
    dtd: Any = root.getroottree().docinfo.internalDTD
    if dtd is not None and next(dtd.iterentities(), None) is not None:
        raise SpecError(f"{source}: XML: entities are declared, which nothing that is read here has: refused")
    for element in root.iter():
        if not isinstance(element.tag, str):
            raise SpecError(f"{source}:{element.sourceline}: XML: entities are not expanded: refused")
    return root


def one_text_line(text: str) -> str:
    """A text of a document on one line, of at most 200 characters."""
    return " ".join(text.split())[:200]
