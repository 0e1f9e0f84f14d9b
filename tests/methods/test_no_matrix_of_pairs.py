"""No method's step holds a matrix of all pairs of its batch: at 2,048 samples it would be far larger than all else."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nearfar.data.batches.data_info import DataInfo
from nearfar.data.fields.text import train_tokenizer
from nearfar.methods import METHODS, find
from nearfar.methods.text.simctg import SimCTG
from nearfar.models.dual.projection import ProjectionHeads
from nearfar.models.grounded.relation_operator import BilinearRelation
from nearfar.models.language.text_model import text_encoder

B = 2048


class Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor that an operation makes, forward or backward. What our own operators keep
    has a budget (128 MiB, whatever the batch) and tests of its own."""

    elements, where = 0, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.namespace == "nearfar":
            return out
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.numel() > self.elements:
                self.elements, self.where = tensor.numel(), f"{func} {tuple(tensor.shape)}"
        return out


class Points(torch.nn.Module):
    """Encoders of vectors, for methods that see embeddings alone."""

    embed_dim, temperature = 8, 0.07

    def __init__(self):
        super().__init__()
        self.image, self.text = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def encode_image(self, pixels, normalize=False):
        return self.image(pixels)

    def encode_text(self, tokens, normalize=False):
        return self.text(tokens)


class Pictures(torch.nn.Module):
    """An encoder of one side."""

    def __init__(self):
        super().__init__()
        self.encode_image = torch.nn.Linear(8, 8)


class Fusion(torch.nn.Module):
    """What ALBEF and TCL ask of a model, as small as can be."""

    embed_dim = 8

    def __init__(self):
        super().__init__()
        self.image_projection, self.text_projection = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.judge = torch.nn.Linear(8, 2)

    def image_tokens(self, pixels):
        return pixels

    def text_tokens(self, tokens):
        return tokens["states"]

    def match(self, image, text, mask, rows):
        return self.judge(image[rows][:, 0] * text[:, 0])


def step(method, batch):
    method.before_step()
    with Largest() as largest:
        method(batch)["loss"].backward()
        method.after_step(1)
    assert largest.elements < B * B / 4, largest.where


