"""One set of pairs in every form that data have: adapt reads the same pairs from each, by command and from Python."""

import csv
import io
import json
import sys
import tarfile
from types import SimpleNamespace

import datasets
import pytest

import nearfar
from nearfar import cli
from nearfar.adaptation import trials
from nearfar.data import Records, hold_out, open_source, world
from nearfar.errors import UserError
from nearfar.search.index import stored_index
from nearfar.search.querying import next_searches

COUNT = 24
WORDS = ("a", "the", "one", "some", "my")
SHARE = 0.3


@pytest.fixture(scope="module")
def things():
    """Pictures of 24 emoji as PNG files, and their names."""
    source = world.emoji("val", styles=["noto"], tags=False)
    return [(record["image"], record["text"][0]) for record in source.first(COUNT)]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Few settings: what is tried is not the matter here."""
    with pytest.MonkeyPatch.context() as patch:
        kernel, linear = trials.kernel_path, trials.linear_path
        patch.setattr(trials, "SHARES", (0.0, 0.5))
        patch.setattr(trials, "kernel_path", lambda pairs, **options: list(kernel(pairs, **options))[:1])
        patch.setattr(trials, "linear_path", lambda pairs: list(linear(pairs))[:1])
        yield


def png(number):
    return f"{number:02d}.png"


def fives(name):
    return [f"{word} {name}" for word in WORDS]


@pytest.fixture(scope="module")
def root(things, tmp_path_factory):
    """All forms, in one folder."""
    root = tmp_path_factory.mktemp("forms")
    for folder in ("pics", "tables", "meta", "shards", "vqa/val2014"):
        (root / folder).mkdir(parents=True)
    for number, (picture, name) in enumerate(things):
        for folder in ("pics", "tables", "meta"):
            (root / folder / png(number)).write_bytes(picture)
        (root / "pics" / png(number)).with_suffix(".txt").write_text(name, "utf-8")
        (root / "vqa" / "val2014" / f"COCO_val2014_{number:012}.jpg").write_bytes(picture)
    names = [name for _, name in things]
    tables(root / "tables", names)
    described = [json.dumps({"file_name": png(i), "text": name}) for i, name in enumerate(names)]
    (root / "meta" / "metadata.jsonl").write_text("\n".join(described))
    for shard in range(2):
        half = range(shard * COUNT // 2, (shard + 1) * COUNT // 2)
        pack(root / "shards" / f"{shard}.tar", half, things)
    questions(root / "vqa", names)
    rows = datasets.Dataset.from_dict({"image": [picture for picture, _ in things], "caption": names})
    rows.save_to_disk(root / "saved")
    datasets.DatasetDict(train=rows, test=rows.select(range(8))).save_to_disk(root / "splits")
    datasets.DatasetDict(one=rows, other=rows).save_to_disk(root / "strange")
    return root


def tables(folder, names):
    rows = {"one": [(png(i), name) for i, name in enumerate(names)]}
    rows["five"] = [(file, caption) for file, name in rows["one"] for caption in fives(name)]
    for kind, each in rows.items():
        for ending, delimiter in (("csv", ","), ("tsv", "\t")):
            with open(folder / f"{kind}.{ending}", "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter=delimiter)
                writer.writerows([("image", "caption"), *each])
        lines(folder / f"{kind}.jsonl", each)
        columns = dict(zip(("image", "caption"), map(list, zip(*each, strict=True)), strict=True))
        datasets.Dataset.from_dict(columns).to_parquet(folder / f"{kind}.parquet")
    pairs = rows["one"]
    lines(folder / "lists.jsonl", [(file, fives(name)) for file, name in pairs])
    lines(folder / "nested.jsonl", [(file, [[caption] for caption in fives(name)]) for file, name in pairs])
    lines(folder / "languages.jsonl", [(file, {"en": name, "xx": "?"}) for file, name in pairs])
    lines(folder / "objects.jsonl", [(file, [{"raw": caption} for caption in fives(name)]) for file, name in pairs])


def lines(file, rows):
    file.write_text("\n".join(json.dumps({"image": image, "caption": text}) for image, text in rows))


def pack(path, numbers, things):
    """Two samples a picture, which share its `group`."""
    with tarfile.open(path, "w") as shard:
        for number in numbers:
            picture, name = things[number]
            for copy, text in enumerate((name, f"the {name}")):
                notes = json.dumps({"group": number}).encode()
                for ending, data in (("png", picture), ("txt", text.encode()), ("json", notes)):
                    info = tarfile.TarInfo(f"{number:02d}{copy}.{ending}")
                    info.size = len(data)
                    shard.addfile(info, io.BytesIO(data))


def questions(folder, names):
    pairs = [("what is it?", name) for name in names] + [(f"is it {name}?", "yes") for name in names]
    places = [(number, number % len(names), *pair) for number, pair in enumerate(pairs)]
    entries = [{"question_id": n, "image_id": i, "question": question} for n, i, question, _ in places]
    answers = [{"question_id": n, "answers": [{"answer": answer}] * 10} for n, *_, answer in places]
    content = {"data_subtype": "val2014", "questions": entries}
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps(content))
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": answers}))


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory):
    return small.save_pretrained(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def expected(root, small, things):
    """What a folder of pictures and captions beside them gives, and what five captions a picture give."""
    pictures = [{"image": picture, "text": fives(name)} for picture, name in things]
    five = nearfar.adapt(Records(pictures, name="five"), small, share=SHARE)
    return {1: nearfar.adapt(root / "pics", small, share=SHARE), 5: five}


@pytest.fixture
def command(root, saved, tmp_path, monkeypatch, capsys):
    """The command on a form of the data: its outcome, and what it says. Report and index are not the matter here."""
    outcomes = []
    module = sys.modules["nearfar.adaptation.adapt"]
    monkeypatch.setattr(module, "write_folder", lambda outcome, *_, **__: outcomes.append(outcome))
    monkeypatch.setattr(stored_index, "Index", lambda folder: None)
    monkeypatch.setattr(next_searches, "search_commands", lambda index: [])

    def call(form, *flags):
        where = str(form) if " + " in str(form) or "/" in str(form).removeprefix("hub:")[:1] else str(root / form)
        out = tmp_path / "run"
        cli.main(["adapt", where, "--model", str(saved), "--share", str(SHARE), "--out", str(out), *flags])
        return SimpleNamespace(outcome=outcomes.pop(), said=" ".join(capsys.readouterr().out.split()))

    return call


def check_same(outcome, right, *, rows_a_picture=1):
    """The same pairs were held out, and what was tried scored the same."""
    assert outcome.pairs == right.pairs * rows_a_picture
    for name in ("text_to_image_R@1", "image_to_text_R@1"):
        assert outcome.after.metrics[name].n == right.after.metrics[name].n
        assert outcome.before[name] == pytest.approx(right.before[name])
    assert [each.score for each in outcome.tried] == pytest.approx([each.score for each in right.tried], abs=1e-5)


def test_the_share_held_out_is_of_pictures(expected):
    one, five = expected[1], expected[5]
    held = COUNT - one.pairs
    assert 4 <= held <= 10
    assert five.pairs == one.pairs
    assert one.after.metrics["text_to_image_R@1"].n == one.after.metrics["image_to_text_R@1"].n == held
    assert five.after.metrics["text_to_image_R@1"].n == 5 * held
    assert five.after.metrics["image_to_text_R@1"].n == held


@pytest.mark.parametrize(
    "form", ["tables/one.csv", "tables/one.tsv", "tables/one.jsonl", "tables/one.parquet", "meta", "saved", "splits"]
)
def test_one_caption_a_row(command, expected, form):
    check_same(command(form).outcome, expected[1])


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_five_rows_a_picture(command, expected, ending):
    check_same(command(f"tables/five.{ending}").outcome, expected[5], rows_a_picture=5)


@pytest.mark.parametrize(
    ("form", "flags"), [("lists", []), ("nested", []), ("objects", ["--text", "caption.raw"])], ids=str
)
def test_lists_of_captions(command, expected, form, flags):
    check_same(command(f"tables/{form}.jsonl", *flags).outcome, expected[5])


def test_a_language_is_named(command, expected):
    check_same(command("tables/languages.jsonl", "--text", "caption.en").outcome, expected[1])


@pytest.mark.parametrize(("form", "field"), [("languages", "en"), ("objects", "raw")])
def test_captions_that_are_objects_are_refused_with_the_remedy(command, form, field):
    with pytest.raises(SystemExit, match=rf"{form}\.jsonl: column 'caption'.*text=caption\.{field}"):
        command(f"tables/{form}.jsonl")


@pytest.mark.parametrize("form", ["shards", "shards/*.tar", "shards/{0..1}.tar"])
def test_shards_with_groups(command, expected, form):
    """Each picture is in two samples, of one group: both are held out or none."""
    outcome, right = command(form).outcome, expected[1]
    assert outcome.pairs == 2 * right.pairs
    held = 2 * (COUNT - right.pairs)
    assert outcome.after.metrics["text_to_image_R@1"].n == outcome.after.metrics["image_to_text_R@1"].n == held


def test_questions_of_vqa(command, expected, root):
    """Both questions on a picture are held out or none; that answers are not read is said."""
    ran, right = command("vqa/v2_OpenEnded_mscoco_val2014_questions.json"), expected[1]
    assert ran.outcome.pairs == 2 * right.pairs
    assert ran.outcome.after.metrics["image_to_text_R@1"].n == COUNT - right.pairs
    assert "note: v2_OpenEnded_mscoco_val2014_questions.json: its texts are questions" in ran.said


def test_splits_of_a_saved_dataset(command, expected, root):
    said = command("splits").said
    assert "note: splits: its split 'train' is read, and not test" in said
    ran = command("splits", "--split", "train", "--test", str(root / "splits"), "--test-split", "test")
    assert ran.outcome.pairs == COUNT
    assert ran.outcome.after.metrics["image_to_text_R@1"].n == ran.outcome.copies == 8
    assert "note: splits: its split" not in ran.said
    for form, flags, words in (
        ("strange", [], "strange: no split 'train'; name one of these with split=: one, other"),
        ("splits", ["--split", "val"], "splits: no split 'val'; name one of these with split=: train, test"),
        ("saved", ["--split", "val"], "saved: a dataset that was saved alone has no splits: leave out split='val'"),
        ("tables/one.csv", ["--split", "val"], "leave out split='val'"),
        ("pics", ["--split", "val"], "no such folder"),
        ("pics", ["--test-split", "val"], "name them with test=DATA"),
    ):
        with pytest.raises(SystemExit, match=words):
            command(form, *flags)


def test_objects_of_the_datasets_library(expected, root, small):
    rows = datasets.load_from_disk(root / "saved")
    check_same(nearfar.adapt(rows, small, share=SHARE), expected[1])
    both = datasets.DatasetDict(train=rows, test=rows.select(range(8)))
    ran = nearfar.adapt(both, small, test=both, test_split="test", keep_worse=True)
    assert ran.pairs == COUNT
    assert ran.copies == 8
    with pytest.raises(UserError, match=r"dataset is a stream.*leave out streaming, or save the rows"):
        nearfar.adapt(rows.to_iterable_dataset(), small)
    with pytest.raises(UserError, match=r"0\.\.\.1 is a stream"):
        nearfar.adapt(root / "shards", small, streaming=True)


@pytest.mark.parametrize("data", [[{"image": "a.png", "text": "a"}], {"image": ["a.png"]}, None, 7], ids=str)
def test_what_is_no_source_says_what_is(small, data):
    with pytest.raises(UserError, match=rf"a {type(data).__name__} is no source of data: .*nearfar\.data\.Records"):
        nearfar.adapt(data, small)


def test_joined_sources(command, expected, root):
    """The same pictures are in both: one is held out of both or of none, and is one thing to find."""
    where = f"{root / 'pics'} + {root / 'tables' / 'one.csv'}"
    outcome, right = command(where).outcome, expected[1]
    assert outcome.pairs == 2 * right.pairs
    assert outcome.after.metrics["image_to_text_R@1"].n == COUNT - right.pairs
    assert outcome.copies == 0


def test_a_split_goes_to_the_joined_sources_that_have_some(root, tmp_path):
    """What has no splits is taken whole; what has others is refused, with those there are."""
    emoji = len(open_source("world/emoji", split="val"))
    for form, count in (("pics", COUNT), ("tables/one.csv", COUNT), ("saved", COUNT), ("meta", COUNT)):
        joined = open_source(f"world/emoji + {root / form}", split="val")
        assert len(joined) == emoji + count, form
    assert (
        len(open_source(f"world/emoji + {root / 'splits'}", split="test"))
        == len(open_source("world/emoji", split="test")) + 8
    )
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "red.png").write_bytes((root / "pics" / png(0)).read_bytes())
    assert (
        len(open_source(f"world/emoji + {tmp_path}", split="test")) == len(open_source("world/emoji", split="test")) + 1
    )
    with pytest.raises(UserError, match=r"val: no such folder; the folders there are: test, train"):
        open_source(f"world/emoji + {tmp_path}", split="val")
    with pytest.raises(UserError, match="splits: no split 'val'"):
        open_source(f"world/emoji + {root / 'splits'}", split="val")


def test_too_few_pairs_name_the_data(command):
    with pytest.raises(SystemExit, match=r"splits: \d pairs to adapt to and \d to measure on.*bring more pairs"):
        command("splits", "--split", "test")


def test_the_same_pictures_are_held_out_in_every_form(root, things):
    names = [name for _, name in things]
    right = None
    for form in ("pics", "tables/five.csv", "tables/lists.jsonl", "meta", "shards", "saved"):
        held = hold_out(open_source(root / form), SHARE)[1]
        known = {name for name in names if any(text.endswith(name) for text in held.texts())}
        right = right or known
        assert known == right, form
