"""ProAPO as a whole: what it finds where that is known, what it leaves alone, and what it does after a kill."""

import json
import subprocess
import sys

import pytest
import torch

from nearfar.classifiers import ZeroShotClassifier, class_prototypes
from nearfar.embedding.text_bank import TextBank
from nearfar.errors import UserError
from nearfar.prompting import ClassTexts, GroupSearch, ProAPO, PromptLibrary, SearchSize, draw_shots
from nearfar.prompting.class_groups import confused_groups
from nearfar.prompting.description_search import ClassItems, best_start, groups_of, search_group
from nearfar.prompting.proapo import CHOSEN, DESCRIBED, PLAIN, TEMPLATES
from nearfar.prompting.prompt_fitness import ShotScorer
from nearfar.prompting.template_search import averaged, search_templates
from oracles import worded_classes as world

N = 12
SMALL = {
    "templates": SearchSize(2),
    "descriptions": GroupSearch(rounds=2, groups=3, starts=8, size=SearchSize(2, mutations=4)),
}


def fitted(seed=0, encoder=None, labels=None, **settings):
    x, y = world.images(N, 1)
    search = ProAPO(encoder or world.Words(), seed=seed, **{**SMALL, **settings})
    return search.fit(x, y if labels is None else labels, world.library(N))


@pytest.fixture(scope="module")
def search():
    return fitted()


def accuracy(search, texts):
    x, y = world.images(N, 20, seed=1)
    chosen = ZeroShotClassifier(search.encoder).fit(texts)
    return chosen.score(x, [world.classes(N)[c] for c in y.tolist()])


def test_it_finds_descriptions_that_fit_and_loses_those_that_do_not(search):
    held = [sentence for _, own in search.texts_ for sentence in own]
    right = sum(f"word{c} " in s for c, (_, own) in enumerate(search.texts_) for s in own)
    wrong = sum(f"word{d} " in s for c, (_, own) in enumerate(search.texts_) for s in own for d in range(N) if d != c)
    # Of the library's sentences half hold the class's own word, and a third another's.
    assert right > 0.55 * len(held)
    assert wrong < 0.2 * len(held)
    assert accuracy(search, search.texts_) >= accuracy(search, search.compared_[DESCRIBED])
    assert accuracy(search, search.texts_) > accuracy(search, search.compared_[PLAIN]) + 0.2


def test_the_likelihood_tells_apart_what_accuracy_does_not(search):
    """On one image a class accuracy is soon 1, and its search has nothing left to climb."""
    alone = fitted(fitness="accuracy")
    assert alone.measured_[CHOSEN].top1 == search.measured_[CHOSEN].top1 == 1.0
    assert accuracy(search, search.texts_) > accuracy(alone, alone.texts_)


def test_each_stage_is_no_worse_on_the_images_than_the_one_before(search):
    fitness = {name: search.fitness(measured) for name, measured in search.measured_.items()}
    assert fitness[CHOSEN] >= fitness[TEMPLATES] >= fitness[PLAIN]
    for stage in ("templates", "descriptions"):
        best = [row.fitness for row in search.history_ if row.stage == stage]
        assert best == sorted(best)
    # What is measured is what a classifier of these texts does.
    x, y = world.images(N, 1)
    for name, texts in search.compared_.items():
        w = class_prototypes(search.encoder, texts)
        scorer = ShotScorer(x, y, classes=N, temperature=0.05)
        assert scorer.measure(w).cross_entropy == pytest.approx(search.measured_[name].cross_entropy, abs=1e-5)


def test_the_same_seed_gives_the_same_texts_and_another_may_not(search):
    again = fitted()
    assert again.texts_ == search.texts_
    assert again.history_ == search.history_
    assert fitted(seed=1).history_ != search.history_


def test_labels_may_be_names(search):
    named = fitted(labels=[world.classes(N)[c] for c in world.images(N, 1)[1].tolist()])
    assert named.texts_ == search.texts_
    with pytest.raises(UserError, match=r"labels: no class 'name99'"):
        fitted(labels=["name99"] * N)


