"""ARO's scoring and perturbations: exact metrics, fair ties, what a bag of words gets, the published file format."""

import json
import random
import zlib

import pytest
import torch
from PIL import Image

from nearfar.data.mining.grammar import tags, words
from nearfar.errors import UserError
from nearfar.evaluation.compositionality.aro import aro_cases
from nearfar.evaluation.compositionality.blind import NgramBaseline
from nearfar.evaluation.compositionality.choice import ChoiceQuestion, choice_accuracy
from nearfar.evaluation.compositionality.measure import measure
from nearfar.evaluation.compositionality.multiple_choice import multiple_choice
from nearfar.evaluation.compositionality.perturb import (
    ORDER,
    normalise,
    order_options,
    shuffle_patches,
    shuffle_within_trigrams,
    trigrams,
)
from oracles import negclip as oracle

CAPTION = "a big red dog quickly chases two small cats near the old house"


class BagOfWords:
    """Knows words and colours, no order: text is the mean of fixed word vectors."""

    def preprocess(self, images):
        return torch.stack(
            [torch.tensor(image.resize((1, 1)).getpixel((0, 0)), dtype=torch.float32) for image in images]
        )

    def tokenize(self, texts):
        ids = [sorted(zlib.crc32(w.encode()) % 997 for w in words(t)) for t in texts]
        width = max(map(len, ids))
        return {"input_ids": torch.tensor([row + [997] * (width - len(row)) for row in ids])}

    def encode_image(self, pixels, normalize=False):
        return torch.nn.functional.normalize(pixels @ self._table()[:3, :], dim=1)

    def encode_text(self, tokens, normalize=False):
        ids = tokens["input_ids"]
        table = self._table()
        rows = [table[row[row < 997]].sum(0) for row in ids]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)

    @staticmethod
    def _table():
        return torch.randn(997, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ORDER)
def test_perturbations_keep_the_words(name):
    tokens = words(CAPTION)
    out = ORDER[name](tokens, random.Random(0))
    assert sorted(out) == sorted(tokens)
    assert any(ORDER[name](tokens, random.Random(s)) != tokens for s in range(5))


def test_what_each_perturbation_leaves_in_place():
    tokens = words(CAPTION)
    tagged = tags(tokens)
    for seed in range(10):
        kept = ORDER["all but nouns and adjectives"](tokens, random.Random(seed))
        moved = ORDER["nouns and adjectives"](tokens, random.Random(seed))
        for i, tag in enumerate(tagged):
            if tag in ("noun", "adjective"):
                assert kept[i] == tokens[i]
            else:
                assert moved[i] == tokens[i]
        nouns = {i for i, tag in enumerate(tagged) if tag == "noun"}
        assert sorted(moved[i] for i in nouns) == sorted(tokens[i] for i in nouns)


def test_trigrams():
    assert [len(g) for g in trigrams(["a", "b", "c", "d", "e", "f", "g", "h"])] == [3, 3, 2]
    tokens = list("abcdefgh")
    for seed in range(5):
        out = shuffle_within_trigrams(tokens, random.Random(seed))
        assert all(set(out[i : i + 3]) == set(tokens[i : i + 3]) for i in (0, 3, 6))
        blocks = ORDER["trigrams"](tokens, random.Random(seed))
        assert "abc" in "".join(blocks)


def test_true_and_false_captions_are_spaced_alike():
    options = order_options("A man's t-shirt, which is red!")
    assert options[0] == "a man's t-shirt, which is red"
    assert all("  " not in option and " ," not in option for option in options)
    assert order_options(CAPTION, seed=3) == order_options(CAPTION, seed=3)


def test_normalise_keeps_commas_and_cuts_at_thirty_words():
    assert normalise('Hey! "You" (there); a~b: c, d.') == "hey you there a b c, d"
    assert len(normalise("word " * 50).split()) == 30


@pytest.mark.parametrize(("rows", "columns"), [(4, 1), (1, 4), (3, 3)])
def test_patch_shuffles_keep_the_pixels(rows, columns):
    images = torch.arange(2 * 3 * 12 * 12).view(2, 3, 12, 12)
    out = shuffle_patches(images, rows, columns, torch.Generator().manual_seed(0))
    assert out.shape == images.shape
    assert torch.equal(out.flatten(2).sort(2)[0], images.flatten(2).sort(2)[0])
    assert not torch.equal(out, images)


def test_a_border_that_does_not_divide_is_cut_off_evenly():
    image = torch.zeros(1, 1, 224, 224)
    image[:, :, :1], image[:, :, -1:], image[:, :, :, :1], image[:, :, :, -1:] = 1, 1, 1, 1
    out = shuffle_patches(image, 3, 3, torch.Generator().manual_seed(0))
    assert out.shape == (1, 1, 222, 222)
    assert out.sum() == 0
    with pytest.raises(ValueError, match="cannot cut"):
        shuffle_patches(torch.zeros(1, 1, 2, 2), 3, 3, torch.Generator())


@pytest.mark.parametrize("grid", oracle.SHUFFLED)
def test_patches_move_as_in_the_released_code(grid):
    rows, columns = grid
    h, w = 12 // rows, 8 // columns
    patches = torch.arange(rows * columns).view(1, 1, rows, 1, columns, 1).expand(1, 1, rows, h, columns, w)
    out = shuffle_patches(patches.reshape(1, 1, 12, 8), rows, columns, torch.Generator().manual_seed(0))
    assert tuple(out[0, 0, ::h, ::w].flatten().tolist()) == oracle.SHUFFLED[grid]


def test_the_released_clean_up():
    assert {caption: normalise(caption) for caption in oracle.CLEAN} == oracle.CLEAN
    kept = shuffle_patches(torch.ones(1, 1, 224, 224), 3, 3, torch.Generator().manual_seed(0))
    assert 224 * 224 - kept.numel() == oracle.LOST_PIXELS


