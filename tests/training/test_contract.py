"""What a method declares is what it gets: batch keys, alike in every path; the data, before the first step."""

import pytest
import torch
from contract_work import Replay, Texts, begun, ragged, replay_batch, replayed
from ranks import run
from toy import Plain

from nearfar import train
from nearfar.data import Records
from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.methods.base import EmbeddingMethod
from nearfar.training.loop.gradients import backward


def by_hand() -> float:
    """The loss of the whole batch, a sample at a time."""
    batch, tower = replay_batch(), Replay().tower.requires_grad_(False)
    total = 0.0
    for i in range(8):
        scale = batch["geometry"][0, i, 0, 0] * batch["geometry"][1, i, 0, 0] * (2 if i % 3 == 0 else 1)
        total += float(tower(batch["image"][i]).square().sum() * scale / (i + 1)) / 8
    return total


def test_geometry_and_replay_are_read_alike_in_forward_training_chunks_and_validation():
    expected = by_hand()
    assert Replay()(replay_batch())["loss"].item() == pytest.approx(expected, rel=1e-12)
    gradients = []
    for chunk in (None, 3, 1):
        loss, gradient, validated = replayed(chunk)
        assert (loss, validated) == pytest.approx((expected, expected), rel=1e-12)
        gradients.append(torch.tensor(gradient, dtype=torch.float64))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-12, atol=0)


def test_geometry_and_replay_are_gathered_in_rank_order_along_their_own_axis():
    loss, gradient, validated = replayed(None)
    for chunk in (None, 3):
        for rank_loss, rank_gradient, rank_validated in run(replayed, 2, chunk):
            assert (rank_loss, rank_validated) == pytest.approx((loss, validated), rel=1e-12)
            torch.testing.assert_close(torch.tensor(rank_gradient), torch.tensor(gradient), rtol=1e-12, atol=1e-15)


def test_texts_are_gathered_where_the_ranks_pad_alike_and_refused_where_they_do_not():
    embedded = Texts()(replay_batch() | {"text": {"input_ids": torch.ones(8, 5)}})["loss"].item()
    assert run(ragged, 2, (5, 5)) == pytest.approx([embedded, embedded], rel=1e-12)
    for messages in run(ragged, 2, (5, 7)):
        assert "'text'" in messages
        assert "pad_to" in messages


def test_a_method_that_gathers_nothing_sees_its_own_part():
    class Alone(Replay):
        gather = False

    assert backward(Alone(), replay_batch())["samples"] == 8


@pytest.mark.parametrize("line", ['batch["is_replay"]', 'batch.get("is_replay")', '"is_replay" in batch'])
def test_an_objective_that_reads_an_undeclared_key_is_refused_when_the_class_is_made(line, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from nearfar.methods.base import EmbeddingMethod\n"
        "class Mine(EmbeddingMethod):\n"
        "    def embed(self, batch): return {}\n"
        f"    def objective(self, embeddings, batch): return {{'loss': {line}, 'label': batch['label']}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"Mine's objective reads the batch key 'is_replay'.*reads = \('index', 'group'"
    ):
        __import__("mine")


def test_reads_narrowed_below_what_an_inherited_objective_reads_is_refused():
    with pytest.raises(UserError, match="'geometry', 'is_replay'"):

        class Fewer(Replay):
            reads = ("index",)


def test_a_key_made_at_run_time_is_refused_when_it_is_read():
    name = "is_" + "replay"

    class Hidden(Replay):
        reads = ("index",)

        def objective(self, embeddings, batch):
            return {"loss": embeddings["image"].sum() * batch[name].sum()}

    for step in (lambda: Hidden()(replay_batch()), lambda: backward(Hidden(), replay_batch(), chunk=3)):
        with pytest.raises(UserError, match=r"Hidden's objective reads the batch key 'is_replay'.*\('index',\)"):
            step()


