"""Views of texts: every change keeps what it should, spans lie where they must, negations are counted, and the same
seed, epoch and record give the same views, after a resume too."""

import inspect
from dataclasses import replace
from itertools import islice, pairwise
from random import Random

import pytest
import torch

from nearfar.data import Loader, Records, train_tokenizer
from nearfar.data.texts import document_spans, token_cutoff, word_changes
from nearfar.data.texts.document_spans import DocumentSpans
from nearfar.data.texts.negations import negations, negations_changed
from nearfar.data.texts.text_views import PRESETS, TextViewPreset
from nearfar.errors import UserError

TEXT = ["the", "dog", "does", "not", "bark", "at", "a", "cat", "that", "never", "saw", "no", "dog"]
TEXTS = [f"record {i} says that it is not the number {i + 1} of {i} others that stand here" for i in range(12)]
TOKENIZER = train_tokenizer(TEXTS, 300)
LONG = [" ".join(f"w{place}" for place in range(60 + i)) for i in range(12)]


def loader(preset, texts=TEXTS, **settings):
    records = Records([{"text": text} for text in texts])
    settings = {"batch_size": 4, "tokenizer": TOKENIZER, "text_pairs": True, "text_views": preset} | settings
    return Loader(records, **settings)


@pytest.mark.parametrize("seed", range(20))
def test_deletion_keeps_the_order_and_one_word_at_least(seed):
    numbered = [str(place) for place in range(10)]
    for kept in (
        word_changes.delete_words(numbered, 0.4, Random(seed)),
        word_changes.delete_spans(numbered, 2, 0.3, Random(seed)),
        word_changes.delete_words(numbered, 0.999, Random(seed)),
        word_changes.delete_spans(numbered, 50, 0.3, Random(seed)),
    ):
        assert kept == sorted(kept, key=int)
        assert 1 <= len(set(kept)) == len(kept) <= 10


def test_deletion_leaves_out_its_share():
    words = ["word"] * 20_000
    assert len(word_changes.delete_words(words, 0.3, Random(0))) == pytest.approx(14_000, rel=0.02)
    assert len(word_changes.delete_spans(words, 1, 0.3, Random(0))) == 14_000


@pytest.mark.parametrize("seed", range(20))
def test_what_moves_words_keeps_them_all(seed):
    numbered = [str(place) for place in range(11)]
    swapped = word_changes.swap_spans(numbered, 1, 0.3, Random(seed))
    assert sorted(swapped) == sorted(numbered)
    assert sum(a != b for a, b in zip(swapped, numbered, strict=True)) >= 6, "two spans of three"
    assert sorted(word_changes.shuffle_words(numbered, Random(seed))) == sorted(numbered)
    assert numbered == [str(place) for place in range(11)], "what came in stays"


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.spans is None])
def test_a_text_of_one_word_stays(name):
    assert [view.words for view in PRESETS[name].views(["alone"], 3)] == [["alone"]] * 2


def test_each_change_says_its_risk():
    changes = [f for n, f in inspect.getmembers(word_changes, inspect.isfunction) if n[0] != "_"]
    assert len(changes) == 4
    for change in (*changes, token_cutoff.cut_off, document_spans.DocumentSpans):
        assert "\nRisk: " in inspect.getdoc(change), change.__name__


@pytest.mark.parametrize("placing", ["any", "subsuming", "adjacent"])
@pytest.mark.parametrize(("least", "most", "anchors"), [(3, 8, 1), (3, 8, 3), (2, 4, 2), (1, 2, 1), (32, 512, 2)])
def test_spans_lie_where_they_must(placing, least, most, anchors):
    spans = DocumentSpans(least, most, anchors=anchors, positives=3, placing=placing)
    for seed in range(60):
        words = spans.shortest_document + seed % 7
        sample = spans.sample(words, Random(seed))
        assert len(sample) == anchors
        for before, after in pairwise(sample):
            assert before.span.stop <= after.span.start, "anchors lie apart"
        for anchor in sample:
            assert len(anchor.positives) == 3
            for span in (anchor.span, *anchor.positives):
                assert 0 <= span.start <= span.stop <= words
                assert least <= len(span) <= most
            for positive in anchor.positives:
                inside = anchor.span.start <= positive.start and positive.stop <= anchor.span.stop
                touches = positive.stop == anchor.span.start or positive.start == anchor.span.stop
                near = positive.stop >= anchor.span.start and positive.start <= anchor.span.stop
                assert {"any": near, "subsuming": inside, "adjacent": touches}[placing]


def test_anchors_are_long_and_positives_short():
    spans = DocumentSpans(32, 512, anchors=1, positives=1)
    sample = [spans.sample(2000, Random(seed))[0] for seed in range(800)]
    anchor = sum(len(each.span) for each in sample) / 800
    positive = sum(len(each.positives[0]) for each in sample) / 800
    assert anchor == pytest.approx(32 + 480 * 4 / 6, rel=0.04)
    assert positive == pytest.approx(32 + 480 * 2 / 6, rel=0.04)


def test_every_word_of_a_document_can_be_in_an_anchor():
    spans = DocumentSpans(2, 4, anchors=1, positives=1)
    places = {place for seed in range(600) for place in spans.sample(19, Random(seed))[0].span}
    assert places == set(range(19))