@pytest.mark.parametrize("name", ["albef", "tcl"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_step_with_a_fusion_encoder(name, shared, monkeypatch):
    method = find(name)(Fusion(), queue_size=B, share_duplicates=shared)
    module = __import__(type(method).__module__, fromlist=["masked_language_loss"])
    monkeypatch.setattr(module, "masked_language_loss", lambda model, *_, **__: model.judge.weight.sum() * 0)
    # 16 cells of patches for TCL; states of the texts in the place of words.
    image, states = torch.randn(2, B, 17, 8), torch.randn(B, 3, 8)
    tokens = {"states": states, "attention_mask": torch.ones(B, 3)}
    step(method, {"image": image[0], "views": image, "text": tokens, "index": torch.arange(B) // 2})
    assert len(method.momentum.image_queue) == B


@pytest.mark.parametrize("name", ["align", "clip", "negclip", "siglip"])
def test_a_step_with_embeddings(name):
    settings = {"exclude_duplicates": True} if name != "siglip" else {"share_duplicates": True}
    image, text, negative = torch.randn(3, B, 8)
    batch = {"image": image, "text": text, "negative_text": negative, "group": torch.arange(B) // 2}
    step(find(name)(Points(), **settings), batch)


def test_a_step_at_two_widths():
    image, text = torch.randn(2, B, 8)
    step(find("matryoshka")(Points(), of={"name": "clip"}, dims=[4, 8]), {"image": image, "text": text})


def test_a_step_of_an_ensemble():
    class Two(Points):
        def __init__(self):
            super().__init__()
            self.image_projection = ProjectionHeads([torch.nn.Linear(8, 8) for _ in range(2)])

        def image_summary(self, pixels):
            return pixels

        text_summary = image_summary

        def encode_image(self, pixels, normalize=False, head=0):
            return self.image_projection[head](pixels)

    image, text = torch.randn(2, B, 8)
    step(find("ensemble")(Two(), of={"name": "clip"}), {"image": image, "text": text})


@pytest.mark.parametrize("name", ["beclr", "byol", "hydra", "moco", "multiview", "simclr", "simsiam", "supcon"])
def test_a_step_with_views(name):
    memory = {"memory_size": 64, "clusters": 2, "masked": 0.0, "predictor_hidden": 8}
    settings = {
        "beclr": memory,
        "hydra": {"classes": B // 2, "gate_width": 8, "gate_hidden": 8},
        "moco": {"queue_size": B},
        "byol": {"predictor_hidden": 8},
        "simsiam": {"predictor_hidden": 8},
    }
    step(find(name)(Points(), **settings.get(name, {})), {"views": torch.randn(2, B, 8), "label": torch.arange(B) // 2})


def test_a_step_with_pairs_of_texts():
    text, text2, negative = torch.randn(3, B, 8)
    batch = {"text": text, "text2": text2, "negative_text": negative, "negative_count": torch.arange(B) % 2}
    step(find("simcse")(Points(), hard_negative_weight=0.5), batch)
    step(find("lexiclip")(Points(), same_picture="joint"), batch | {"group": torch.arange(B) // 2})


def test_a_step_with_labels():
    class Matcher(Points):
        def encode_label(self, tokens):
            return self.image(tokens)

        def match(self, text, label):
            return (text * label).sum(-1)

    own = torch.randint(1, 3 * B, (B, 64))
    step(find("cless")(Matcher()), {"text": torch.randn(B, 8), "label_text": torch.randn(8 * B, 8), "label_key": own})


def test_a_step_with_hidden_words():
    class Encoder(torch.nn.Module):
        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.tokenizer = train_tokenizer(["a red car"] * 3, 300)
            self.words = torch.nn.Embedding(len(self.tokenizer), 8)
            self.text = SimpleNamespace(width=8, backbone=SimpleNamespace(get_input_embeddings=lambda: self.words))

        def text_tokens(self, tokens):
            return self.words(tokens["input_ids"])

    ids = torch.randint(5, 200, (B, 6))
    step(find("masked_language")(Encoder()), {"text": {"input_ids": ids, "attention_mask": torch.ones_like(ids)}})


def test_a_step_of_consert():
    words = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 0, "num_attention_heads": 2}
    model = text_encoder(words, tokenizer=train_tokenizer(["a red car"] * 3, 300), pooling="mean")
    step(find("consert")(model, second="token_cutoff"), {"text": model.tokenize(["a red car"] * B)})


def test_a_step_with_whitened_passes():
    points = Points()
    points.text = torch.nn.Sequential(points.text, torch.nn.Dropout(0.1))
    step(find("whitenedcse")(points, groups=4, detach=False), {"text": torch.randn(B, 8)})


@pytest.mark.parametrize("clusters", [1, 3, B // 2])
@pytest.mark.parametrize("name", ["clip", "simclr", "moco"])
def test_a_step_within_clusters(name, clusters):
    views, cluster = torch.randn(2, B, 8), torch.arange(B) % clusters
    batch = {"views": views, "image": views[0], "text": views[1], "cluster": cluster}
    settings = {"queue_size": B, "within": "cluster"} if name == "moco" else {"of": {"name": name}}
    step(find("moco" if name == "moco" else "within_clusters")(Points(), **settings), batch)


@pytest.mark.parametrize("name", ["isogclr", "sogclr"])
@pytest.mark.parametrize("pairs", [True, False])
def test_a_step_with_a_state_of_each_sample(name, pairs):
    method = find(name)(Points() if pairs else Pictures())
    method.begin(DataInfo(size=B, ids=lambda: range(B)))
    views = torch.randn(2, B, 8)
    step(method, {"views": views, "image": views[0], "text": views[1], "index": torch.arange(B)})


def test_a_step_of_simctg_by_tokens():
    """Here the pairs are of tokens, within a text, and taken 4,096 x 4,096 at a time."""
    length = 8192

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.states, self.words = torch.nn.Embedding(5, 8), torch.nn.Linear(8, 5)

        def forward(self, tokens):
            hidden = self.states(tokens["input_ids"])
            return self.words(hidden), hidden

    ids = torch.randint(5, (1, length))
    method = SimCTG(Model())
    with Largest() as largest:
        method({"text": {"input_ids": ids, "attention_mask": torch.ones_like(ids)}})["loss"].backward()
    assert largest.elements <= length**2 / 4, largest.where


def test_a_step_in_two_spaces():
    points = Points()
    points.project = lambda rows: (points.image(rows), points.text(rows))
    step(find("sepclr")(points, background=0), {"views": torch.randn(2, B, 8), "label": torch.arange(B) % 2})


@pytest.mark.parametrize("pixels", ["propagated", "plain", "contrast"])
def test_a_step_of_pixpro_on_large_maps(pixels):
    """Here the pairs are of cells, within a picture, and taken a strip at a time."""
    cells = 64 * 64

    class Maps(torch.nn.Module):
        embed_dim = 4

        def __init__(self):
            super().__init__()
            self.encode_image_map = torch.nn.Conv2d(3, 4, 1)

    method = find("pixpro")(Maps(), pixels=pixels, hidden=4, out=4)
    batch = {"views": torch.randn(2, 2, 3, 64, 64), "geometry": torch.eye(3).expand(2, 2, 3, 3)}
    method.before_step()
    with Largest() as largest:
        method(batch)["loss"].backward()
        method.after_step(1)
    assert largest.elements <= 2 * cells**2 / 4, largest.where


def test_a_step_with_videos():
    """Videos are compared with the names of classes, never with one another."""

    class Videos(torch.nn.Module):
        temperature = None

        def __init__(self):
            super().__init__()
            self.tower, self.names = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

        def freeze(self, *parts):
            self.names.requires_grad_(False)
            return self

        def tokenize(self, texts):
            return {"input_ids": torch.randn(len(texts), 8)}

        def encode_text(self, tokens):
            return self.names(tokens["input_ids"])

        def added(self):
            return iter(())

        def similarities(self, video, texts):
            return self.tower(video.mean((1, 2, 3))) @ texts.T

    method = find("xclip")(Videos(), classes=["up", "down", "left"])
    step(method, {"video": torch.randn(B, 2, 1, 1, 8), "label": torch.arange(B) % 3})


def test_a_step_of_regions():
    """Regions of a picture are joined before pictures are compared with texts."""

    class Regions(Points):
        pyramid = SimpleNamespace(levels=(4,))

        def __init__(self):
            super().__init__()
            self.head = SimpleNamespace(embeddings=self.image)

        def train_parts(self, *parts):
            return self

        def pyramid_maps(self, pixels):
            return {4: pixels}

        def level_regions(self, grid, boxes, image_size):
            return grid[:, None].expand(-1, boxes.shape[1], -1)

    step(find("dito")(Regions(), boxes=[2]), {"image": torch.randn(B, 8), "text": torch.randn(B, 8)})


def test_a_step_by_cells_and_words():
    class Streams(torch.nn.Module):
        max_length = 3

        def __init__(self):
            super().__init__()
            self.encode_cells, self.words = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
            self.text = SimpleNamespace(backbone=torch.nn.Identity())

        def encode_words(self, tokens):
            return self.words(tokens["states"])

    method = find("two_stream")(
        Streams(), frozen_layers=0, frozen_query_key=False, train_image=True, exclude_duplicates=True
    )
    tokens = {"states": torch.randn(B, 3, 8), "attention_mask": torch.ones(B, 3)}
    step(method, {"image": torch.randn(B, 4, 8), "text": tokens, "group": torch.arange(B) // 2})


def test_a_step_with_relations():
    class Things(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.object_logits = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)
            self.relation = BilinearRelation(5, 8)
            backbone = torch.nn.Identity()
            backbone.config = SimpleNamespace(num_hidden_layers=0)
            self.pair = SimpleNamespace(text=SimpleNamespace(backbone=backbone))

        def ground(self, pixels, phrases):
            return self.down(pixels)

        def without_captions(self):
            return self

    method = find("relational")(Things(), frozen_query_key=False, train_image=True)
    label = torch.zeros(B, 3, 3, dtype=torch.long)
    label[:, 0, 1], label[:, 1, 2] = torch.arange(B) % 4 + 1, 1
    things = torch.arange(3 * B).view(B, 3) % 4
    step(method, {"image": torch.randn(B, 3, 8), "phrases": {}, "object_label": things, "relation_label": label})


def test_a_step_of_coconut():
    class Heard(torch.nn.Module):
        """A sound is one vector, and so is a text."""

        def __init__(self):
            super().__init__()
            self.tower, self.text_projection = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
            self.sound_projection = torch.nn.Linear(8, 8)

        def encode(self, audio):
            return self.tower(audio["input_features"])[:, None], torch.ones(len(audio["input_features"]), 1).bool()

        def embed(self, tokens):
            return tokens["input_ids"][:, None], torch.ones(len(tokens["input_ids"]), 1).bool()

        def sequences(self, tokens, label):
            return label[:, None], label[:, None]

        def decode(self, states, mask, before):
            return states

    audio, text = {"input_features": torch.randn(B, 8)}, {"input_ids": torch.randn(B, 8)}
    batch = {"audio": audio, "text": text, "label": torch.arange(B) % 3, "is_memory": torch.arange(B) % 2}
    step(find("coconut")(Heard()), batch)


def test_every_method_is_looked_at():
    """`answering`, `entailment`, `detection`, `transcription`, `captioning`, `close`, `prior`, `instruction`, `svco`,
    `dpo`, `image_dpo`, `vl2v`, `prompt_tuning` and `ogen` compare no samples with one another; the steps of
    `distill_ood`, `cg_vlm`, `cosmo` and `vladva` are in files of their own."""
    pairs = {"albef", "tcl", "align", "clip", "negclip", "siglip", "ensemble", "matryoshka", "sepclr", "vladva"}
    texts = {"two_stream", "relational", "simcse", "simctg", "whitenedcse", "cless", "consert", "masked_language"}
    views = {"beclr", "byol", "hydra", "moco", "simclr", "simsiam", "supcon", "multiview", "isogclr", "sogclr"}
    assert set(METHODS) == {
        *pairs,
        *texts,
        "lexiclip",
        *views,
        "pixpro",
        *("coconut", "transcription", "captioning", "close", "prior", "distill_ood", "cg_vlm", "instruction"),
        *("svco", "dpo", "image_dpo", "ogen", "prompt_tuning", "cosmo"),
        "dito",
        "detection",
        "within_clusters",
        "answering",
        "entailment",
        "vl2v",
        "xclip",
    }
