"""Data of several domains with one of them left out: what a model makes of a domain that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nearfar import lookup
from nearfar.data.sources.source import Source
from nearfar.errors import UserError


def leave_domain_out(source: Source, domain: str) -> tuple[Source, Source]:
    """The records of the other domains, and those of this one; records keep their ids.

    Args:
        source: data whose records have a `domain`, and which names its domains.
        domain: one of `source.domains`.

    Raises:
        UserError: a stream, data without domains, no such domain, or data of that domain alone.

    >>> from nearfar.data import world
    >>> others, left_out = leave_domain_out(world.emoji("test"), "openmoji-line")
    >>> len(others), len(left_out), {record["style"] for record in left_out}
    (1276, 319, {'openmoji-line'})
    """
    names = domains_of(source)
    lookup.check("domain", [domain], names, where=f"{source.name}: ")
    numbers = source.column("domain")
    places = [place for place, number in enumerate(numbers) if number == names.index(domain)]
    others = [place for place, number in enumerate(numbers) if number is not None and number != names.index(domain)]
    if not others or not places:
        held = "no other" if not others else "no records of this"
        raise UserError(f"{source.name} holds {held} domain, so {domain!r} cannot be left out of it")
    return source.select(others), source.select(places, name=f"{source.name} ({domain})")


def each_domain_out(source: Source) -> Iterator[tuple[str, Source, Source]]:
    """Each domain that has records, in turn: its name, the records of the others, and its own.

    Raises:
        UserError: as `leave_domain_out`.
    """
    names, held = domains_of(source), set(source.column("domain"))
    for number, name in enumerate(names):
        if number in held:
            yield name, *leave_domain_out(source, name)


def domains_of(source: Any) -> list[str]:
    """The names of the domains of data that can be read by number.

    Raises:
        UserError: they have none, or are a stream.
    """
    if not isinstance(source, Source):
        raise UserError(f"{source.name} is a stream, which cannot be counted: leave a domain out of other data")
    if not source.domains:
        raise UserError(
            f"{source.name} names no domains: name the column with domain=NAME, or join one source a domain "
            "('art/ + photo/')"
        )
    return list(source.domains)
