"""EPUB books: the chapter files in reading order, and the table of contents to cite them by.

A small reader of our own, as no well-kept one has a permissive licence: container.xml names the package, the package
names the files and their order (the spine), and a navigation file (EPUB 3) or NCX (EPUB 2) names the chapters.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from lacache_app.documents.archive import names, open_archive, read_entry
from lacache_app.documents.document import Document, Part
from lacache_app.documents.headings import Heading, markdown_headings, parts_by_headings, plain_title
from lacache_app.documents.html import decode_html
from lacache_app.documents.limits import DocumentError, Limits, check_length
from lacache_app.documents.loader import Loader
from lacache_app.documents.markup import to_marked_markdown
from lacache_app.documents.safe_xml import parse_xml

KIND = "epub"

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_XHTML = ("application/xhtml+xml", "text/html", "text/x-oeb1-document", "application/x-dtbook+xml")
_N_LEVELS = 4  # of the table of contents
_ENTITY = re.compile(rb"<!ENTITY\s+(?:%\s+)?(\S{1,40})\s+(SYSTEM|PUBLIC|[\"'][^\"']*&)")


@dataclass(frozen=True)
class Entry:
    """A line of the table of contents: the file it points into, the place there ("" = its beginning), level, title."""

    file: str
    fragment: str
    level: int
    title: str


@dataclass(frozen=True)
class Package:
    """What the package file says: the chapter files in order, and the files of the table of contents ("" if none)."""

    spine: tuple[str, ...]
    nav: str
    ncx: str


def claims(data: bytes) -> bool:
    """A zip file with EPUB's container file in it."""
    return _CONTAINER in names(data)


def load(data: bytes, name: str, limits: Limits) -> Document:
    """Raises DocumentError for a protected, damaged, exploding or empty book."""
    with open_archive(data, name, limits) as archive:
        package = read_package(archive, name, limits)
        _refuse_protected(archive, package, name, limits)
        contents = [entry for entry in read_contents(archive, package, name, limits) if entry.file in package.spine]
        text, places, files, missing = "", {}, [], []
        for file in package.spine:
            try:
                html = read_entry(archive, file, name)
            except DocumentError:
                missing.append(file)
                continue
            _refuse_entities(html, file, name)
            fragments = {entry.fragment for entry in contents if entry.file == file and entry.fragment}
            chapter, marks = to_marked_markdown(decode_html(html, file)[0], limits, fragments)
            if not chapter:
                continue
            text += "\n\n" if text else ""
            places[file, ""] = len(text)
            places.update({(file, fragment): len(text) + at for fragment, at in marks.items()})
            files.append(len(text))
            text += chapter
            check_length(len(text), name, limits)
    if not text:
        raise DocumentError(
            f"{name} has no text: its chapters are empty or pictures; if they are, run OCR on them first"
        )
    note = f"{name}: {len(missing):,} of its chapter files are missing or damaged and left out" if missing else ""
    return Document(name, text, KIND, _parts(text, contents, places, files), note)


def read_package(archive: zipfile.ZipFile, name: str, limits: Limits) -> Package:
    """Raises DocumentError if the book's own description cannot be read or names no text."""
    container = parse_xml(read_entry(archive, _CONTAINER, name), _CONTAINER, name, limits)
    path = next((element.get("full-path") for element in container.iter() if _tag(element) == "rootfile"), None)
    if not path:
        raise DocumentError(f"{name} is damaged: {_CONTAINER} names no package; get it again")
    root = parse_xml(read_entry(archive, path, name), path, name, limits)
    items, nav, ncx, order = {}, "", "", []
    for element in root.iter():
        if _tag(element) == "item" and element.get("href"):
            file = _resolve(path, element.get("href"))
            kind = (element.get("media-type") or "").lower()
            items[element.get("id")] = (file, kind)
            if "nav" in (element.get("properties") or "").split():
                nav = file
            if kind == "application/x-dtbncx+xml":
                ncx = file
        elif _tag(element) == "itemref":
            order.append(element.get("idref"))
    spine = [items[key][0] for key in order if key in items and items[key][1] in _XHTML]
    spine = list(dict.fromkeys(file for file in spine if file != nav))
    if not spine:
        raise DocumentError(f"{name} is damaged: its package names no chapters; get it again")
    if len(spine) > limits.pages:
        raise DocumentError(f"{name} has {len(spine):,} chapter files, more than {limits.pages:,}")
    return Package(tuple(spine), nav, ncx)


