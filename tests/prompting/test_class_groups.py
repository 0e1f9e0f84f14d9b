"""Which classes are searched together: those that texts help most, those that are confused; and which are not."""

import torch

from nearfar.prompting.class_groups import confused_groups, hopeless, salient_groups
from nearfar.prompting.prompt_fitness import ShotScorer


def test_classes_that_profit_stand_by_how_much():
    gains = {0: 0.02, 1: 0.5, 2: -0.1, 3: 0.3, 4: 0.2, 5: 0.005}
    assert salient_groups(gains, 2, least=0.01) == [[1, 3], [4, 0]]
    assert salient_groups(gains, 3, least=0.01) == [[1, 3, 4], [0]]
    # Two are taken however little they profit, and none that loses.
    assert salient_groups({0: 0.002, 1: 0.003, 2: 0.001}, 5, least=0.01) == [[1, 0]]
    assert salient_groups({0: -0.002, 1: 0.0}, 5, least=0.01) == []


def test_two_fifths_of_the_classes_are_given_up_at_most():
    gains = {c: -float(c) for c in range(10)}
    assert hopeless(gains) == [9, 8, 7, 6]
    assert hopeless({0: -1.0, 1: 0.0, 2: 0.5, 3: 0.1, 4: 0.2}) == [0]


def test_what_is_confused_is_counted_over_the_anchors_own_images():
    """The images of class 0 fit worst and lie near 1 to 4; those of the others lie near classes that 0 is not like."""
    w = torch.eye(12)
    features = torch.eye(12)
    features[0] = torch.tensor([0.0, 1.0, 0.9, 0.8, 0.7, 0.6, *[0.0] * 6])
    for c in range(5, 12):
        features[c, 6:] += 0.1
    scorer = ShotScorer(features, torch.arange(12), classes=12, temperature=0.1)
    groups = confused_groups(scorer, w, size=6)
    assert groups[0] == [0, 1, 2, 3, 4, 5]
