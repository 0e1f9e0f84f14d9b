"""Few-shot episodes: how they are drawn, figures against a slow loop, OpTA's gain and its bias, and what is shown."""

import json

import numpy as np
import pytest
import torch

from nearfar.commands.evaluate_command import parser, protocol_options
from nearfar.errors import UserError
from nearfar.evaluation import Embeddings, Metric, evaluate, few_shot
from nearfar.evaluation.protocols.episodes import draw_episodes
from nearfar.evaluation.protocols.few_shot_accuracy import over_episodes
from nearfar.evaluation.report import write_report

UNEVEN = [35, 20, 10, 5, 5]


def classes(s, count=60, each=60, dim=64, seed=0):
    """Gaussian classes: centres N(0, s^2), noise N(0, 1)."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.arange(count).repeat_interleave(each)
    image = s * torch.randn(count, dim, generator=draw)[label] + torch.randn(len(label), dim, generator=draw)
    return Embeddings(image, label=label, source="blobs")


def draw(label, thing=None, **settings):
    usual = {"ways": 3, "shots": 2, "queries": [4, 4, 4], "episodes": 30, "seed": 0}
    return draw_episodes(
        torch.as_tensor(label), None if thing is None else torch.as_tensor(thing), **(usual | settings)
    )


def test_an_episode_has_its_classes_shots_and_queries_once_each():
    label = np.repeat(np.arange(6), 10)
    drawn = draw(label, queries=[4, 2, 1])
    assert (drawn.support.shape, drawn.query.shape) == ((30, 3, 2), (30, 7))
    assert drawn.target.tolist() == [0, 0, 0, 0, 1, 1, 2]
    classes = set()
    for support, query in zip(drawn.support.numpy(), drawn.query.numpy(), strict=True):
        ways = label[support]
        assert (ways == ways[:, :1]).all()
        assert len(set(ways[:, 0])) == 3
        assert (label[query] == ways[drawn.target.numpy(), 0]).all()
        rows = [*support.ravel(), *query]
        assert len(set(rows)) == len(rows)
        classes |= set(ways[:, 0])
    assert classes == set(range(6))


def test_a_thing_is_at_most_once_in_an_episode():
    label = np.repeat(np.arange(4), 24)
    thing = np.arange(96) // 4  # six things of four pictures in each class
    drawn = draw(label, thing)
    for support, query in zip(drawn.support.numpy(), drawn.query.numpy(), strict=True):
        things = thing[[*support.ravel(), *query]]
        assert len(set(things)) == len(things) == 18
    rows = torch.cat([drawn.support.flatten(), drawn.query.flatten()])
    assert len(rows.unique()) > 80  # any of a thing's pictures


def test_a_thing_of_two_classes_counts_for_the_first():
    label, thing = [0, 0, 0, 1, 1, 1, 1], [1, 2, 3, 3, 4, 5, 6]
    drawn = draw(label, thing, ways=2, shots=1, queries=[2, 2], episodes=50)
    assert 3 not in set(drawn.support.flatten().tolist()) | set(drawn.query.flatten().tolist())


def test_the_same_seed_draws_the_same_and_unlabelled_rows_are_left_out():
    label = np.repeat(np.arange(-1, 5), 8)
    first, again, other = draw(label), draw(label), draw(label, seed=1)
    assert torch.equal(first.query, again.query)
    assert not torch.equal(first.query, other.query)
    assert first.query.min() >= 8
    assert first.classes == 5


def test_too_little_data_is_a_sentence_with_the_remedy():
    label = np.repeat(np.arange(6), [9, 9, 4, 4, 4, 4])
    with pytest.raises(
        UserError,
        match=r"need 3 classes of 6 different things each, and there are 2: shots and queries may add up to 4",
    ):
        draw(label)
    with pytest.raises(UserError, match="there are 0: it has 2 classes"):
        draw([0, 0, 1, 1])
    with pytest.raises(UserError, match="one number, or one for each of the 3 ways"):
        draw(label, queries=[1, 2])
    with pytest.raises(UserError, match="must be at least 1"):
        draw(label, shots=0)
    with pytest.raises(UserError, match=r"shots=\(\) must name numbers"):
        few_shot(classes(0.4), shots=())
    with pytest.raises(UserError, match="rule='svm' be nearest or logistic"):
        few_shot(classes(0.4), rule="svm")


def test_sixteen_pictures_a_class_are_one_shot_and_fifteen_queries_and_no_more():
    label = np.repeat(np.arange(7), 16)
    drawn = draw(label, ways=5, shots=1, queries=[15] * 5, episodes=1000)
    classes_of = np.sort(label[drawn.support[:, :, 0].numpy()])
    assert (np.diff(classes_of) > 0).all(), "five different classes in each of a thousand episodes"
    rows = torch.cat([drawn.support.flatten(1), drawn.query], dim=1).sort(dim=1).values
    assert (rows.diff(dim=1) > 0).all(), "no picture twice"
    wrong = r"2 shots and 15 queries need 5 classes of 17 different things each.*\(class 0 has 16, class 1 has 16"
    with pytest.raises(UserError, match=wrong):
        draw(label, ways=5, shots=2, queries=[15] * 5)
    names = ["ant", "bee", "class of its own", *"defg"]
    with pytest.raises(UserError, match=r"\(ant has 16, bee has 16, class of its own has 16, \.\.\.\)"):
        draw(label, ways=5, shots=2, queries=[15] * 5, classes=names)


def test_prototypes_are_those_of_a_slow_loop():
    data = classes(0.4, count=8, each=30)
    result = few_shot(data, episodes=20, shots=(1, 3), seed=5)
    drawn = draw_episodes(data.label, None, ways=5, shots=3, queries=[15] * 5, episodes=20, seed=5)
    x = data.image.double()
    x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
    for shots in (1, 3):
        right = []
        for support, query in zip(drawn.support, drawn.query, strict=True):
            means = [x[rows[:shots]].mean(0) for rows in support]
            nearest = [min(range(5), key=lambda c: float((x[q] - means[c]).square().sum())) for q in query.tolist()]
            right.append(np.mean(np.array(nearest) == drawn.target.numpy()))
        metric = result.metrics[f"prototypes_{shots}_shot"]
        assert metric.value == pytest.approx(np.mean(right))
        assert metric.high - metric.value == pytest.approx(2.093024 * np.std(right, ddof=1) / np.sqrt(20))
        assert (metric.chance, metric.n) == (0.2, 20)


@pytest.mark.parametrize(
    ("s", "expected"),
    [
        (0.2, {"prototypes_1_shot": 27.6, "opta_1_shot": 27.4, "prototypes_5_shot": 37.2, "opta_5_shot": 38.8}),
        (0.4, {"prototypes_1_shot": 52.1, "opta_1_shot": 81.0, "prototypes_5_shot": 78.0, "opta_5_shot": 86.5}),
        (0.6, {"prototypes_1_shot": 81.8, "opta_1_shot": 99.6, "prototypes_5_shot": 97.6, "opta_5_shot": 99.3}),
    ],
)
def test_opta_helps_on_good_features_and_not_on_poor_ones(s, expected):
    """Accuracies of an implementation of its own on such classes, in percent."""
    result = few_shot(classes(s), episodes=200)
    for name, percent in expected.items():
        assert 100 * result[name] == pytest.approx(percent, abs=4), name


def test_opta_hurts_where_queries_are_imbalanced_and_its_relaxed_form_does_not():
    result = few_shot(classes(0.6), episodes=200, queries=UNEVEN)
    for name, percent in {
        "prototypes_1_shot": 81.2,
        "opta_1_shot": 71.9,
        "relaxed_opta_1_shot": 92.8,
        "prototypes_5_shot": 97.8,
        "opta_5_shot": 93.1,
        "relaxed_opta_5_shot": 98.5,
    }.items():
        assert 100 * result[name] == pytest.approx(percent, abs=4), name


def test_a_model_that_knows_nothing_is_at_chance_however_it_collapsed():
    data = classes(0.0)
    result = few_shot(data, episodes=100)
    assert all(metric.value == pytest.approx(0.2, abs=0.03) for metric in result.metrics.values())
    data.image = torch.ones_like(data.image)
    result = few_shot(data, episodes=10)
    assert all(metric.value == pytest.approx(0.2, abs=1e-6) for metric in result.metrics.values())


def test_logistic_regression_on_the_prototypes():
    data = classes(0.6, count=6, each=20)
    near, fitted = (few_shot(data, episodes=6, queries=6, shots=(1,), rule=rule) for rule in ("nearest", "logistic"))
    assert fitted["opta_1_shot"] == pytest.approx(near["opta_1_shot"], abs=0.05)
    assert fitted.details["rule"] == "logistic"
    one_way = few_shot(data, ways=1, episodes=3, queries=6)
    assert {metric.value for metric in one_way.metrics.values()} == {1.0}


def test_an_interval_is_student_s_below_30_episodes_and_196_standard_errors_from_there():
    assert over_episodes(np.array([0.5]), 4) == Metric(0.5, 0.5, 0.5, 0.25, 1, "%")
    metric = over_episodes(np.array([0.6, 0.8, 0.7, 0.9]), 5)  # 1.96 would give 0.126517
    assert (metric.value, metric.value - metric.low) == pytest.approx((0.75, 0.205426), abs=1e-6)
    assert metric.high == pytest.approx(0.955426)
    assert (over_episodes(np.array([1.0, 0.9]), 5).low, over_episodes(np.array([1.0, 0.9]), 5).high) == (
        pytest.approx(0.95 - 12.706205 * 0.05),
        1.0,
    )
    for count, times in ((28, 2.051831), (29, 2.048407), (30, 1.96)):
        accuracy = np.linspace(0.4, 0.6, count)
        metric = over_episodes(accuracy, 5)
        assert metric.high - metric.value == pytest.approx(times * accuracy.std(ddof=1) / count**0.5)


def test_flags_and_options_reach_it():
    words = ["m", "--ways", "3", "--shots", "1", "2", "--queries", "[9,5,1]", "--episodes", "50"]
    options = protocol_options(parser().parse_args([*words, "--options", "few_shot.rule=logistic"]))
    assert options == {
        "few_shot": {"ways": 3, "shots": [1, 2], "queries": [9, 5, 1], "episodes": 50, "rule": "logistic"}
    }
    data = classes(0.4, count=6, each=20)
    own = {"few_shot": {**options["few_shot"], "rule": "nearest"}}
    result = evaluate(None, data, ["few_shot"], options=own)["few_shot"]
    assert result.details["queries"] == [9, 5, 1]
    assert list(result.metrics)[:3] == ["prototypes_1_shot", "opta_1_shot", "relaxed_opta_1_shot"]


def test_where_a_class_is_one_thing_its_pictures_are_queries_of_one_another():
    """Emojis in several styles: label and group are the same, so that groups cannot part examples from queries."""
    data = classes(0.6, count=8, each=6)
    data.group = data.label
    assert few_shot(data, shots=(1,), queries=5, episodes=20)["prototypes_1_shot"] > 0.5


def test_the_report_draws_it(tmp_path):
    data = classes(0.4, count=6, each=20)
    results = {"few_shot": few_shot(data, episodes=12, queries=10)}
    page = write_report(tmp_path, embeddings=data, results=results).read_text()
    assert "Few-shot episodes" in page
    assert "12 episodes of 5 of 6 classes, 10 queries each" in page
    assert 'aria-label="accuracy by the number of examples, 1, 5: prototypes ' in page
    assert "1 shot, OpTA" in page
    assert "few shot" in page
    json.dumps(results["few_shot"].to_dict())
