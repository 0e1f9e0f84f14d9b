"""Sentences that command a house: nine intents, each with several ways to say it and slots to fill."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import product

SLOTS = {
    "room": ("kitchen", "bedroom", "bathroom", "garage", "office"),
    "level": ("ten", "twenty", "fifty", "eighty"),
    "minutes": ("two", "five", "seven", "thirty"),
    "music": ("jazz", "piano", "country", "dance"),
    "door": ("front", "back", "side", "cellar"),
    "item": ("milk", "bread", "apples", "coffee"),
    "city": ("london", "paris", "boston", "berlin"),
    "person": ("mary", "peter", "alice", "robert"),
}

INTENTS = {
    "lights on": ("turn on the {room} lights", "lights on in the {room}", "make it bright in the {room}"),
    "lights off": ("turn off the {room} lights", "lights out in the {room}", "make it dark in the {room}"),
    "set heat": ("set the heat to {level}", "make the {room} {level} degrees", "warm up to {level} degrees"),
    "start timer": (
        "set a timer for {minutes} minutes",
        "wake me in {minutes} minutes",
        "count down {minutes} minutes",
    ),
    "play music": ("play some {music}", "put on {music} music", "i want to hear {music}"),
    "lock door": ("lock the {door} door", "close up the {door} door", "is the {door} door locked"),
    "buy item": ("add {item} to the list", "we need more {item}", "remember to buy {item}"),
    "weather": ("what is the weather in {city}", "will it rain in {city}", "do i need a coat in {city}"),
    "call person": ("call {person} now", "phone {person} please", "ring up {person}"),
}
"""Intents, each with its templates: some words are shared by two intents, so that single words do not tell all."""


@lru_cache(maxsize=1)
def sentences() -> dict[str, tuple[str, ...]]:
    """All sentences of each intent, template by template.

    >>> len(sentences()), sentences()["play music"][0], sum(map(len, sentences().values()))
    (9, 'play some jazz', 130)
    """
    return {name: tuple(text for template in texts for text in _filled(template)) for name, texts in INTENTS.items()}


def _filled(template: str) -> list[str]:
    slots = re.findall(r"{(\w+)}", template)
    values = product(*(SLOTS[slot] for slot in slots))
    return [template.format(**dict(zip(slots, each, strict=True))) for each in values]
