"""Steps of every method on 4 real processes, and on 2 with unequal parts, are those of one process with the whole
batch: gradients, logs, and the state after them (weights, queues, teachers, temperatures).

Without dropout, and with what methods draw at random (ITM's negatives, the hidden words) fixed by sample: a process
draws from its own part, and from its own random stream."""

import numpy as np
import pytest

from methods.rank_steps import SETTINGS, STEPS, steps_in_worlds
from nearfar.methods import find
from nearfar.methods.base import EmbeddingMethod
from training.ranks import run

BY_EMBEDDINGS = [name for name in SETTINGS if issubclass(find(name), EmbeddingMethod)]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """What each process found, for all methods: four start, once."""
    return run(steps_in_worlds, 4, str(tmp_path_factory.mktemp("worlds")))


@pytest.fixture(scope="module")
def alone(worlds):
    return worlds[2]["alone"]


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_are_those_of_one_process(name, alone, worlds):
    require_the_steps_of_one(name, alone, [each["four"] for each in worlds])


@pytest.mark.parametrize("name", BY_EMBEDDINGS)
def test_so_are_those_on_unequal_parts(name, alone, worlds):
    """One process holds two samples, and another six."""
    require_the_steps_of_one(name, alone, [each["unequal"] for each in worlds[:2]])


def require_the_steps_of_one(name, alone, ranks):
    expected = alone[name]
    gradients = [key for key in expected if f"{STEPS}, gradient" in key]
    assert any(np.abs(expected[key]).max() > 1e-3 for key in gradients)
    for actual in (rank[name] for rank in ranks):
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            tiny = 1e-9 + 1e-6 * np.nanmax(np.abs(value), initial=0)  # what float32 sums leave of gradients that cancel
            np.testing.assert_allclose(actual[key], value, rtol=1e-5, atol=tiny, err_msg=f"{name}: {key}")


def test_teachers_and_queues_have_moved(alone):
    """Else the test above would say little of them."""
    for name in ("albef", "tcl"):
        state = alone[name]
        assert state["state, momentum.steps"] == STEPS
        assert state["state, momentum.image_queue.filled"] == 16
        assert state["state, momentum.image_queue.group"].tolist() == [3, 3, 4, 5, 6, 6, 3, 8, 6, 6, 7, 8, 9, 9, 6, 11]
    for name in ("albef", "tcl", "answering", "entailment"):
        state = alone[name]
        assert alone[name][f"{STEPS}, alpha"] == pytest.approx(0.2)
        teacher = next(key for key in state if "teacher" in key and key.endswith("word_embeddings.weight"))
        student = teacher.replace("momentum.teacher.module", "model").replace("distillation.teacher.module", "model")
        assert np.abs(state[teacher] - state[student]).max() > 1e-6


def test_local_terms_are_those_of_each_process_s_part(worlds):
    """TCL's contrast with local features takes its negatives from the process's own part, as the released code does:
    what 4 processes find is what one process finds in each quarter."""
    expected = worlds[3]["local terms alone"]
    actual = [each["local terms of four"][0] for each in worlds]
    np.testing.assert_allclose(actual, expected, rtol=1e-9)
    assert np.count_nonzero(expected) >= 4, "those of parts that are no duplicates throughout"