def test_every_text_is_encoded_once():
    encoder = world.Words()
    fitted(encoder=encoder)
    assert len(encoder.read) == len(set(encoder.read))


def test_a_bank_is_shared_by_searches(search):
    encoder = world.Words()
    bank = TextBank(encoder)
    x, y = world.images(N, 1)
    first = ProAPO(encoder, **SMALL).fit(x, y, world.library(N), bank=bank)
    again = ProAPO(encoder, **SMALL).fit(x, y, world.library(N), bank=bank)
    assert (first.encoded_, again.encoded_) == (len(encoder.read), 0)
    assert first.texts_ == again.texts_ == search.texts_


def test_names_through_one_template_are_plain_zero_shot():
    x, y = world.images(N, 2)
    alone = PromptLibrary(world.classes(N), ("a photo of a {}",))
    search = ProAPO(world.Words(), **SMALL).fit(x, y, alone)
    assert search.texts_ == ClassTexts.of(world.classes(N), "a photo of a {}")
    assert search.templates_ == ("a photo of a {}",)


def test_without_descriptions_it_is_the_search_of_templates(search):
    ato = fitted(descriptions=None)
    assert ato.texts_ == search.compared_[TEMPLATES] == ClassTexts.of(world.classes(N), ato.templates_)
    assert CHOSEN not in ato.compared_
    assert {row.stage for row in ato.history_} == {"templates"}


def test_a_planted_template_is_chosen():
    """Only one template lets the names through; the others hide them behind words of other classes."""
    n, loud = 6, " ".join(["word0 word1 word2 word3"] * 4)
    templates = [f"{loud} loud{i} {{}}" for i in range(11)] + ["{}"]
    x = torch.stack([world.vector(name) for name in world.classes(n)])
    scorer = ShotScorer(x, torch.arange(n), classes=n, temperature=0.05)
    encoder = world.Words()
    stage = search_templates(
        lambda texts: encoder.tokenize(texts) / encoder.tokenize(texts).norm(dim=1, keepdim=True),
        scorer,
        world.classes(n),
        templates,
        size=SearchSize(3),
    )
    assert "{}" in stage.templates
    assert stage.best.cross_entropy < 0.5 * stage.plain.cross_entropy


@pytest.mark.parametrize("draws", ["linear", "exp"])
def test_draws_by_worth_are_another_search_with_the_same_bounds(search, draws):
    other = fitted(draws=draws)
    assert other.history_ != search.history_
    assert other.fitness(other.measured_[CHOSEN]) >= other.fitness(other.measured_[TEMPLATES])


def scene(shots=1):
    x, y = world.images(N, shots)
    encoder = world.Words()

    def embed(texts):
        vectors = encoder.tokenize(texts)
        return vectors / vectors.norm(dim=1, keepdim=True)

    items = ClassItems(world.library(N), ["a photo of a {}", "this is {}"], embed)
    return items, ShotScorer(x, y, classes=N, temperature=0.05), embed


def test_class_vectors_are_normalised_averaged_and_normalised():
    items, _, embed = scene()
    state = tuple((own[0], own[2]) for own in items.of_class)
    direct = [embed(list(own)).double().mean(0) for _, own in items.texts(state)]
    expected = torch.stack([mean / mean.norm() for mean in direct])
    torch.testing.assert_close(items.class_vectors(state), expected, atol=1e-6, rtol=0)
    memory = torch.stack([embed([f"{t} {c}" for c in "ab"]) for t in ("x", "y", "z")])
    assert torch.equal(averaged(memory, [2, 0]), averaged(memory, [0, 2, 0]))
    torch.testing.assert_close(averaged(memory, [1]), memory[1].double(), atol=1e-6, rtol=0)


