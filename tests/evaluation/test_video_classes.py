"""Classes of videos by their names: over views, with texts adapted to each video, every video once."""

import numpy as np
import pytest
import torch

from models.colour_films import BLUE, GREEN, RED, Colours, film
from nearfar.data import FrameChoice, Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.video.video_classes import video_classes
from nearfar.models import create, video_encoder
from nearfar.models.video.frame_mean import FrameMean

NAMES = ["red", "green", "blue"]


class Bright(Colours):
    mean, std = (0.0,) * 3, (1.0,) * 3


def films():
    shown = [film(RED), film(GREEN), film(BLUE), film(RED, RED, GREEN), film(GREEN)]
    labels = [0, 1, 2, 0, -1]
    return Records([{"video": v, "label": i} for v, i in zip(shown, labels, strict=True)], classes=NAMES, name="films")


def test_every_video_with_a_label_counts_once():
    result = video_classes(Bright(), films(), batch_size=3)  # the last batch is not full
    assert (result.metrics["top1"].value, result.metrics["top1"].n) == (1, 4)
    assert result.metrics["top1"].chance == pytest.approx(1 / 3)
    assert {name: each["top1"].n for name, each in result.by["class"].items()} == {"red": 2, "green": 1, "blue": 1}
    swapped = video_classes(Bright(), films(), classes=["green", "red", "blue"])
    assert swapped.metrics["top1"].value == 0.25
    assert swapped.metrics["mean_per_class"].value == pytest.approx(1 / 3)
    assert evaluate(Bright(), films(), ["video_classes"])["video_classes"].metrics["top1"].value == 1


class Watching(FrameMean):
    """Cosines that depend on the video's first frame alone, so that each view has its own."""

    temperature = 0.5

    def similarities(self, frames, texts):
        self.views = [*getattr(self, "views", []), frames.shape]
        return frames[:, 0].mean((2, 3))


def test_probabilities_of_views_are_added_and_not_logits():
    """One view has a logit of 10 for red, two have 3 for green: green has more of the probabilities, 1.82 against 1.09,
    and red of the logits."""
    model = Watching(Bright(), FrameChoice(1))
    model.temperature = 0.1
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    frames[0, ..., 0], frames[1:, ..., 1] = 255, 77
    source = Records([{"video": frames, "label": 1}], classes=NAMES, name="films")
    result = video_classes(model, source, selections=3)
    assert result.metrics["top1"].value == 1
    assert len(model.views) == 3
    assert result.details["selections"] == 3


def test_a_model_that_gives_all_classes_one_chance_has_found_nothing():
    source = Records([{"video": film((0, 0, 0)), "label": 0}], classes=NAMES, name="films")
    assert video_classes(Watching(Bright(), FrameChoice(1)), source).metrics["top1"].value == 0


def test_the_same_figures_every_time():
    """Nothing is drawn at random, however many views there are."""
    model = FrameMean(Bright(), FrameChoice(4))
    first, again = (video_classes(model, films(), selections=4, crops=3) for _ in range(2))
    assert first.metrics == again.metrics
    assert first.details["crops"] == 3


def test_names_are_adapted_by_a_video_encoder_and_a_batch_without_labels_is_passed_over():
    """The answers are those of the model's own similarities, of every labelled video."""
    image = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
    text = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 16, "max_position_embeddings": 8}
    torch.manual_seed(0)
    pair = create(image=image, text=text, tokenizer=train_tokenizer(NAMES, 300), image_size=8, embed_dim=16)
    model = video_encoder(pair, frames=2)
    records = [*films()]
    result = video_classes(model, Records(records, classes=NAMES, name="films"), batch_size=1)
    with torch.no_grad():
        videos = model.eval().preprocess_video([record["video"] for record in records[:4]])
        best = model.similarities(videos, model.encode_text(model.tokenize(NAMES))).argmax(1)
    assert result.metrics["top1"].n == 4
    assert result.metrics["top1"].value == (best == torch.tensor([0, 1, 2, 0])).float().mean().item()


def test_what_is_refused():
    nameless = Records([{"video": film(RED), "label": 0}], name="films")
    with pytest.raises(UserError, match="films names no classes"):
        video_classes(Bright(), nameless)
    with pytest.raises(UserError, match="has a label 2, and there are 2 names"):
        video_classes(Bright(), films(), classes=["red", "green"])
    unlabelled = Records([{"video": film(RED), "label": -1}], classes=NAMES, name="films")
    with pytest.raises(UserError, match="has no labels"):
        video_classes(Bright(), unlabelled)
    with pytest.raises(UserError, match="a Colours does not say how frames are prepared: give it mean"):
        video_classes(Colours(), films())
    with pytest.raises(UserError, match="crops is 0"):
        video_classes(Bright(), films(), crops=0)
