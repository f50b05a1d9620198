"""Versions of an API: which one a request asks for, and which one an instance has.

As Spring's ApiVersionServiceInstanceListSupplier: versions are compared as numbers, `v1`, `1` and
`1.0.0` are one (SemanticApiVersionParser).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

_VERSION = re.compile(r"\D*(\d+)(?:\.(\d+))?(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class ApiVersions:
    """Where a request says which version of the API it wants (`api-version.*`).

    Attributes:
        header, parameter: names, empty for none; headers in lower case.
        segment: of the path, from 0.
        media_types: the parameter of each media type that names a version.
        default: wanted by who says nothing; empty for none.
        fallback: when nobody has the version, any instance will do.
    """

    header: str
    parameter: str
    segment: int | None
    media_types: Mapping[str, str]
    default: str
    fallback: bool


def parse(text: str) -> str:
    """Spell a version in full, `1.0.0`; empty when it is none."""
    found = _VERSION.fullmatch(text.strip())
    return ".".join(str(int(part or 0)) for part in found.groups()) if found else ""


def asked(settings: ApiVersions, header: Callable[[str], str | None] | None) -> str:
    """Return the version that a request wants, in full; empty when it is none that could be.

    Header, query, path and media type are looked at in this order; the first that says anything
    decides.
    """
    said = next(_said(settings, header), "") if header else ""
    return parse(said or settings.default)


def _said(settings: ApiVersions, header: Callable[[str], str | None]) -> Iterator[str]:
    if settings.header and (found := header(settings.header)):
        yield found
    path, _, query = (header(":path") or "").partition("?")
    if settings.parameter:
        yield from parse_qs(query).get(settings.parameter, ())
    if settings.segment is not None:
        segments = [unquote(segment) for segment in path.split("/") if segment]
        yield from segments[settings.segment : settings.segment + 1]
    for name in ("accept", "content-type") if settings.media_types else ():
        for item in (header(name) or "").split(","):
            media_type, *parameters = (part.strip() for part in item.split(";"))
            wanted = settings.media_types.get(media_type.lower())
            given = dict(part.partition("=")[::2] for part in parameters)
            if wanted and wanted in given:
                yield given[wanted].strip('"')