def test_a_group_changes_its_own_classes_and_is_never_worse():
    items, scorer, _ = scene()
    state = items.named()
    group = [1, 4, 7]
    after = search_group(items, scorer, state, group, size=SearchSize(2, mutations=4))
    assert {c for c in range(N) if after[c] != state[c]} <= set(group)
    assert after != state
    assert scorer.score(items.class_vectors(after)) > scorer.score(items.class_vectors(state))
    still = search_group(items, scorer, state, group, size=SearchSize(0))
    assert scorer.score(items.class_vectors(still)) >= scorer.score(items.class_vectors(state))
    assert all(after)  # a class that loses its last item keeps what it has


def names_in(templates, **settings):
    """A search of templates for six names whose pictures are the names themselves."""
    n, encoder = 6, world.Words()
    x = torch.stack([world.vector(name) for name in world.classes(n)])
    scorer = ShotScorer(x, torch.arange(n), classes=n, temperature=0.05)

    def embed(texts):
        vectors = encoder.tokenize(texts)
        return vectors / vectors.norm(dim=1, keepdim=True)

    return search_templates(embed, scorer, world.classes(n), templates, **settings)


def test_templates_that_err_more_than_the_plain_one_are_left_out():
    others = [f"other{i}{{}}" for i in range(5)]  # one word with the name, which the pictures know nothing of
    assert names_in(["{}", *others], size=SearchSize(1)).kept == 1
    assert names_in([*others, "{}"], size=SearchSize(1)).kept == 6


def test_the_plain_template_is_never_lost():
    """Where no draw hits it, either."""
    for seed in range(4):
        stage = names_in(["{}", "so {}", "oh {}", "ah {}"], size=SearchSize(0, parents=1), seed=seed)
        assert stage.templates == ("{}",)


def test_a_class_that_a_candidate_leaves_empty_keeps_what_it_has(monkeypatch):
    items, scorer, _ = scene()
    state, one = items.all_described(), items.of_class[1][2]
    monkeypatch.setattr("nearfar.prompting.description_search.evolve", lambda *_, **__: {frozenset({one}): 1.0})
    after = search_group(items, scorer, state, [1, 4], size=SearchSize(1))
    assert after[1] == (one,)
    assert after[:1] + after[2:] == state[:1] + state[2:]


def test_the_best_start_is_one_of_those_tried():
    items, scorer, _ = scene()
    assert best_start(items, scorer, 0, seed=0) == items.named()
    start = best_start(items, scorer, 8, seed=0)
    scores = [scorer.score(items.class_vectors(state)) for state in (start, items.named(), items.all_described())]
    assert scores[0] == max(scores)
    least = len(items.described(0)) // 3
    assert all(len(own) >= least for own in start)


def test_anchors_are_the_classes_that_fit_worst():
    """Class 2's text is class 5's: its images fit worst, and 5 is what it is confused with."""
    w = torch.eye(8)
    w[2] = w[5]
    scorer = ShotScorer(torch.eye(8), torch.arange(8), classes=8)
    groups = confused_groups(scorer, w, size=3)
    assert groups[0][0] == 2
    assert 5 in groups[0]
    flat = [c for group in groups for c in group]
    assert len(flat) == len(set(flat)) <= 20
    assert not {2, 5} & {c for group in confused_groups(scorer, w, banned=[2, 5], size=3) for c in group}


def test_classes_without_images_or_descriptions_are_left_alone():
    x, y = world.images(N, 1)
    kept = y != 3
    library = world.library(N)
    some = PromptLibrary(
        library.names,
        library.templates,
        descriptions={name: texts for name, texts in library.descriptions.items() if name != "name4"},
    )
    encoder = world.Words()
    items = ClassItems(some, ["{}"], lambda texts: encoder.tokenize(texts))
    scorer = ShotScorer(x[kept], y[kept], classes=N, temperature=0.05)
    assert not {3, 4} & {c for group in groups_of(items, scorer, items.named()) for c in group}
    for c in range(N):
        without = ShotScorer(x[y != c], y[y != c], classes=N, temperature=0.05)
        assert c not in {other for group in groups_of(items, without, items.all_described()) for other in group}
    search = ProAPO(world.Words(), **SMALL).fit(x[kept], y[kept], some)
    assert search.texts_.names == library.names


