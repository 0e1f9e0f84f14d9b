"""Probes on data where one thing has several pictures and nothing says so."""

import pytest
import torch

from nearfar.embedding.embeddings import Embeddings
from nearfar.evaluation.chance import warnings
from nearfar.evaluation.protocols.probes import knn, linear_probe


def pictures(noise: float, *, grouped: bool = False) -> Embeddings:
    """60 things, 5 pictures each, classes drawn by chance: nothing of the class is in a picture."""
    generator = torch.Generator().manual_seed(0)
    thing = torch.arange(60).repeat_interleave(5)
    image = torch.randn(60, 32, generator=generator)[thing] + noise * torch.randn(300, 32, generator=generator)
    label = torch.randint(2, (60,), generator=generator)[thing]
    image = torch.nn.functional.normalize(image, dim=-1)
    return Embeddings(image, image[:0], torch.arange(0), label=label, group=thing if grouped else None)


@pytest.mark.parametrize("probe", [knn, linear_probe])
def test_things_on_both_sides_of_the_split_are_noted(probe):
    result = probe(pictures(0.1))
    assert result["top1"] > 0.65  # at a chance of one half: things are recognised
    assert result.details["nearly_in_train"] > 100
    (said,) = [line for line in warnings({result.name: result}) if "nearly the same" in line]
    assert said.startswith(f"{result.name}: ")
    assert "group=COLUMN" in said


@pytest.mark.parametrize("data", [pictures(0.1, grouped=True), pictures(30.0)], ids=["grouped", "all different"])
def test_no_note_where_nothing_is_alike(data):
    result = knn(data)
    assert "note" not in result.details
    assert result.details["nearly_in_train"] == 0


def test_an_encoder_that_tells_little_apart_gives_no_note():
    """All pictures lie in few directions whatever their class: alike ones are of other classes."""
    generator = torch.Generator().manual_seed(1)
    ray = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])[torch.randint(2, (300,), generator=generator)]
    image = torch.nn.functional.normalize(ray + 0.02 * torch.randn(300, 2, generator=generator), dim=-1)
    result = knn(Embeddings(image, image[:0], torch.arange(0), label=torch.arange(300) % 60))
    assert "note" not in result.details
    assert result.details["nearly_in_train"] < 10
