"""From a folder to a model: figures that other commands find too, no model of the user's changed, none worse kept."""

import json
import random
import re
import shlex
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import nearfar
from nearfar import cli
from nearfar.adaptation import trials
from nearfar.adaptation.frozen_features import FrozenFeatures
from nearfar.adaptation.outcome import Adapted
from nearfar.data import hold_out, open_source
from nearfar.data.sources.source import Records
from nearfar.embedding.embed_source import embed
from nearfar.errors import UserError
from nearfar.evaluation import load_results, retrieval

few = pytest.mark.usefixtures("few_maps")


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory):
    return small.save_pretrained(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def run(emoji, saved, tmp_path_factory):
    """The command, once: its folder, and what it says."""
    import contextlib
    import io

    out, said = tmp_path_factory.mktemp("adapted") / "run", io.StringIO()
    with contextlib.redirect_stdout(said):
        cli.main(["adapt", str(emoji), "--model", str(saved), "--out", str(out), "--share", "0.3"])
    return out, said.getvalue()


def test_the_folder_holds_all_that_is_needed(run, saved):
    out, said = run
    held = {path.name for path in out.iterdir()}
    assert {"model", "adapt.json", "results.json", "report.html", "index"} <= held
    report = (out / "report.html").read_text("utf-8")
    for whose in ("the model as it was", "a linear ridge map alone"):
        assert report.count(f"retrieval, {whose}") == 1
    card = (out / "model" / "README.md").read_text("utf-8")
    assert "linear ridge map" in card
    assert "nearfar.load" in card
    assert re.search(r"\| image tower \| \w+, .* parameters; licence: none of its own \|", card)
    assert re.search(r"\| parameters \| .* MB in float32 \|", card)
    assert f"Made from `{'/'.join(saved.parts[-2:])}`. Adapted to" in card  # no more of where it lay
    for word in ("to adapt to", "to measure on", "before", "after", "chance", "nearfar search", "nearfar serve"):
        assert word in said
    assert "only" in said  # few captions are held out, which is said


def test_card_and_report_say_what_it_was_adapted_to_and_how_long_that_took(run):
    out, _ = run
    about = json.loads((out / "adapt.json").read_text("utf-8"))
    assert about["seconds"] > 0
    took = f"{about['pairs']} pairs of {about['data']}, in {about['seconds']:.0f} s"
    report, card = (file.read_text("utf-8") for file in (out / "report.html", out / "model" / "README.md"))
    assert took in report
    assert took in card
    stays = about["kept_start"] or about["chosen"]["name"] == "the model as it is"
    assert ("nothing was better than the model as it was" in card) == stays


@pytest.mark.parametrize(("seconds", "words"), [(1.46, "in 2 s"), (119.96, "in 2 minutes"), (119.94, "in 120 s")])
def test_seconds_in_words_are_those_of_the_record(seconds, words):
    """1.46 s are 1.5 in the record, which are 2 in words."""
    outcome = Adapted(
        **dict.fromkeys(("model", "tried", "before", "ridge", "after", "measured_on", "skipped")),
        chosen=SimpleNamespace(setting=1, name="lora"), pairs=3, data="shop", seconds=seconds,
    )  # fmt: skip
    assert outcome.adapted_to == f"3 pairs of shop, {words}: lora"


def test_one_caption_for_all_pictures_is_refused(small):
    rows = [{"image": Image.new("RGB", (16, 16), (5 * i, 0, 0)), "text": "a product"} for i in range(40)]
    with pytest.raises(
        UserError, match="shop: the caption of every picture is 'a product', which tells none from another"
    ):
        nearfar.adapt(Records(rows, name="shop"), small)


@pytest.mark.parametrize(("pairs", "share"), [(8, False), (11, False), (14, True)])
def test_too_few_pairs_name_a_remedy_that_helps(small, pairs, share):
    rows = [{"image": Image.new("RGB", (16, 16), (9 * i, 0, 0)), "text": f"thing {i}"} for i in range(pairs)]
    with pytest.raises(UserError, match="bring more pairs") as error:
        nearfar.adapt(Records(rows, name="few"), small, share=0.05 if share else 0.2)
    assert ("or change share" in str(error.value)) == share


def test_a_folder_of_classes_has_figures_for_each(small, tmp_path):
    for number, colour in enumerate(("red", "green", "blue")):
        (tmp_path / "data" / colour).mkdir(parents=True)
        for i in range(12):
            shade = tuple(220 - 9 * i if place == number else 0 for place in range(3))
            Image.new("RGB", (16, 16), shade).save(tmp_path / "data" / colour / f"IMG_{i}.png")
    nearfar.adapt(tmp_path / "data", small, tmp_path / "run", share=0.4, index=False)
    by = load_results(tmp_path / "run/results.json")["zero_shot"].by["class"]
    assert set(by) <= {"red", "green", "blue"}
    assert len(by) > 1
    assert "zero shot by class" in (tmp_path / "run/report.html").read_text("utf-8")


def test_the_figures_are_those_of_the_saved_model_on_the_pairs_held_out(run, emoji):
    out, _ = run
    about = json.loads((out / "adapt.json").read_text("utf-8"))
    model = nearfar.load(out / "model")
    source = open_source(emoji)
    fitted_on, held = hold_out(source, 0.3)
    assert len(fitted_on) == about["pairs"]
    again = retrieval(embed(model, held))
    shown = load_results(out / "results.json")["retrieval"]
    for name, metric in shown.metrics.items():
        assert again[name] == pytest.approx(metric.value), name


def test_the_index_is_searched_with_the_model(run, capsys):
    out, _ = run
    cli.main(["search", "smiling face", "--index", str(out / "index"), "--top", "3"])
    assert ".png" in capsys.readouterr().out


@few
def test_the_adapted_model_can_be_adapted_again(run, emoji):
    out, _ = run
    again = nearfar.adapt(emoji, out / "model", share=0.3)
    assert again.before.metrics == load_results(out / "results.json")["retrieval"].metrics


@few
def test_what_is_printed_of_an_outcome_are_its_figures_and_no_layers(emoji, small):
    outcome = nearfar.adapt(emoji, small, share=0.3)
    head, *lines = repr(outcome).splitlines()
    assert head.startswith("Adapted(")
    assert f"{outcome.pairs} pairs of {outcome.data}, in " in head
    assert f"{outcome.after.metrics['text_to_image_R@5']} adapted" in lines[0]
    assert [line.removeprefix("  note: ") for line in lines[2:]] == list(outcome.warnings())
    assert "Linear" not in repr(outcome)


@few
def test_the_same_data_give_the_same_model(emoji, small):
    first, second = (nearfar.adapt(emoji, small, share=0.3) for _ in range(2))
    assert first.tried == second.tried
    assert first.after == second.after


@few
def test_a_model_that_is_passed_in_stays_as_it_is(emoji, small):
    small.train()
    before = {name: value.clone() for name, value in small.state_dict().items()}
    outcome = nearfar.adapt(emoji, small, share=0.3)
    assert small.training
    assert all(parameter.requires_grad for parameter in small.parameters())
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert outcome.model is not small
    small.eval()


def test_what_is_learnt_is_there_on_pairs_held_out(tmp_path, small):
    """Colours and their names: an untrained tower sees them, and only a map can know which name is whose."""
    colours = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
    chance = random.Random(0)
    for row in range(80):
        name = list(colours)[row % 4]
        shade = tuple(max(0, min(255, value + chance.randint(-20, 20))) for value in colours[name])
        Image.new("RGB", (32, 32), shade).save(tmp_path / f"{row:02d}.png")
        (tmp_path / f"{row:02d}.txt").write_text(f"a {name} square")
    outcome = nearfar.adapt(tmp_path, small)
    assert outcome.after["image_to_text_R@1"] == 1
    assert outcome.before["image_to_text_R@1"] < 0.6
    assert not outcome.kept_start
    assert outcome.model.temperature in trials.TEMPERATURES.tolist()


def test_a_map_that_makes_it_worse_is_not_kept(emoji, run):
    """Wrong captions to adapt to, right ones to measure on."""
    source, model = open_source(emoji), run[0] / "model"
    texts = [record["text"] for record in source]
    wrong = Records([{**record, "text": texts[(row + 7) % 60]} for row, record in enumerate(source)], name="wrong")
    outcome = nearfar.adapt(wrong, model, test=source)
    assert outcome.is_worse
    assert outcome.kept_start
    assert any("stays as it was" in warning for warning in outcome.warnings())
    assert any("are among those adapted to" in warning for warning in outcome.warnings())
    assert outcome.copies == 60
    assert not nearfar.adapt(wrong, model, test=source, keep_worse=True).kept_start


@few
def test_several_captions_of_a_picture_and_rows_of_one_picture_are_the_same(emoji, small):
    source = open_source(emoji)
    objects = [{"image": record["image"], "text": [*record["text"], f"the {record['text'][0]}"]} for record in source]
    rows = [{"image": record["image"], "text": text} for record in objects for text in record["text"]]
    both = [nearfar.adapt(Records(records, name="d"), small, share=0.3) for records in (objects, rows)]
    for one, other in zip(*(outcome.tried for outcome in both), strict=True):
        assert one.setting == other.setting
        assert one.score == pytest.approx(other.score, abs=1e-6)


@few
def test_broken_pictures_are_skipped_and_listed(emoji, small, tmp_path):
    shutil.copytree(emoji, tmp_path / "photos")
    (tmp_path / "photos" / "03.png").write_bytes(b"no picture")
    outcome = nearfar.adapt(tmp_path / "photos", small, tmp_path / "run", share=0.3, index=False)
    assert outcome.skipped.count == 1
    assert "03.png" in (tmp_path / "run" / "skipped.txt").read_text("utf-8")


@few
def test_what_was_skipped_when_the_data_were_opened_is_listed_too(emoji, small, tmp_path):
    shutil.copytree(emoji, tmp_path / "photos")
    (tmp_path / "photos" / "03.png").write_bytes(b"no picture")
    (tmp_path / "photos" / "phone.heic").write_bytes(b"a picture of another kind")
    outcome = nearfar.adapt(tmp_path / "photos", small, tmp_path / "run", share=0.3, index=False)
    assert outcome.skipped.count == 2
    listed = (tmp_path / "run" / "skipped.txt").read_text("utf-8")
    assert listed.startswith("2 skipped:")
    assert "phone.heic: .heic pictures are not read" in listed
    assert "03.png" in listed


@few
def test_what_is_skipped_of_the_data_measured_on_is_listed_with_their_name(emoji, small, tmp_path):
    shutil.copytree(emoji, tmp_path / "others")
    (tmp_path / "others" / "05.png").write_bytes(b"no picture")
    outcome = nearfar.adapt(emoji, small, tmp_path / "run", test=tmp_path / "others", index=False)
    assert outcome.skipped.count == 1
    listed = (tmp_path / "run" / "skipped.txt").read_text("utf-8")
    assert f"{open_source(tmp_path / 'others').name}: " in listed
    assert "05.png" in listed


@few
def test_captions_that_are_names_of_files_are_told_of(emoji, small, tmp_path):
    said = []
    for row, file in enumerate(sorted(emoji.glob("*.png"))):
        shutil.copy(file, tmp_path / f"{file.with_suffix('.txt').read_text('utf-8').replace('/', ' ')} {row}.png")
    nearfar.adapt(tmp_path, small, share=0.3, say=said.append)
    assert "names of the files are taken for captions" in " ".join(said)


@few
def test_a_folder_is_adapted_to_again_when_pairs_came(emoji, saved, tmp_path, capsys):
    """The model is another then, and so must be its index; what was skipped before is not told again."""
    photos, out = shutil.copytree(emoji, tmp_path / "photos"), tmp_path / "run"
    (photos / "03.png").write_bytes(b"no picture")
    command = ["adapt", str(photos), "--model", str(saved), "--out", str(out), "--share", "0.3"]
    cli.main(command)
    assert (out / "skipped.txt").exists()
    shutil.copy(emoji / "03.png", photos / "03.png")
    Image.new("RGB", (32, 32), "purple").save(photos / "new.png")
    (photos / "new.txt").write_text("a purple square")
    cli.main(command)
    capsys.readouterr()
    cli.main(["search", "a purple square", "--index", str(out / "index"), "--top", "61"])
    assert "new.png" in capsys.readouterr().out
    assert not (out / "skipped.txt").exists()
    assert not list(out.glob(".*"))


def test_a_place_that_cannot_be_written_is_told_before_the_work(emoji, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file")
    monkeypatch.setattr(nearfar.models, "load", None)
    monkeypatch.setattr(FrozenFeatures, "read", None)
    with pytest.raises(UserError, match="is a file"):
        nearfar.adapt(emoji, "no such model", tmp_path / "file")


def test_pictures_without_a_caption_are_counted_and_teach_nothing(emoji, small):
    records = list(open_source(emoji))
    bare = [{"image": record["image"], "text": []} for record in open_source(emoji).first(4)]
    with_bare = Records([*records, *({**record, "group": 1000 + n} for n, record in enumerate(bare))], name="d")
    features = FrozenFeatures.read(small, with_bare)
    assert len(features.captioned()) == 60
    assert features.data.skipped.count == 4


def test_the_table_fits_a_terminal(run):
    _, said = run
    assert max(map(len, said[said.index("recall in %") :].split("note:")[0].splitlines())) <= 80
    assert "text to image R@10" in said


def test_a_large_fold_is_ranked_in_part(emoji, small, monkeypatch):
    features = FrozenFeatures.read(small, open_source(emoji))
    monkeypatch.setattr(trials, "FEW", 10)
    parts = list(trials._folds(features, torch.arange(60) % 4))
    assert [(len(part.fit), len(part.held)) for part in parts] == [(45, 10)]


@few
def test_minutes_take_as_many_pairs_as_there_is_time_for(emoji, small, monkeypatch):
    from nearfar.adaptation import opened_inputs as inputs

    ticks = iter(range(1000))
    monkeypatch.setattr(inputs.time, "perf_counter", lambda: 16.0 * next(ticks))  # half a second a picture
    said = []
    outcome = nearfar.adapt(emoji, small, share=0.3, minutes=1.5, say=said.append)
    assert "46 of 60 pairs are taken" in " ".join(said)
    assert outcome.data.startswith("46 records of ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"share": 0.0}, "between 0 and 1"),
        ({"share": 1.5}, "between 0 and 1"),
        ({"minutes": 0}, "minutes=0"),
        ({"model": "minilm"}, "is a TextEncoder: adapt takes an image tower and a text tower"),
        ({"data": "no/such/folder"}, "no such file or folder"),
        ({"share": 0.95}, "pairs to adapt to"),
    ],
)
def test_what_cannot_be_is_refused(change, words, emoji, small):
    with pytest.raises(UserError, match=words):
        nearfar.adapt(**{"data": emoji, "model": small, **change})


def test_pictures_without_captions_are_refused(small):
    bare = Records([{"image": Image.new("RGB", (8, 8))}] * 20, name="bare")
    with pytest.raises(UserError, match="bare has no captions: adapt takes pairs; name the column with text=NAME"):
        nearfar.adapt(bare, small)


@pytest.mark.parametrize(("column", "recipe"), [("video", "xclip"), ("audio", "sounds")])
def test_videos_and_sounds_are_refused_with_the_recipe_that_trains_on_them(column, recipe, small):
    clips = Records([{column: "a.mp4", "text": "a dog jumps"}] * 20, name="clips")
    with pytest.raises(
        UserError, match=rf"clips has no pictures: adapt takes pairs; models .*: nearfar train {recipe} "
    ):
        nearfar.adapt(clips, small)


def test_the_last_lines_run_as_they_are_printed(run, capsys):
    out, said = run
    (search,) = [line.strip() for line in said.splitlines() if line.startswith("  nearfar search ")]
    assert f"  nearfar serve --index {shlex.quote(str(out / 'index'))}" in said.splitlines()
    cli.main(shlex.split(search)[1:])
    assert ".png" in capsys.readouterr().out
    assert "nearfar evaluate" in said


@few
def test_what_is_broken_may_lie_in_the_share_held_out(emoji, small):
    """Few pairs are held out: one broken picture and one without a caption are more than a tenth of them, and are
    counted; of all pairs they are few."""
    records = [dict(record) for record in open_source(emoji)]
    held = {record["image"] for record in hold_out(Records(records, name="d"), 0.2)[1]}
    broken, bare = [record for record in records if record["image"] in held][:2]
    records[records.index(broken)] = {**broken, "image": "gone.png"}
    records[records.index(bare)] = {**bare, "text": [" "]}
    rows = Records(records, name="d")
    places = [place for place, record in enumerate(records) if record["image"] in {*held, "gone.png"}]
    test, others = rows.select(places), rows.select([place for place in range(len(rows)) if place not in places])
    outcome = nearfar.adapt(others, small, test=test, keep_worse=True)
    assert sorted(problem.why.split(": ")[-1] for problem in outcome.skipped) == ["no caption", "no such file"]