def test_macro_and_micro():
    scores = [[1.0, 0.0]] + [[1.0, 0.0]] * 49 + [[1.0, 1.0]] + [[0.0, 1.0]] * 49
    result = choice_accuracy(scores, ["rare"] + ["common"] * 99)
    assert result["accuracy"] == pytest.approx(0.75)
    assert result["micro"] == pytest.approx(0.505)
    assert result.metrics["accuracy"].chance == pytest.approx(0.5)
    assert result.by["group"]["rare"]["accuracy"].value == 1.0
    only = choice_accuracy(scores, ["rare"] + ["common"] * 99, fewest=25)
    assert only["accuracy"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no group has 100 cases"):
        choice_accuracy(scores, ["rare"] + ["common"] * 99, fewest=100)


@pytest.mark.parametrize(("ties", "accuracy"), [("fair", 0.2), ("first", 1.0), ("last", 0.0)])
def test_ties(ties, accuracy):
    assert choice_accuracy([[0.3] * 5] * 4, ["g"] * 4, ties=ties)["accuracy"] == pytest.approx(accuracy)


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        choice_accuracy([[float("nan"), 0.0]], ["g"])


def test_a_bag_of_words_scores_at_chance():
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    swaps = [ChoiceQuestion(im, ("a red car and a blue dog", "a blue car and a red dog"), "swap") for im in (red, blue)]
    result = multiple_choice(BagOfWords(), swaps)
    assert result["accuracy"] == 0.5
    assert result["tied"] == 1.0
    order = [ChoiceQuestion(im, tuple(order_options(CAPTION)), "order") for im in (red, blue)]
    assert multiple_choice(BagOfWords(), order)["accuracy"] == pytest.approx(0.2)


def test_blind_baselines_stand_beside_every_score():
    image = Image.new("RGB", (8, 8), "red")
    cases = [ChoiceQuestion(image, tuple(order_options(CAPTION)), "order")]
    blind = NgramBaseline().fit([CAPTION, "two small cats near the old house", "a big red dog"])
    result = multiple_choice(BagOfWords(), cases, blind=blind)
    assert result["text_only"] == 1.0  # solved without the image
    assert result["blank_image"] == pytest.approx(0.2)
    assert result.details["flawed_cases"] == 0


def test_ngram_shares_sum_to_one():
    blind = NgramBaseline(order=2).fit(["a b", "a c", "b a"])
    known = [w for (w,) in blind.counts[1]]
    for history in [("a",), ("b",), ("never",)]:
        assert sum(blind._share(history, w) for w in known) + blind._share(history, "unseen") == pytest.approx(1)


def test_flawed_cases_are_counted():
    case = ChoiceQuestion(Image.new("RGB", (8, 8)), ("dog", "dog"), "g")
    assert case.flawed
    assert multiple_choice(BagOfWords(), [case]).details["flawed_cases"] == 1


def test_published_files(tmp_path):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "1.jpg")
    box = {"bbox_x": 2, "bbox_y": 1, "bbox_w": 6, "bbox_h": 5}
    both = {"true_caption": "The dog is on the mat.", "false_caption": "The mat is on the dog."}
    rows = [
        {"image_path": "1.jpg", **box, **both, "relation_name": "on"},
        {"image_path": "1.jpg", **box, **both, "relation_name": "next to"},
    ]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    (case,) = aro_cases(tmp_path / "r.json", tmp_path, "relation")
    assert case.captions == ("The dog is on the mat.", "The mat is on the dog.")
    assert case.box == (2, 1, 8, 6)
    assert case.group == "on"
    assert len(list(aro_cases(tmp_path / "r.json", tmp_path, "relation", leave_out=()))) == 2
    (tmp_path / "o.json").write_text(json.dumps([{"image": "1.jpg", "caption": [CAPTION, "a dog"]}]))
    first, second = aro_cases(tmp_path / "o.json", tmp_path, "order")
    assert len(first.captions) == 5
    assert second.flawed
    assert multiple_choice(BagOfWords(), [case])["accuracy"] == 0.5


def test_which_relations_of_the_published_files_count(tmp_path):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "1.jpg")
    (tmp_path / "images").mkdir()
    (tmp_path / "1.jpg").rename(tmp_path / "images" / "1.jpg")
    row = {
        "image_path": "1.jpg",
        "bbox_x": 2,
        "bbox_y": 1,
        "bbox_w": 6,
        "bbox_h": 5,
        "true_caption": "The dog is near the mat.",
        "false_caption": "The mat is near the dog.",
    }
    rows = [row | {"relation_name": relation} for relation in ("on", "near", "under")]
    (tmp_path / "visual_genome_relation.json").write_text(json.dumps(rows))

    def groups(**settings):
        return set(measure(BagOfWords(), None, aro=tmp_path, **settings).by["relation"])

    assert groups() == {"on", "under"}
    assert groups(leave_out=["on"]) == {"near", "under"}
    assert groups(leave_out=[]) == {"on", "near", "under"}
    with pytest.raises(UserError, match="name the folder"):
        measure(BagOfWords(), None, leave_out=["on"])


@pytest.mark.parametrize(
    ("content", "message"),
    [("[", "not JSON"), ("{}", "expected a list"), ('[{"image_path": "1.jpg"}]', r"row 0: .*relation_name")],
)
def test_bad_files_are_named(tmp_path, content, message):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(UserError, match=message):
        list(aro_cases(tmp_path / "bad.json", tmp_path, "relation"))
    with pytest.raises(UserError, match="no such file"):
        list(aro_cases(tmp_path / "none.json", tmp_path, "relation"))