def test_a_declared_key_that_the_data_lack():
    class Labels(Replay):
        reads = ("label", "weight")

        def objective(self, embeddings, batch):
            assert batch.get("weight") is None
            assert "weight" not in batch
            return {"loss": embeddings["image"].sum() * batch["label"].sum()}

    with pytest.raises(UserError, match="Labels's objective needs the batch key 'label', which these data do not have"):
        backward(Labels(), replay_batch())


@pytest.mark.parametrize("name", ["n_view", "view", "answer", "n_veiws"])
def test_a_misspelt_attribute_is_refused(name):
    with pytest.raises(UserError, match=f"Wrong.{name} .*did you mean"):
        type("Wrong", (Plain,), {name: 2})


def test_misspelt_names_of_embedding_methods_and_of_functions_are_refused_too():
    with pytest.raises(UserError, match=r"Wrong.read .*did you mean 'reads'"):
        type("Wrong", (Replay,), {"read": ("label",)})
    with pytest.raises(UserError, match=r"Wrong.gathers .*did you mean 'gather'"):
        type("Wrong", (Replay,), {"gathers": False})
    with pytest.raises(UserError, match=r"Wrong.after_steps .*did you mean 'after_step'"):
        type("Wrong", (Plain,), {"after_steps": lambda self, step: None})
    # What only sounds alike: a function beside a value, a subclass's own names again.
    own = type("Fine", (Plain,), {"view": lambda self: 0, "margin": 0.5, "embed_text": lambda self: 0})
    type("Finer", (own,), {"margin": 0.7, "views": "none"})


def test_the_defaults():
    method = Plain()
    assert (method.model, method.encoder, method.views, method.n_views, method.answers) == (
        None,
        method,
        None,
        1,
        False,
    )
    assert (EmbeddingMethod.reads, EmbeddingMethod.gather) == (("index", "group", "label", "domain", "weight"), True)
    method.model = torch.nn.Linear(1, 1)
    assert method.encoder is method.model
    assert "model.weight" in method.state_dict()


def test_nothing_of_a_method_is_read_by_a_name_in_quotes():
    from pathlib import Path

    import nearfar

    texts = {path: path.read_text("utf-8") for path in Path(nearfar.__file__).parent.rglob("*.py")}
    assert [path for path, text in texts.items() if "attr(method," in text] == []


def test_a_method_knows_its_data_before_the_first_step_once_and_alike_on_all_ranks():
    (alone,) = begun()["calls"]
    assert alone[:3] == (10, list(range(1, 20, 2)), ["cat", "dog"])
    for rank in run(begun, 2):
        assert rank["calls"] == [alone]


def test_plain_batches_tell_a_method_nothing():
    messages = []

    class Asks(Plain):
        def begin(self, data: DataInfo):
            messages.append((data.size, data.ids, data.classes, data.fingerprint))
            data.require_ids("Asks")

    with pytest.raises(UserError, match="Asks keeps something of each sample, and the data cannot be counted"):
        train(Asks(), [replay_batch()], steps=1)
    assert messages == [(None, None, None, 0)]


def records(words: str, **more) -> Records:
    return Records([{"text": word, **more} for word in words])


def test_the_fingerprint_is_of_the_content():
    print_of = lambda source: DataInfo.of(source).fingerprint  # noqa: E731
    one = print_of(records("abcdef"))
    assert one == print_of(records("abcdef")) > 0
    others = [records("abcdeg"), records("abcde"), records("abcdef", label=1), records("abcdef").select([5, *range(5)])]
    assert len({one, *map(print_of, others)}) == 5
    # A folder may be moved: files count by their names.
    moved = [Records([{"image": f"{folder}/{i}.png"} for i in range(3)]) for folder in ("/a", "/b/c")]
    assert print_of(moved[0]) == print_of(moved[1])


def test_ids_must_differ():
    twice = Records([{"text": "a", "index": 7}, {"text": "b", "index": 7}])
    with pytest.raises(UserError, match="has 7 more than once"):
        DataInfo.of(twice).require_ids("A table")
