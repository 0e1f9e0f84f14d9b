"""Which records belong together: one picture in five rows is one group, however the rows are stored or joined."""

import pytest
import torch
from PIL import Image

from data.five_captions import CAPTIONS, KINDS, PICTURES, Knows, as_csv, as_objects, as_saved, png
from nearfar.data import Loader, Records, concat, hub, table, train_tokenizer
from nearfar.data.sources.record_groups import Groups
from nearfar.embedding import Embeddings, embed, precompute
from nearfar.evaluation import knn, linear_probe, retrieval


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("kind", KINDS)
def test_five_rows_a_picture_are_one_group_in_training_and_evaluation(tmp_path, kind):
    source = kind(tmp_path / "d")
    tokenizer = train_tokenizer(source.texts(), 300)
    (batch,) = Loader(source, batch_size=60, shuffle=False, image_size=8, tokenizer=tokenizer)
    groups = batch["group"].tolist()
    assert len(set(groups)) == PICTURES
    assert groups == groups[:PICTURES] * CAPTIONS
    result = retrieval(Knows(), source)
    assert result["text_to_image_R@1"] == result["image_to_text_R@1"] == 1.0
    assert result.metrics["text_to_image_R@1"].chance == pytest.approx(1 / PICTURES)
    assert result.details["images"] == result.details["groups"] == PICTURES


def test_the_second_best_of_five_rows_is_another_picture():
    """One wrong picture before the right one is rank 2, although it stands in five rows."""
    made = embed(Knows(), as_objects(None))
    made.text = made.text.roll(1, dims=1) + 0.9 * made.text
    result = retrieval(made)
    assert result["text_to_image_R@1"] == 0.0
    assert result["text_to_image_median_rank"] == 2.0


def test_pictures_with_the_same_captions_stay_one_beside_rows_of_one_picture():
    again = [{"image": Image.new("RGB", (8, 8), (20 * n, 0, 0)), "text": f"thing {t}"} for n, t in ((0, 0), (1, 0))]
    source = Records([*again, {"image": again[1]["image"], "text": "thing 0"}])
    result = retrieval(Knows(), source)
    assert (result.details["images"], result.details["groups"], result.details["distinct_captions"]) == (2, 1, 1)


def test_a_stream_of_rows_knows_the_same_bytes(tmp_path):
    source = as_saved(tmp_path / "d")
    stream = hub(tmp_path / "d", streaming=True)
    batches = Loader(stream, batch_size=60, shuffle=False, image_size=8, tokenizer=train_tokenizer(source.texts(), 300))
    groups = next(iter(batches))["group"].tolist()
    assert len(set(groups)) == PICTURES
    assert groups == groups[:PICTURES] * CAPTIONS


def test_groups_of_a_stream_that_are_words(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": list("abcd"), "group": ["x", "y", "x", ""]}).save_to_disk(str(tmp_path / "d"))
    stream = hub(tmp_path / "d", streaming=True)
    x, y, again, blank = next(iter(Loader(stream, batch_size=4, shuffle=False)))["group"].tolist()
    assert x == again
    assert len({x, y, blank}) == 3


@pytest.mark.parametrize(
    "values", [["7", "", "7", "", "9007199254740993", "9007199254740992"], ["a", "", "a", "", "b", "c"]]
)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_blank_is_a_group_of_its_own_and_numbers_stay_exact(tmp_path, values, ending):
    import datasets

    if ending == "csv":
        (tmp_path / "t.csv").write_text("\n".join(["text,group", *(f"w{i},{v}" for i, v in enumerate(values))]))
    else:
        numbers = [None if v == "" else int(v) if v.isdigit() else v for v in values]
        made = datasets.Dataset.from_dict({"text": [f"w{i}" for i in range(6)], "group": numbers})
        getattr(made, {"jsonl": "to_json", "parquet": "to_parquet"}[ending])(str(tmp_path / f"t.{ending}"))
    source = table(tmp_path / f"t.{ending}")
    (batch,) = Loader(source, batch_size=6, shuffle=False)
    groups = batch["group"].tolist()
    assert groups[0] == groups[2]
    assert len(set(groups)) == 5
    if values[0] == "7":
        assert (groups[0], *groups[4:]) == (7, 9007199254740993, 9007199254740992)


def test_a_place_is_never_the_number_of_a_group():
    """Rows 0 and 2 have groups 1 and 3; those without must not be taken for groups 1 and 3 by their places."""
    source = Records([{"text": "a", "group": g} for g in (1, None, 3, None)])
    (batch,) = Loader(source, batch_size=4, shuffle=False)
    assert len(set(batch["group"].tolist())) == 4
    assert embed(Words(), source).group.unique().numel() == 4
    joined = concat(Records([{"text": "a", "group": 1 << 40}]), Records([{"text": "b", "group": 0}]))
    nested = concat(
        concat(Records([{"text": "a"}]), Records([{"text": "b", "group": 0}])), Records([{"text": "c", "group": 0}])
    )
    for source in (joined, nested):
        (batch,) = Loader(source, batch_size=len(source), shuffle=False)
        assert len(set(batch["group"].tolist())) == len(source)


class Words:
    def tokenize(self, texts):
        return torch.ones(len(texts), 2)

    def encode_text(self, tokens):
        return tokens


def test_a_row_without_a_group_joins_the_group_of_its_picture():
    source = Records([{"image": png(1), "text": "a", "group": 5}, {"image": png(1), "text": "b"}, {"image": png(2)}])
    groups = Groups(source)
    made = [groups(record, place, place) for place, record in enumerate(source)]
    assert made[:2] == [5, 5]
    assert made[2] != 5


@pytest.mark.parametrize("probe", [knn, linear_probe])
def test_probes_keep_pictures_of_one_thing_on_one_side(probe):
    """Labels are drawn for each thing, and a thing's five pictures are alike: nothing can be known, so what a probe
    reaches is chance. A split through things would let it recognise them."""
    generator = torch.Generator().manual_seed(0)
    things = torch.nn.functional.normalize(torch.randn(200, 256, generator=generator), dim=1)
    image = (things[:, None] + 0.02 * torch.randn(200, 5, 256, generator=generator)).flatten(0, 1)
    label = torch.randint(2, (200,), generator=generator).repeat_interleave(5)
    apart = Embeddings(image, label=label)
    grouped = Embeddings(image, label=label, group=torch.arange(200).repeat_interleave(5))
    pictures = Embeddings(image, label=label, picture=5 * torch.arange(200).repeat_interleave(5))
    assert probe(apart)["top1"] > 0.8
    assert abs(probe(grouped)["top1"] - 0.5) < 0.12
    assert abs(probe(pictures)["top1"] - 0.5) < 0.12


def test_precomputed_features_carry_the_groups(tmp_path):
    from nearfar.models import create

    source = as_csv(tmp_path / "d")
    model = create("tiny", image_size=32, embed_dim=16, max_length=8, tokenizer=train_tokenizer(source.texts(), 300))
    model.freeze("image")
    (batch,) = precompute(model, source, batch_size=60, shuffle=False)
    assert len(set(batch["group"].tolist())) == PICTURES