def test_few_classes_work():
    for n in (1, 2, 3):
        x, y = world.images(n, 2)
        search = ProAPO(world.Words(), **SMALL).fit(x, y, world.library(n, wrong=1))
        assert len(search.texts_) == n


def test_shots_are_drawn_of_each_class_and_fewer_are_the_first_of_more():
    label = torch.tensor([0, 1, -1, 1, 0, 2, 1, 0, 1])
    one, two = draw_shots(label, 1, seed=3), draw_shots(label, 2, seed=3)
    assert label[one].tolist().sort() == [0, 1, 2].sort()
    assert sorted(label[two].tolist()) == [0, 0, 1, 1, 2]
    assert set(one.tolist()) <= set(two.tolist())
    assert {tuple(draw_shots(label, 1, seed=seed).tolist()) for seed in range(20)} > {tuple(one.tolist())}


KILLED = """
import os, sys, torch
from oracles import worded_classes as world
from tests_settings import SMALL
from nearfar.prompting import ProAPO
def after(row):
    if (row.stage, row.round, row.group, row.generation) == ("descriptions", 1, 2, 1): os._exit(9)
x, y = world.images(12, 1)
ProAPO(world.Words(), **SMALL).fit(x, y, world.library(12), folder=sys.argv[1], after=after)
"""
SETTINGS = """
from nearfar.prompting import GroupSearch, SearchSize
SMALL = {"templates": SearchSize(2), "descriptions": GroupSearch(2, 3, 8, SearchSize(2, mutations=4))}
"""


def test_a_search_that_was_killed_goes_on_and_ends_the_same(search, tmp_path, monkeypatch):
    (tmp_path / "tests_settings.py").write_text(SETTINGS)
    folder, paths = tmp_path / "run", [*sys.path, str(tmp_path)]
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in paths if path))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], timeout=120, capture_output=True)
    assert killed.returncode == 9, killed.stderr.decode()
    x, y = world.images(N, 1)
    encoder = world.Words()
    again = ProAPO(encoder, **SMALL).fit(x, y, world.library(N), folder=folder)
    assert again.texts_ == search.texts_
    assert again.history_ == search.history_
    assert 0 < again.scored_ < search.scored_ - 100
    assert len(encoder.read) < 10  # a probe of the model, and no text again
    third = ProAPO(world.Words(), **SMALL).fit(x, y, world.library(N), folder=folder)
    assert (third.scored_, third.encoded_, third.texts_) == (0, 0, search.texts_)


def test_a_folder_of_another_search_is_refused(tmp_path):
    x, y = world.images(N, 1)
    size = {"templates": SearchSize(1), "descriptions": None}
    ProAPO(world.Words(), **size).fit(x, y, world.library(N), folder=tmp_path)
    for other, features, labels in (
        (ProAPO(world.Words(), seed=1, **size), x, y),
        (ProAPO(world.Words(), fitness="accuracy", **size), x, y),
        (ProAPO(world.Words(), **size), x.flip(0), y),
        (ProAPO(world.Words(), **size), x, y.roll(1)),
    ):
        with pytest.raises(UserError, match="holds a search of other images, texts or settings"):
            other.fit(features, labels, world.library(N), folder=tmp_path)
    (tmp_path / "search.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match="holds a search of other"):
        ProAPO(world.Words(), **size).fit(x, y, world.library(N), folder=tmp_path)


def test_scores_are_plain_json(tmp_path):
    x, y = world.images(N, 1)
    ProAPO(world.Words(), **SMALL).fit(x, y, world.library(N), folder=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == "templates, start"
    assert len({row["step"] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fitness": "best"}, "no fitness 'best'"),
        ({"draws": "even"}, "no way to draw 'even'"),
        ({"encoder": object()}, "a object does not embed texts"),
        ({"temperature": -1.0}, "temperature=-1.0"),
    ],
    ids=["fitness", "draws", "model", "temperature"],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        fitted(**settings)