def read_contents(archive: zipfile.ZipFile, package: Package, name: str, limits: Limits) -> list[Entry]:
    """The table of contents; [] if the book has none or it is damaged, as the text is readable without it."""
    for file, read in ((package.nav, _nav_entries), (package.ncx, _ncx_entries)):
        if file:
            try:
                entries = read(parse_xml(read_entry(archive, file, name), file, name, limits), file)
            except DocumentError as error:
                if "entity" in str(error) or "nested" in str(error):
                    raise
                continue
            if entries:
                return entries
    return []


def _nav_entries(root: Any, file: str) -> list[Entry]:
    """Of <nav epub:type="toc">: nested lists of links."""
    navs = [element for element in root.iter() if _tag(element) == "nav"]
    toc = next((nav for nav in navs if any("toc" in value.split() for value in nav.attrib.values())), None)
    entries: list[Entry] = []

    def walk(element: Any, level: int) -> None:
        for child in element:
            if _tag(child) == "a" and child.get("href"):
                entries.append(_entry(file, child.get("href"), level, "".join(child.itertext())))
            elif level <= _N_LEVELS or _tag(child) != "ol":
                walk(child, level + (_tag(child) == "ol"))

    if toc is not None:
        walk(toc, 0)
    return entries


def _ncx_entries(root: Any, file: str) -> list[Entry]:
    """Of <navMap>: nested <navPoint>s."""
    entries: list[Entry] = []

    def walk(element: Any, level: int) -> None:
        for child in element:
            if _tag(child) != "navPoint":
                continue
            label = next((part for part in child if _tag(part) == "navLabel"), None)
            content = next((part for part in child if _tag(part) == "content"), None)
            if label is not None and content is not None and content.get("src"):
                entries.append(_entry(file, content.get("src"), level, "".join(label.itertext())))
            if level < _N_LEVELS:
                walk(child, level + 1)

    for element in root.iter():
        if _tag(element) == "navMap":
            walk(element, 1)
    return entries


def _entry(file: str, href: str, level: int, title: str) -> Entry:
    path, _, fragment = href.partition("#")
    return Entry(_resolve(file, path) if path else file, unquote(fragment), level, plain_title(title))


def _parts(text: str, contents: list[Entry], places: dict[tuple[str, str], int], files: list[int]) -> tuple[Part, ...]:
    """By the table of contents, else by headings, else one part for each file."""
    found: dict[int, Heading] = {}
    for entry in contents:
        place = places.get((entry.file, entry.fragment), places.get((entry.file, "")))
        if place is not None and entry.title:
            end = text.find("\n", place) if text.startswith("#", place) else place
            found.setdefault(place, Heading(place, entry.level, entry.title, end if end >= 0 else len(text)))
    if len(found) > 1:
        return parts_by_headings(text, [found[place] for place in sorted(found)], is_listed=True)
    headings = markdown_headings(text)
    if headings:
        return parts_by_headings(text, headings)
    ends = [*files[1:], len(text)]
    return tuple(
        Part(f"ch. {number}", "", start, end) for number, (start, end) in enumerate(zip(files, ends, strict=True), 1)
    )


def _refuse_protected(archive: zipfile.ZipFile, package: Package, name: str, limits: Limits) -> None:
    """Fonts may be scrambled, chapters not."""
    if _ENCRYPTION in archive.namelist():
        root = parse_xml(read_entry(archive, _ENCRYPTION, name), _ENCRYPTION, name, limits)
        hidden = {unquote(element.get("URI") or "") for element in root.iter() if _tag(element) == "CipherReference"}
        if hidden & set(package.spine):
            raise DocumentError(f"{name} is copy-protected (DRM) and opens only in its shop's own reader")


def _refuse_entities(html: bytes, file: str, name: str) -> None:
    """Chapters are read as HTML, where no such entity expands; but whoever made this means harm, and is told so."""
    match = _ENTITY.search(html[: 1 << 16])
    if match:
        entity, danger = match[1].decode("ascii", "replace"), "expands to any size (an XML bomb)"
        if match[2] in (b"SYSTEM", b"PUBLIC"):
            danger = "would read another file"
        raise DocumentError(f"{name} declares the entity {entity!r} in {file!r}, which {danger}; it is refused")


def _resolve(base: str, href: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(base), unquote(href.partition("#")[0])))


def _tag(element: Any) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


EPUB = Loader(KIND, (".epub",), claims, load)
