"""What can be known to be wrong is said by `nearfar train` in one sentence, before the configuration is printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nearfar import cli, files

TINY = ["model.preset=tiny", "steps=1", "batch_size=4", "report=false", "progress=false"]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(12):
        Image.new("RGB", (8, 8 + i), (20 * i, 0, 0)).save(tmp_path / "photos" / f"{i}.png")
        (tmp_path / "photos" / f"{i}.txt").write_text(f"number {i}")
    rows = "".join(f"photos/{i}.png,number {i}\n" for i in range(12))
    (tmp_path / "pairs.csv").write_text("image,caption\n" + rows)
    (tmp_path / "bare.csv").write_text("image,size\n" + rows.replace("number ", ""))
    (tmp_path / "blank.csv").write_text("image,caption\n" + "".join(f"photos/{i}.png,\n" for i in range(12)))
    (tmp_path / "gone.csv").write_text("image,caption\n" + rows.replace("photos", "nowhere"))
    (tmp_path / "a-file").write_text("")
    return tmp_path


WRONG = {
    "no such recipe": (["clipp"], "no recipe 'clipp'"),
    "no such setting": (["clip", "stepz=3"], "stepz"),
    "a value of another kind": (["clip", "steps=many"], "steps must be a whole number"),
    "a value out of its range": (["clip", "epochs=-1"], "epochs"),
    "no such method": (["clip", "method.name=clap"], "clap"),
    "no such preset": (["clip", "model.preset=huge"], "huge"),
    "no such model": (["clip", "model.load=photos"], "photos"),
    "no such data": (["clip", "data.train=nowhere/"], "nowhere/: no such file or folder"),
    "no such validation data": (["clip", "data.train=pairs.csv", "data.validation=nowhere.csv"], "nowhere.csv"),
    "no such evaluation data": (["clip", "data.train=pairs.csv", "evaluation.data=nowhere.csv"], "nowhere.csv"),
    "no such column": (["clip", "data.train={spec: pairs.csv, text: titel}"], "no column 'titel' for text"),
    "no captions in the data": (["clip", "data.train=bare.csv"], "text"),
    "captions that are all blank": (["clip", "data.train=blank.csv"], "caption"),
    "pictures that are not there": (["clip", "data.train=gone.csv"], "nowhere/0.png"),
    "validation pictures that are not there": (
        ["clip", "data.train=pairs.csv", "data.validation=gone.csv"],
        "nowhere/0.png",
    ),
    "no labels to measure by": (
        ["clip", "data.train=pairs.csv", "evaluation.data=pairs.csv", "evaluation.protocols=[zero_shot]"],
        "zero_shot cannot be measured",
    ),
    "a batch larger than the data": (
        ["clip", "data.train=pairs.csv", "batch_size=64"],
        "records, and training.batch_size is 64",
    ),
    "no validation to end with the best of": (
        ["clip", "data.train=pairs.csv", "data.validation=null", "final=best"],
        "final is best",
    ),
    "a run folder below a file": (["clip", "data.train=pairs.csv", "--out=a-file/run"], "a-file is a file"),
    "nothing to resume": (["--resume", "nowhere"], "nowhere"),
    "a stage without data": (["two-stages", "stages.whole.data.train=nowhere/"], "nowhere/: no such"),
}


@pytest.mark.parametrize("case", WRONG)
def test_nothing_is_printed_before_the_error(case, photos, capfd):
    arguments, words = WRONG[case]
    tiny = TINY if arguments[0] == "clip" and not any("load" in each for each in arguments) else []
    settings = [each for each in tiny if each.partition("=")[0] not in {a.partition("=")[0] for a in arguments}]
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *arguments, *settings])
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == ""  # the sentence itself is what the process exits with
    assert str(ended.value).startswith("nearfar train: ")
    assert words in str(ended.value)
    assert not list(Path().glob("runs/*"))


def test_a_process_of_its_own_says_one_sentence(photos):
    command = [sys.executable, "-m", "nearfar", "train", "clip", "data.train=blank.csv", *TINY]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=300)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.startswith("nearfar train: ")
    assert "Traceback" not in ran.stderr


def test_a_folder_that_holds_a_run(photos, capfd):
    command = ["train", "clip", "data.train=pairs.csv", *TINY, "--out=run"]
    cli.main(command)
    printed = capfd.readouterr().out
    assert printed.index("data:") < printed.index("step")
    with pytest.raises(SystemExit, match="run already holds a run: resume it"):
        cli.main(command)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("access", "free", "why"), [(False, 1 << 40, "permission"), (True, 0, "disk is full")])
def test_a_folder_that_takes_no_files(photos, capfd, monkeypatch, access, free, why):
    monkeypatch.setattr(files.os, "access", lambda *_: access)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    with pytest.raises(SystemExit, match=f"run cannot be written; .*{why}"):
        cli.main(["train", "clip", "data.train=pairs.csv", *TINY, "--out=run"])
    assert capfd.readouterr() == ("", "")
    assert not Path("run").exists()
