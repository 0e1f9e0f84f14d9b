"""State by sample: at the records' own ids, through filters, shuffles, stops, ranks and features read ahead."""

import numpy as np
import pytest
import torch
from ranks import run
from sample_work import method, source, trained, written

from nearfar.data import Records
from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.methods.parts.sample_table import SampleTable

IDS = sorted(1000 - 7 * i for i in range(1, 52, 2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(str(tmp_path_factory.mktemp("whole") / "run"))


def assert_same(actual, expected, **close):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if close:
            np.testing.assert_allclose(actual[name], value, err_msg=name, **close)
        else:
            np.testing.assert_array_equal(actual[name], value, err_msg=name)


def test_rows_are_the_records_own_ids(whole):
    state = whole["state"]
    assert state["table.ids"].tolist() == IDS
    # Two epochs of 24 of the 26 samples, and a step of 8 others of the third.
    assert state["table.visits"].sum() == 7 * 8
    assert state["table.visits"].max() <= 3
    assert ((state["table.tau"] == 0.5) == (state["table.visits"] == 0)).all()


def test_an_epochs_end_is_called_once_each_and_embeds_every_record_once(whole):
    assert [epoch for epoch, *_ in whole["epochs"]] == [0, 1]
    for _, ids, image, _ in whole["epochs"]:
        assert ids == source().ids()
        assert image.shape == (26, 8)
    assert whole["epochs"][0][3] != whole["epochs"][1][3]


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_stopped_in_an_epoch_and_at_its_end(stop, whole, tmp_path):
    """What was called before the stop and after the last checkpoint is called again, with the same embeddings."""
    actual = trained(str(tmp_path / "run"), stop)
    assert_same(actual["state"], whole["state"])
    last = {epoch: rest for epoch, *rest in actual["epochs"]}
    for epoch, ids, image, drawn in whole["epochs"]:
        assert last[epoch][0] == ids
        assert last[epoch][2] == drawn
        np.testing.assert_array_equal(last[epoch][1], image)


def test_two_ranks_keep_one_table_and_share_the_embedding(whole, tmp_path):
    first, second = run(trained, 2, str(tmp_path / "run"), 4)
    assert_same(second["state"], first["state"])
    assert_same(first["state"], whole["state"], rtol=1e-4, atol=1e-6)
    assert first["state"]["table.visits"].tolist() == whole["state"]["table.visits"].tolist()
    for one, other, alone in zip(first["epochs"], second["epochs"], whole["epochs"], strict=True):
        assert one[:2] == other[:2] == alone[:2]
        assert one[3] == other[3] == alone[3]
        np.testing.assert_array_equal(one[2], other[2])


def test_features_read_ahead_write_at_the_same_ids(tmp_path):
    actual = trained(str(tmp_path / "run"), 3, features=True)
    assert_same(actual["state"], trained(str(tmp_path / "whole"), features=True)["state"])
    assert actual["state"]["table.ids"].tolist() == IDS
    assert actual["state"]["table.visits"].sum() == 7 * 8
    assert [epoch for epoch, *_ in actual["epochs"]] == [0, 1]
    assert actual["epochs"][0][1] == source().ids()


def test_other_data_are_refused_on_resume_with_both_numbers(whole, tmp_path):
    trained(str(tmp_path / "run"), 0)
    from sample_work import train

    changed = source().map(lambda record: {**record, "text": "another"})
    for other, message in (
        (source(20), "their size was 26 and now is 20"),
        (changed, "their fingerprint was [0-9a-f]+ and now is [0-9a-f]+"),
    ):
        settings = {"out": tmp_path / "run", "resume": True, "steps": 9, "batch_size": 8, "report": False}
        with pytest.raises(UserError, match=message):
            train(method(), other, progress=False, **settings)


def test_ranks_write_each_its_own_and_an_id_once():
    first, second = run(written, 2)
    assert_same(first, second)
    ids = source(6).ids()
    by_id = dict(zip(first["ids"].tolist(), first["u"].tolist(), strict=True))
    expected = [ids[0], ids[1], ids[2] + 0.1, ids[3] + 0.1, ids[4], 0.0]  # the first values of an id that comes twice
    assert [by_id[i] for i in ids] == pytest.approx(expected, abs=1e-3)


def table(**columns) -> SampleTable:
    made = SampleTable(**columns)
    made.begin(DataInfo.of(Records([{"text": t} for t in "abcdef"]).select([5, 1, 3])))
    return made


def test_columns_of_any_shape():
    made = table(u=0.5, key=torch.tensor([1.0, 2.0]))
    made.write(torch.tensor([5]), key=torch.tensor([[3.0, 4.0]]))
    assert made.read("key", torch.tensor([5, 1])).tolist() == [[3, 4], [1, 2]]
    assert made.read("u", torch.tensor([3])).tolist() == [0.5]


def test_other_data_of_the_same_ids_begin_anew_and_the_same_data_go_on():
    made = table(u=0.5)
    made.write(torch.tensor([3]), u=torch.tensor([0.9]))
    same, other = (Records([{"text": t} for t in texts]).select([5, 1, 3]) for texts in ("abcdef", "uvwxyz"))
    made.begin(DataInfo.of(same))
    assert made.read("u", torch.tensor([3])).item() == pytest.approx(0.9)
    made.begin(DataInfo.of(other))
    assert made.u.tolist() == [0.5] * 3


def test_what_cannot_be_kept_is_refused_and_the_table_stays():
    made = table(u=0.5)
    wrong = [
        (torch.tensor([1, 2]), {"u": torch.ones(2)}, "samples 2 are not in the data"),
        (torch.tensor([1, 3]), {"u": torch.tensor([1.0, torch.nan])}, "'u' for samples 3 are NaN or infinite"),
        (torch.tensor([1, 3]), {"v": torch.ones(2)}, "no column 'v'. There are: u"),
        (torch.tensor([1, 3]), {"u": torch.ones(3)}, "3 values of 'u' for 2 samples"),
    ]
    for ids, values, message in wrong:
        with pytest.raises(UserError, match=message):
            made.write(ids, **values)
    assert made.u.tolist() == [0.5] * 3
    with pytest.raises(UserError, match="call begin"):
        SampleTable(u=0.5).read("u", torch.tensor([0]))
    with pytest.raises(UserError, match="cannot be counted"):
        SampleTable(u=0.5).begin(DataInfo())


def test_a_saved_table_is_read_without_its_data_and_checked_against_others():
    made = table(u=0.5)
    made.write(torch.tensor([3]), u=torch.tensor([0.9]))
    fresh = SampleTable(u=0.5)
    fresh.load_state_dict(made.state_dict())
    assert fresh.read("u", torch.tensor([3, 5])).tolist() == pytest.approx([0.9, 0.5])
    other = SampleTable(u=0.5)
    other.begin(DataInfo.of(Records([{"text": t} for t in "ab"])))
    with pytest.raises(UserError, match="their size was 3 and now is 2"):
        other.load_state_dict(made.state_dict())