def test_short_documents_and_wrong_lengths_are_refused():
    with pytest.raises(UserError, match=r"31 words is too short for 2 anchors of up to 8: it needs 32"):
        DocumentSpans(4, 8, anchors=2).sample(31, Random(0))
    assert len(DocumentSpans(4, 8, anchors=2).sample(32, Random(0))) == 2
    for wrong in ({"least": 0}, {"least": 9, "most": 8}, {"anchors": 0}, {"positives": 0}):
        with pytest.raises(UserError, match="least at most as large as most"):
            DocumentSpans(**{"least": 4, "most": 8} | wrong)
    with pytest.raises(UserError, match="placing"):
        DocumentSpans(4, 8, placing="inside")
    with pytest.raises(UserError, match="take most=10"):
        DocumentSpans(5, 8, placing="adjacent")


def test_negations_by_word():
    assert negations(['"No!"', "it", "isn\u2019t,", "never,", "Not."]).total() == 4
    assert negations(["a", "knot", "in", "the", "nose", "is", "notable"]).total() == 0
    assert not negations_changed(TEXT, word_changes.shuffle_words(TEXT, Random(0)))
    assert negations_changed(TEXT, [word for word in TEXT if word != "not"])


def test_presets_refuse_what_says_nothing():
    with pytest.raises(UserError, match="changes nothing"):
        TextViewPreset()
    with pytest.raises(UserError, match="delete: a share"):
        TextViewPreset(delete=1.0)
    with pytest.raises(UserError, match="swap_spans: a share"):
        TextViewPreset(swap_spans=(1, -0.1))
    with pytest.raises(UserError, match="both or second"):
        TextViewPreset(delete=0.1, changed="first")
    with pytest.raises(UserError, match="Did you mean 'deletion'"):
        loader("delition")


def test_the_first_view_stays_where_only_the_second_is_changed():
    first, second = PRESETS["shuffle"].views(TEXT, 5)
    assert first.words == TEXT != second.words


def same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            same(value, other[key])
        else:
            assert torch.equal(value, other[key]), key


@pytest.mark.parametrize("name", ["deletion", "reorder", "shuffle-cutoff", "spans"])
def test_views_follow_seed_epoch_and_record_and_a_resume_goes_on_with_them(name):
    texts = LONG if name == "spans" else TEXTS
    whole = [list(loader(name, texts)), []]
    going = loader(name, texts)
    list(going)
    whole[1] = list(going)
    again = loader(name, texts)
    list(islice(again, 2))
    state = again.state_dict()
    resumed = loader(name, texts)
    resumed.load_state_dict(state)
    rest = [*resumed, *resumed]
    for one, other in zip(rest, [*whole[0][2:], *whole[1]], strict=True):
        same(one, other)
    order = [torch.cat([batch["index"] for batch in epoch]).argsort() for epoch in whole]
    words = [[ids for batch in epoch for ids in batch["text2"]["input_ids"].tolist()] for epoch in whole]
    assert [words[0][i] for i in order[0]] != [words[1][i] for i in order[1]], "another epoch, other views"


@pytest.mark.parametrize("name", ["clear-words", "cutoff"])
def test_two_processes_see_the_views_of_one(name):
    one = next(iter(loader(name, batch_size=8, pad_to=24)))
    parts = [next(iter(loader(name, rank=rank, world_size=2, pad_to=24))) for rank in (0, 1)]
    for key in ("text", "text2"):
        both = torch.cat([part[key]["input_ids"] for part in parts])
        assert torch.equal(one[key]["input_ids"], both)


def test_the_share_of_changed_negations_is_in_the_batch_where_words_are_deleted():
    batch = next(iter(loader("clear-words", batch_size=12, shuffle=False)))
    gone = [
        any("not" not in TOKENIZER.decode(batch[key]["input_ids"][row]).split() for key in ("text", "text2"))
        for row in range(12)
    ]
    assert batch["negation_changed"].tolist() == [int(each) for each in gone]
    assert sum(gone) > 0
    assert "negation_changed" not in next(iter(loader("shuffle")))


def test_cutoff_hides_its_share_of_the_words_tokens_and_no_other():
    plain = next(iter(loader(None, shuffle=False)))["text"]
    both = next(iter(loader(TextViewPreset(cutoff=0.25), shuffle=False)))
    for key in ("text", "text2"):
        ids, before = both[key]["input_ids"], plain["input_ids"]
        assert torch.equal(both[key]["attention_mask"], plain["attention_mask"])
        hidden = ids == TOKENIZER.mask_token_id
        assert torch.equal(ids[~hidden], before[~hidden])
        count = plain["attention_mask"].sum(1) - 2
        assert torch.equal(hidden.sum(1), (0.25 * count).round().long())
        assert not hidden[:, 0].any()
    assert not torch.equal(both["text"]["input_ids"], both["text2"]["input_ids"])
    second = next(iter(loader(replace(PRESETS["cutoff"], changed="second"), shuffle=False)))
    assert torch.equal(second["text"]["input_ids"], plain["input_ids"])
    assert not torch.equal(second["text2"]["input_ids"], plain["input_ids"])


def test_documents_too_short_for_spans_are_left_out_and_named():
    batches = loader("spans", [*LONG, "too short"], batch_size=13, shuffle=False, drop_last=False)
    (batch,) = batches
    assert batch["index"].tolist() == list(range(12))
    assert batches.skipped.count == 1
    assert "a text of 2 words, and its views need 48" in batches.skipped.listing(1)


def test_views_of_texts_need_a_method_of_pairs_and_data_without_them():
    with pytest.raises(UserError, match=r"text_views .* such as simcse \(text_pairs=True\)"):
        loader("deletion", text_pairs=False)
    with pytest.raises(UserError, match=r"text_views .* its text2"):
        Loader(
            Records([{"text": "a", "text2": "b"}]),
            batch_size=1,
            tokenizer=TOKENIZER,
            text_pairs=True,
            text_views="cutoff",
        )
