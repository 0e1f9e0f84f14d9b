"""What was read is not read again: not for the next model, not for the index, and not after a kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nearfar
from nearfar.adaptation import kept_reading, trials
from nearfar.adaptation.kept_reading import KeptReading, ReadOnce, fingerprint, is_killed
from nearfar.commands.adapt_command import usual_folder
from nearfar.data import hold_out, open_source
from nearfar.embedding.embed_source import embed
from nearfar.errors import UserError
from nearfar.evaluation import load_results
from nearfar.models.dual.dual_encoder import DualEncoder

pytestmark = pytest.mark.usefixtures("few_maps")
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory):
    return small.save_pretrained(tmp_path_factory.mktemp("small"))


@pytest.fixture
def pictures(monkeypatch):
    """How many pictures went through a tower."""
    read, plain = [], DualEncoder.image_summary

    def counted(self, pixels):
        read.extend([1] * len(pixels) if pixels.ndim == 4 else [])
        return plain(self, pixels)

    monkeypatch.setattr(DualEncoder, "image_summary", counted)
    return read


def test_a_picture_goes_through_the_tower_once(emoji, small, pictures, tmp_path):
    nearfar.adapt(emoji, small, tmp_path / "run", share=0.3)
    held = len(hold_out(open_source(emoji), 0.3)[1])
    # Those adapted to twice, as they are and mirrored; those held out once, for three models; none for the index. One
    # picture of the index's own tells a model from another.
    assert len(pictures) <= 2 * (60 - held) + held + 2
    assert not (tmp_path / "run" / "reading").exists()


def test_what_is_kept_is_what_the_tower_gives(small, tmp_path):
    pixels = torch.rand(6, 3, 32, 32)
    with torch.no_grad():
        expected = small.encode_image(pixels)
        kept = KeptReading(tmp_path)
        first = ReadOnce(small, kept).encode_image(pixels[:4])
        kept.write()
        again = KeptReading(tmp_path)
        assert again.before == 4
        rest = ReadOnce(small, again).encode_image(pixels)
    assert torch.equal(first, small.encode_image(pixels[:4]).detach())
    torch.testing.assert_close(rest, expected)
    assert torch.equal(rest[:4], first)


def test_another_tower_is_another_folder(small, saved):
    same, other = nearfar.load(saved), nearfar.load(saved)
    with torch.no_grad():
        next(other.image.parameters()).add_(1e-3)
    assert fingerprint(same) == fingerprint(small) != fingerprint(other)


def test_a_run_that_is_killed_goes_on_and_ends_as_one_that_was_not(emoji, saved, tmp_path, pictures):
    whole, out, settings = tmp_path / "whole", tmp_path / "run", {"share": 0.3, "batch_size": 8}
    child = subprocess.Popen(
        [sys.executable, HERE / "killed_reading.py", str(emoji), str(saved), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for line in child.stdout:
        if line.startswith("read") and len(list(out.glob("reading/*/*.safetensors"))) >= 3:
            break
    child.send_signal(signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL
    assert is_killed(out)
    assert not (out / "model").exists()
    nearfar.adapt(emoji, saved, whole, **settings)
    alone = len(pictures)
    said = []
    nearfar.adapt(emoji, saved, out, **settings, say=said.append)
    (kept,) = (int(line.split()[1]) for line in said if line.startswith("reading: "))
    assert kept >= 24
    assert len(pictures) - alone == alone - kept
    for name in ("retrieval", "retrieval, the model as it was"):
        assert load_results(out / "results.json")[name] == load_results(whole / "results.json")[name]
    tried = [json.loads((folder / "adapt.json").read_text())["tried"] for folder in (out, whole)]
    assert tried[0] == tried[1]
    assert not (out / "reading").exists()
    assert not is_killed(out)


def test_a_part_half_written_is_none(small, tmp_path):
    kept = KeptReading(tmp_path)
    with torch.no_grad():
        kept(torch.rand(2, 3, 32, 32), small.image_summary)
    kept.write()
    (tmp_path / ".00001.safetensors.1.2.tmp").write_bytes(b"half of a part")
    assert KeptReading(tmp_path).before == 2
    assert [path.name for path in tmp_path.iterdir()] == ["00000.safetensors"]


def test_the_same_command_finds_the_folder_of_the_run_that_was_killed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert usual_folder() == Path("runs/adapt")
    (Path("runs/adapt") / "model").mkdir(parents=True)
    assert usual_folder() == Path("runs/adapt-2")
    (Path("runs/adapt-2") / "reading" / "0123").mkdir(parents=True)
    assert usual_folder() == Path("runs/adapt-2")
    lock = kept_reading.alone(Path("runs/adapt-2"))
    assert usual_folder() == Path("runs/adapt-3")  # a run goes on there
    with pytest.raises(UserError, match="another process is adapting in"):
        nearfar.adapt("world/emoji", out="runs/adapt-2")
    lock.release()


def test_a_second_run_takes_the_same_pairs(tmp_path):
    values = iter([300, 200])
    plan = {"data": "photos", "records": 500, "minutes": 2.0}
    assert [kept_reading.agreed(tmp_path, plan, "taken", lambda: next(values)) for _ in range(2)] == [300, 300]
    assert kept_reading.agreed(tmp_path, {**plan, "minutes": 3.0}, "taken", lambda: next(values)) == 200


def test_pixels_of_any_shape_are_not_known_by_their_values(small, tmp_path, pictures):
    kept = KeptReading(tmp_path)
    with torch.no_grad():
        summaries = small.image_summary(torch.rand(2, 3, 32, 32))
        assert torch.equal(ReadOnce(small, kept).encode_image(summaries), small.encode_image(summaries))
    kept.write()
    assert KeptReading(tmp_path).before == 0


def test_embeddings_are_those_of_the_model(emoji, small, tmp_path):
    source = open_source(emoji)
    plain, once = (embed(encoder, source) for encoder in (small, ReadOnce(small, KeptReading(tmp_path))))
    torch.testing.assert_close(once.image, plain.image)
    torch.testing.assert_close(once.text, plain.text)


def test_a_reading_is_on_the_disk_before_anything_is_tried(emoji, small, tmp_path, monkeypatch):
    """Short as it was: a run that is killed while it tries reads nothing again."""
    parts = []

    def stopped(*_, **__):
        parts.extend((tmp_path / "run" / "reading").glob("*/*.safetensors"))
        raise UserError("no more")

    monkeypatch.setattr(trials, "try_all", stopped)
    with pytest.raises(UserError, match="no more"):
        nearfar.adapt(emoji, small, tmp_path / "run", share=0.3)
    assert len(parts) == 1


def test_what_a_picture_takes_is_the_same_after_a_run_that_was_killed(tmp_path):
    """Few pictures are left then, and the time for what all records take is not theirs alone."""
    whole, rest = KeptReading(tmp_path / "whole"), KeptReading(tmp_path / "rest")
    whole.read, whole.seconds = 100, 20.0  # 0.2 s in the tower, and 0.05 s beside it
    rest.read, rest.seconds = 4, 0.8
    assert whole.each(25.0, 100) == pytest.approx(rest.each(5.8, 100)) == pytest.approx(0.25)
    assert KeptReading(tmp_path / "none").each(5.0, 100) == pytest.approx(0.05)
