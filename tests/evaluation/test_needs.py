"""What a protocol is said to need before anything is embedded is what it fails without."""

import pytest

from nearfar.data.sources.source import Records, Stream
from nearfar.errors import UserError
from nearfar.evaluation import PROTOCOLS, embed, evaluate
from nearfar.evaluation.needs import missing_in_model, missing_in_source


class InOrder(Stream):
    """Records that can be read in order only."""

    def __init__(self, source):
        self.source, self.name, self.columns = source, source.name, source.columns
        self.classes, self.domains = source.classes, source.domains

    def read(self, part, skip=0):
        for row in range(skip, len(self.source)):
            yield self.source[row]


def without(source, *keys):
    """The source without some columns."""
    records = [{key: value for key, value in record.items() if key not in keys} for record in source]
    return Records(records, name="photos", classes=None if "label" in keys else source.classes)


def texts_that_differ(source):
    """Captions that tell both styles of a colour apart, so that one of them can be held out; no groups."""
    return without(source, "group").map(lambda record: {**record, "text": f"{record['text'][0]} {record['domain']}"})


def nameless(source):
    return Records(list(source), name="nameless")


MADE = {
    "whole": lambda source: source,
    "no captions": lambda source: without(source, "text"),
    "no labels": lambda source: without(source, "label"),
    "no pictures": lambda source: without(source, "image"),
    "no classes": nameless,
    "a stream": InOrder,
}


OPTIONS = {
    "few_shot": {"ways": 2, "shots": 1, "queries": 1, "episodes": 5},
    "sentence_probe": {"outer_folds": 2, "inner_folds": 2, "cs": [1.0]},
    "text_probe": {"steps": 5},
}
"""As many as the data hold, and no more than it takes to see that it runs."""

PREPARED = {"few_shot": lambda source: without(source, "group"), "sentence_probe": texts_that_differ}
"""Each colour is one thing, in two styles; an episode needs several things of a class, a fold two texts of it."""


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("reads", [True, False], ids=["both", "pictures only"])
def test_what_is_refused_is_what_fails(protocol, kind, reads, make_encoder, colours, monkeypatch):
    source = MADE[kind](PREPARED.get(protocol, lambda source: source)(colours))
    encoder = make_encoder()
    if not reads:
        monkeypatch.delattr(make_encoder, "encode_text")
    refused = missing_in_source(protocol, source) or missing_in_model(protocol, encoder, source)
    if refused is None:
        taught = {"teacher": embed(encoder, source), "k": 2} if protocol == "agreement" else {}
        assert list(evaluate(encoder, source, [protocol], options=OPTIONS | {"agreement": taught})) == [protocol]
    else:
        with pytest.raises((UserError, AttributeError, KeyError)):
            evaluate(encoder, source, [protocol], options=OPTIONS)


def test_captions_that_do_not_count(encoder, colours):
    assert missing_in_source("retrieval", colours, captions=0) == "captions is 0: no caption counts"
    assert missing_in_source("retrieval", colours, captions=1) is None
    assert missing_in_source("zero_shot", colours, captions=0) is None


def test_options_may_bring_what_the_data_lack(colours):
    assert "names no classes" in missing_in_source("zero_shot", nameless(colours))
    assert missing_in_source("zero_shot", nameless(colours), options={"classes": list("abcdef")}) is None
    assert missing_in_source("compositionality", without(colours, "text"), options={"aro": "ARO/"}) is None


def test_a_column_that_a_map_brought_unsaid(colours):
    plain = without(colours, "text")
    assert "no captions" in missing_in_source("retrieval", plain)
    assert missing_in_source("retrieval", plain.map(lambda record: {**record, "text": "a thing"})) is None


def test_an_empty_source_lacks_everything():
    assert "nothing has no pictures" in missing_in_source("geometry", Records([], name="nothing"))
