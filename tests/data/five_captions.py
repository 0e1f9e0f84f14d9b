"""Twelve pictures with five captions each, one a row, in every form in which data come; and a model that knows them."""

import io
import json
import tarfile

import torch
from PIL import Image

from nearfar.data import Records, concat, hub, shards, table, vqa

PICTURES, CAPTIONS = 12, 5


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


def as_tsv(folder):
    pictures(folder)
    (folder / "t.tsv").write_text("\n".join(["image\tcaption", *(f"{p}.png\t{caption}" for p, caption in rows())]))
    return table(folder / "t.tsv")


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
    as_tsv,
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
    """A perfect model: a picture's colour and a caption's words say which thing it is; others are the last one."""

    image_size = 8
    embed_dim = PICTURES

    def preprocess(self, images):
        return torch.tensor([min(image.getpixel((0, 0))[0] // 20, PICTURES - 1) for image in images])

    def tokenize(self, texts):
        return torch.tensor([int(text.split()[1]) if text.startswith("thing") else PICTURES - 1 for text in texts])

    def encode_image(self, numbers):
        return torch.eye(PICTURES)[numbers]

    encode_text = encode_image
