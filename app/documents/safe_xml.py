"""XML from strangers: looked through for bombs before any tree is built. Knows no formats.

root = parse_xml(data, "content.opf", "book.epub", limits)       # an ElementTree element
"""

from __future__ import annotations

from typing import Any
from xml.parsers import expat

from lacache_app.documents.limits import DocumentError, Limits


def check_xml(data: bytes, entry: str, name: str, limits: Limits) -> None:
    """Raises DocumentError for entities of its own (billion laughs, reading other files), for elements nested deeper
    than `limits.nesting`, and for what is no XML. Takes time in proportion to the data and next to no memory."""
    parser = expat.ParserCreate()
    depth = 0

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > limits.nesting:
            raise DocumentError(
                f"{name} has elements nested more than {limits.nesting:,} deep in {entry!r}: "
                "it is damaged or made to do harm"
            )

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1

    def declare(entity: str, is_parameter: bool, value: str | None, *source: Any) -> None:
        danger = "expands to any size (an XML bomb)" if value is not None else "would read another file"
        raise DocumentError(f"{name} declares the entity {entity[:40]!r} in {entry!r}, which {danger}; it is refused")

    parser.StartElementHandler, parser.EndElementHandler, parser.EntityDeclHandler = begin, end, declare
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two: encodings that nobody knows
        raise DocumentError(f"{name} is damaged: {entry!r} is no valid XML ({error}); get it again") from error


def parse_xml(data: bytes, entry: str, name: str, limits: Limits) -> Any:
    """The root element, without resolving anything outside. Raises DocumentError as check_xml does."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    check_xml(data, entry, name, limits)
    try:
        return fromstring(data, forbid_dtd=False, forbid_entities=True, forbid_external=True)
    except (ParseError, DefusedXmlException, LookupError, ValueError) as error:
        raise DocumentError(f"{name} is damaged: {entry!r} is no valid XML ({error}); get it again") from error
