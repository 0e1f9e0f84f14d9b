"""Which records belong together: one picture in five rows is one group, however the rows are stored or joined."""

import io
import json
import tarfile

import pytest
import torch
from PIL import Image

from nearfar.data import Loader, Records, concat, hub, shards, table, train_tokenizer, vqa
from nearfar.data.sources.record_groups import Groups
from nearfar.embedding import Embeddings, embed, precompute
from nearfar.evaluation import knn, linear_probe, retrieval

PICTURES, CAPTIONS = 12, 5


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def png(number):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def rows():
    """Sixty rows, one a caption: those of a picture do not stand together."""
    return [(p, f"thing {p} in words {c}") for c in range(CAPTIONS) for p in range(PICTURES)]


def pictures(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for p in range(PICTURES):
        (folder / f"{p}.png").write_bytes(png(p))
    return folder


def as_csv(folder):
    pictures(folder)
    lines = [f"{p}.png,{caption}" for p, caption in rows()]
    (folder / "t.csv").write_text("\n".join(["image,caption", *lines]))
    return table(folder / "t.csv")


def as_jsonl(folder, name="t.jsonl", key="image"):
    pictures(folder)
    (folder / name).write_text("\n".join(json.dumps({key: f"{p}.png", "text": c}) for p, c in rows()))
    return table(folder / name)


def as_metadata(folder):
    from nearfar.data import folder as open_folder

    as_jsonl(folder, "metadata.jsonl", "file_name")
    return open_folder(folder)


def as_parquet(folder):
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    made = datasets.Dataset.from_dict({"image": [png(p) for p, _ in rows()], "text": [c for _, c in rows()]})
    made.to_parquet(str(folder / "t.parquet"))
    return table(folder / "t.parquet")


def as_saved(folder):
    import datasets

    made = datasets.Dataset.from_dict(
        {"image": [{"bytes": png(p), "path": None} for p, _ in rows()], "text": [c for _, c in rows()]},
        features=datasets.Features(image=datasets.Image(), text=datasets.Value("string")),
    )
    made.save_to_disk(str(folder))
    return hub(folder)


def as_shards(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "s.tar", "w") as shard:
        for i, (p, caption) in enumerate(rows()):
            for ending, data in (("png", png(p)), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{i:03d}.{ending}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))
    return shards(folder / "s.tar")


def as_copies(folder):
    """Each row with a file of its own, copies of one another."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for i, (p, caption) in enumerate(rows()):
        (folder / f"copy{i}.png").write_bytes(png(p))
        made.append({"image": str(folder / f"copy{i}.png"), "text": caption})
    return Records(made)


def as_links(folder):
    pictures(folder)
    made = []
    for i, (p, caption) in enumerate(rows()):
        (folder / f"link{i}.png").symlink_to(folder / f"{p}.png")
        made.append({"image": str(folder / f"link{i}.png"), "text": caption})
    return Records(made)


def as_objects(folder):
    return Records([{"image": Image.open(io.BytesIO(png(p))), "text": caption} for p, caption in rows()])


def as_joined(folder):
    """Files in one source, their bytes in another."""
    files, packed = as_csv(folder / "a"), as_parquet(folder / "b")
    return concat(files.select(range(20)), packed.select(range(20, 60)))


def as_vqa(folder):
    pictures(folder)
    questions = [{"image_id": p, "question": c, "question_id": i} for i, (p, c) in enumerate(rows())]
    (folder / "questions.json").write_text(json.dumps({"questions": questions, "data_subtype": ""}))
    return vqa(folder / "questions.json", pattern="{image_id}.png")


KINDS = [
    as_csv,
    as_jsonl,
    as_metadata,
    as_parquet,
    as_saved,
    as_shards,
    as_copies,
    as_links,
    as_objects,
    as_joined,
    as_vqa,
]


class Knows:
    """A perfect model: a picture's colour and a caption's words say which thing it is."""

    image_size = 8
    embed_dim = PICTURES

    def preprocess(self, images):
        return torch.tensor([image.getpixel((0, 0))[0] // 20 for image in images])

    def tokenize(self, texts):
        return torch.tensor([int(text.split()[1]) for text in texts])

    def encode_image(self, numbers):
        return torch.eye(PICTURES)[numbers]

    encode_text = encode_image


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
