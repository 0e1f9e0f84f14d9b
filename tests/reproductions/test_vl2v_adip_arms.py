"""The reproduction of VL2V-ADiP at a tiny size: what is left out stays out, settings are chosen without it, and each
arm trains what it is to train."""

import pytest
import torch
from torch.nn import functional as F

from nearfar.data import world
from nearfar.reproductions.image_text import left_out_styles as styles
from nearfar.reproductions.image_text import vl2v_adip_reproduction as vl2v

CACHES = (styles.subjects, styles.drawings)


@pytest.fixture(scope="module", autouse=True)
def small():
    """Few subjects with five concepts each, and trainings of two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(styles.DATA, "categories", ["food-drink"])
        patch.setitem(styles.DATA, "concepts_of_a_class", {"least": 5, "most": 5})
        patch.setitem(vl2v.CONFIG, "first", {"steps": 2, "lr": 1e-2})
        patch.setitem(vl2v.CONFIG, "second", {"steps": 2, "lrs": [1e-3, 1e-2]})
        for cached in CACHES:
            cached.cache_clear()
        yield
    for cached in CACHES:
        cached.cache_clear()
    vl2v._ALIGNED.clear()


def test_a_seed_measures_what_the_claims_compare():
    arms = vl2v.run(0)
    for claim in vl2v.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert -1 <= float(arms[arm][claim.metric]) <= 1
    task = styles.Task.of(0)
    assert arms[vl2v.OURS][vl2v.LEFT_OUT].group.tolist() == task.left_out.concept.tolist()
    assert len(arms[vl2v.ERM][vl2v.TRAINED].values) == 4 * len(task.left_out.concept)
    assert arms[vl2v.CHANCE][vl2v.LEFT_OUT] == 1 / len(styles.subjects())


def test_the_style_that_is_left_out_is_in_the_test_alone_and_each_is_left_out_in_turn():
    every = styles.drawings()
    assert [styles.Task.of(seed).style for seed in range(5)] == world.STYLES
    for seed in (0, 3):
        task = styles.Task.of(seed)
        style_of = {row.numpy().tobytes(): place % 5 for place, row in enumerate(every.maps)}
        for part in (task.train, task.validation, task.test):
            assert {style_of[row.numpy().tobytes()] for row in part.maps} == set(range(5)) - {seed}
        assert {style_of[row.numpy().tobytes()] for row in task.left_out.maps} == {seed}
        concepts = [set(part.concept.tolist()) for part in (task.train, task.validation, task.test)]
        assert sum(map(len, concepts)) == len(set().union(*concepts)) == len(every.concept) // 5
        assert set(task.left_out.concept.tolist()) == concepts[2]
        assert all(set(part.label.tolist()) == set(range(len(styles.subjects()))) for part in (task.train, task.test))
    assert not torch.equal(styles.Task.of(0).left_out.concept, styles.Task.of(5).left_out.concept)


def test_the_teacher_learned_from_none_of_the_concepts_and_no_two_are_variants():
    of = world.concepts()
    numbers = [number for own in styles.subjects().values() for number in own]
    assert {of[number]["split"] for number in numbers} <= {"val", "test"}
    assert len({of[number]["base"] for number in numbers}) == len(numbers)
    for name, own in styles.subjects().items():
        assert {of[number]["subcategory"].replace("-", " ") for number in own} == {name}


def test_the_parts_of_the_tower_are_the_tower():
    whole, every = styles._whole(), styles.drawings()
    number = int(every.concept[0])
    from nearfar.data.pictures.images import load_image

    pixels = whole.preprocess([load_image(world.picture(number, style)) for style in world.STYLES])
    with torch.no_grad():
        torch.testing.assert_close(styles.fresh(0).image(every.maps[:5]), whole.image(pixels), rtol=1e-4, atol=1e-4)


def test_the_stages_train_their_parts_and_leave_the_first_one_as_it_was():
    task = styles.Task.of(1)
    start, first = styles.fresh(1), vl2v.aligned(task, 1, 0.5)
    before = {name: value.clone() for name, value in first.state_dict().items()}
    assert moved(start.state_dict(), before) == {"image_projection"}
    student = styles.copied(first)
    vl2v.trained(vl2v.OURS, task, 1, 1e-2)
    assert not moved(first.state_dict(), before)
    assert student.text is first.text
    assert student.image is not first.image
    method = vl2v.classifier(vl2v.PROBED, task, 1)
    assert all(p.requires_grad for p in method.tower.parameters())
    assert not moved(method.tower.state_dict(), styles.fresh(1).image.state_dict())


def moved(one, other):
    return {name.split(".")[0] for name, value in one.items() if not torch.equal(value, other[name])}


def test_fine_tuning_moves_the_tower_and_not_the_statistics_of_its_batch_norm():
    task = styles.Task.of(2)
    method = vl2v.classifier(vl2v.ERM, task, 2)
    before = {name: value.clone() for name, value in method.tower.state_dict().items()}
    vl2v.fit(method, task.train, task.train.maps, 2, steps=2, lr=1e-2)
    changed = [name for name, value in method.tower.state_dict().items() if not torch.equal(value, before[name])]
    assert changed
    assert not any("running" in name or "batches" in name for name in changed)


def test_the_learning_rate_is_that_of_the_validation_pictures(monkeypatch):
    task, tried = styles.Task.of(0), []

    def scores(arm, task, seed, lr):
        """The higher rate tells all validation pictures."""
        tried.append(lr)
        right = task.validation.label if lr > 5e-3 else task.validation.label.roll(1)
        return lambda maps: F.one_hot(right, len(styles.subjects()))

    monkeypatch.setattr(vl2v, "trained", scores)
    best = vl2v.chosen(vl2v.ERM, task, 0)
    assert float(vl2v.validated(best, task)) == 1
    assert tried == [1e-3, 1e-2]
    monkeypatch.setattr(vl2v, "trained", lambda arm, task, seed, lr: lambda maps: torch.full((len(maps), 2), lr))
    assert vl2v.chosen(vl2v.ERM, task, 0)(task.validation.maps)[0, 0] == pytest.approx(1e-3)


def test_distillation_of_logits_by_the_slow_way():
    tower = torch.nn.Identity()
    tower.width = 4
    texts = F.normalize(torch.randn(3, 5), dim=1)
    method = styles.CrossEntropy(tower, 3, texts=texts, temperature=0.1)
    batch = {"image": torch.randn(2, 4), "label": torch.tensor([2, 0]), "teacher_image": 3 * torch.randn(2, 5)}
    expected = 0.0
    for image, label, target in zip(*batch.values(), strict=True):
        own = method.layer(image).log_softmax(0)
        said = torch.tensor([(target @ text / target.norm()).item() / 0.1 for text in texts]).softmax(0)
        expected += -(own[label] + (said * own).sum()) / 2 / 2
    torch.testing.assert_close(method(batch)["loss"], expected)
    plain = styles.CrossEntropy(tower, 3)
    plain.layer = method.layer
    torch.testing.assert_close(plain(batch)["loss"], F.cross_entropy(method.layer(batch["image"]), batch["label"]))


def test_pictures_of_a_concept_go_together():
    drawn = styles.Drawings(torch.zeros(3, 1), torch.zeros(3, 1), torch.tensor([0, 1, 1]), torch.tensor([7, 8, 8]))
    made = styles.hits(torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), drawn)
    assert (made.values.tolist(), made.group.tolist()) == ([1, 1, 0], [7, 8, 8])
