"""A protocol is one row: what is registered here is found by the help, the options, the checks and the report."""

import pytest

from nearfar.commands.evaluate_command import parser, protocol_options
from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.evaluation import PROTOCOLS, Metric, Protocol, Result, embed, evaluate, left_out, register
from nearfar.evaluation.needs import missing_in_embeddings, missing_in_model, missing_in_source
from nearfar.evaluation.protocols.signature import options
from nearfar.evaluation.report import write_report
from nearfar.evaluation.report.blocks import Note
from nearfar.training.loop.setting_checks import check_evaluation
from nearfar.training.recipe.sections import EvaluationConfig


def brightness(encoder, data, *, above: float = 0.0, seed: int = 0) -> Result:
    """How many images are brighter than a limit.

    Args:
        encoder: not used.
        data: the embedded data.
        above: the limit of the mean, in percent (%) of white.
        seed: not used.
    """
    bright = (data.image.mean(dim=1) > above).float()
    figures = {"bright": Metric(float(bright.mean()), chance=0.5, n=len(bright), unit="%")}
    return Result("brightness", figures, details={"seed": seed})


def examples(results, source):
    return [Note(f"{results['brightness']['bright']:.2f} of {source.name}")]


@pytest.fixture
def own():
    before = dict(PROTOCOLS)
    yield register(
        Protocol(
            "brightness",
            "are the pictures bright?",
            brightness,
            takes=("encoder", "embeddings"),
            sides=("image",),
            columns=("lamp|sun",),
            abilities=("shine",),
            usual=True,
            flags={"--above": "above"},
            headlines={"bright": "bright pictures"},
            examples=("Bright ones", f"{__name__}:examples"),
        )
    )
    PROTOCOLS.clear()
    PROTOCOLS.update(before)


def with_lamps(colours):
    return Records([{**record, "lamp": "on"} for record in colours], name="rooms", classes=colours.classes)


def test_the_help_shows_it_and_its_options(own):
    text = parser().format_help()
    assert "brightness: are the pictures bright?" in text
    assert "above: the limit of the mean, in percent (%) of white (default: 0.0)" in text
    assert "--above VALUE" in text


def test_its_options_are_read_from_flags_and_words(own):
    words = ["m", "--protocols", "brightness", "--above", "0.25", "--options", "knn.k=5", "zero_shot.classes=[a, b]"]
    assert protocol_options(parser().parse_args(words)) == {
        "brightness": {"above": 0.25},
        "knn": {"k": 5},
        "zero_shot": {"classes": ["a", "b"]},
    }
    for word, message in {
        "brightness.bellow=1": "--options: brightness: no option 'bellow'",
        "brightnes.above=1": "no protocol 'brightnes'. Did you mean 'brightness'",
        "above=1": "is no PROTOCOL.OPTION=VALUE",
        "brightness.above=[": "is no value",
    }.items():
        with pytest.raises(UserError, match=message.replace("[", r"\[")):
            protocol_options(parser().parse_args(["m", "--options", word]))


def test_the_checks_before_training_know_what_it_needs(own, encoder, colours):
    columns = ", ".join(colours.columns)
    remedy = f"(its columns are: {columns}): name the column with lamp=NAME or sun=NAME"
    assert missing_in_source("brightness", colours) == f"colours has no 'lamp' or 'sun' {remedy}"
    rooms = with_lamps(colours)
    assert missing_in_source("brightness", rooms) is None
    assert missing_in_model("brightness", encoder) == "a ColourEncoder has no 'shine'"
    settings = EvaluationConfig(data="rooms", protocols=["brightness"], options={"brightness": {"above": 1.0}})
    with pytest.raises(UserError, match=r"brightness cannot be measured on evaluation\.data, as colours has no 'lamp'"):
        check_evaluation(settings, data=colours, validation=None)
    with pytest.raises(UserError, match="as a ColourEncoder has no 'shine'"):
        check_evaluation(settings, data=rooms, validation=None, model=encoder)
    with pytest.raises(UserError, match=r"evaluation\.options: brightness: no option 'abov'. Did you mean 'above'"):
        EvaluationConfig(options={"brightness": {"abov": 1.0}})
    with pytest.raises(UserError, match=r"evaluation\.options\.brightness holds 3"):
        EvaluationConfig(options={"brightness": 3})


def test_it_runs_on_the_shared_embedding_with_the_jobs_seed(own, encoder, colours):
    results = evaluate(encoder, colours, ["brightness", "geometry"], seed=7, options={"brightness": {"above": -2.0}})
    assert results["brightness"]["bright"] == 1
    assert results["brightness"].details == {"seed": 7}
    assert len(encoder.modes) == 1
    options = {"brightness": {"seed": 3}}
    assert evaluate(encoder, colours, ["brightness"], seed=7, options=options)["brightness"].details == {"seed": 3}
    with pytest.raises(UserError, match=r"brightness: no option 'limit'\. There are: above"):
        evaluate(encoder, colours, ["brightness"], options={"brightness": {"limit": 1}})


def test_what_is_usual_is_left_out_with_its_reason(encoder, colours):
    row = Protocol("lamps", "do they shine?", brightness, takes=("encoder", "embeddings"), columns=("lamp",))
    register(row)
    try:
        data = embed(encoder, colours)
        assert missing_in_embeddings("lamps", data, encoder) == "colours has no 'lamp'"
        assert missing_in_embeddings("lamps", embed(encoder, with_lamps(colours)), encoder) is None
        assert left_out(encoder, data) == {}
    finally:
        del PROTOCOLS["lamps"]


def test_the_report_shows_its_headline_and_examples(own, encoder, colours, tmp_path):
    rooms = with_lamps(colours)
    results = evaluate(encoder, rooms, ["brightness"])
    page = write_report(tmp_path, source=rooms, results=results).read_text()
    share = results["brightness"]["bright"]
    assert "bright pictures" in page
    assert "Bright ones" in page
    assert f"{share:.2f} of rooms" in page


def test_a_function_of_the_job_is_the_shortest_protocol(encoder, colours):
    register(Protocol("size", "how many?", lambda inputs: Result("size", {"n": Metric(len(inputs.embeddings), n=1)})))
    try:
        assert evaluate(encoder, colours, ["size"])["size"]["n"] == 12
        with pytest.raises(UserError, match="there is a protocol 'size' already"):
            register(Protocol("size", "another", brightness))
    finally:
        del PROTOCOLS["size"]


def test_options_are_read_alike_from_source_and_from_the_function():
    from nearfar.evaluation.protocols.retrieval import retrieval

    read, imported = options("nearfar.evaluation.protocols.retrieval:retrieval"), options(retrieval)
    assert [option.name for option in read] == [option.name for option in imported]
    assert {option.name for option in read} >= {"ks", "seed", "batch_size"}
    assert [option.help for option in read] == [option.help for option in imported]
    assert all(option.help for option in read)
    assert options(lambda inputs, **anything: anything) is None
