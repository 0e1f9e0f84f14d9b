"""What is tried on folds: the best of all settings, whichever of them are held in memory together."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from nearfar.adaptation import trials
from nearfar.adaptation.frozen_features import FrozenFeatures
from nearfar.adaptation.maps import GAMMAS, PENALTIES, KernelSetting, LinearSetting, Pairs, kernel_path, linear_path
from nearfar.embedding.embeddings import Embeddings, Side
from nearfar.models.dual.blended import about

N = 64


@pytest.fixture(scope="module")
def features():
    """Captions that pictures' summaries say something of, and embeddings that say a little of both."""
    noise = torch.Generator().manual_seed(0)
    hidden, rows = torch.randn(N, 6, generator=noise), torch.arange(N)

    def drawn(width, blur):
        by = torch.randn(6, width, generator=noise)
        return Side(normalize((hidden @ by).tanh() + blur * torch.randn(N, width, generator=noise), dim=1), rows)

    sides = {"image": drawn(8, 1.0), "text": drawn(8, 1.0), "image_tower": drawn(24, 0.3), "text_tower": drawn(16, 0.3)}
    sides["text"] = Side(normalize(sides["image"].vectors + 0.7 * sides["text"].vectors, dim=1), rows)
    return FrozenFeatures(Embeddings(sides=sides, row=rows, names=[str(row) for row in range(N)], source="drawn"))


def by_hand(features, fold, path):
    """Mean score of each setting of a path, one at a time."""
    scores = {}
    for number in range(4):
        fit, held = (features.select(((fold == number) == out).nonzero()[:, 0]) for out in (False, True))
        pairs = Pairs.of(fit)
        for setting, picture_map in path(pairs):
            vectors = normalize(picture_map(held.image[0]), dim=1), about(held.text, pairs.centre)
            scores[setting] = scores.get(setting, 0.0) + trials.score(held.embedded(*vectors)) / 4
    return scores


def test_the_best_of_every_setting_is_kept(features):
    fold = torch.arange(N) % 4
    start, linear, kernel, blend = trials.try_all(features, fold)
    linears = by_hand(features, fold, linear_path)
    assert [each.penalty for each in linears] == list(PENALTIES)
    kernels = {}
    for gamma in GAMMAS:
        kernels |= by_hand(features, fold, lambda pairs, gamma=gamma: kernel_path(pairs, gamma=gamma))
    assert len(kernels) == len(GAMMAS) * (len(PENALTIES) - 1)
    for trial, scores, kind in ((linear, linears, LinearSetting), (kernel, kernels, KernelSetting)):
        assert trial.setting == max(scores, key=scores.get)
        assert isinstance(trial.setting, kind)
        assert trial.score == pytest.approx(max(scores.values()))
    better = max((linear, kernel), key=lambda trial: trial.score)
    assert blend.setting == better.setting
    assert blend.score >= max(start.score, better.score) - 1e-6  # shares 0 and 1 are the map and the model
    assert start.temperature is None
    assert all(trial.temperature in trials.TEMPERATURES for trial in (linear, kernel, blend))


def test_a_temperature_makes_the_captions_own_pictures_likeliest(features):
    fold = torch.arange(N) % 4
    linear = trials.try_all(features, fold)[1]
    part = trials.Fold(*(features.select(((fold == 0) == out).nonzero()[:, 0]) for out in (False, True)))
    picture_map = dict(linear_path(part.pairs))[linear.setting]
    image, text = part.mapped(picture_map)
    losses = [
        torch.nn.functional.cross_entropy(text @ image.T / each, torch.arange(N // 4)) for each in trials.TEMPERATURES
    ]
    assert linear.temperature == trials.TEMPERATURES[torch.stack(losses).argmin()].item()
