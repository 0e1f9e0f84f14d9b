import io

import pytest

from nearfar.cli import main
from nearfar.data.fields.text import train_tokenizer
from nearfar.decoding import contrastive_search
from nearfar.models.language import language_model

PROMPT = "the red car and the blue"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = train_tokenizer([PROMPT, "a green car", "the old red boat"], 300)
    path = tmp_path_factory.mktemp("language_model")
    language_model("tiny", tokenizer=tokenizer).save_pretrained(path)
    return path


def run(capsys, *arguments):
    main(["generate", *map(str, arguments)])
    return capsys.readouterr()


def test_writes_the_prompt_and_its_continuation(folder, capsys):
    out = run(capsys, PROMPT, "--model", folder, "--max_new_tokens", 6).out
    model = language_model(folder)
    tokens = model.tokenize_prompts([PROMPT])
    ids = contrastive_search(model.lm.eval(), tokens, max_new_tokens=6)[0]
    assert out.split() == model.tokenizer.decode(ids, skip_special_tokens=True).split()


def test_reads_standard_input(folder, capsys, monkeypatch):
    expected = run(capsys, PROMPT, "--model", folder, "--max_new_tokens", 4).out
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT))
    assert run(capsys, "-", "--model", folder, "--max_new_tokens", 4).out == expected


def test_several_samples_and_greedy(folder, capsys):
    shown = run(capsys, PROMPT, "--model", folder, "--max_new_tokens", 4, "--sample_steps", 2, "--samples", 3)
    assert "3 of 3" in shown.err
    assert shown.out.count("red car") == 3
    shown = run(capsys, PROMPT, "--model", folder, "--max_new_tokens", 4, "--greedy", "true")
    assert "greedy search" in shown.err
    assert shown.out.count("red car") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alpha", 2], r"alpha \(penalty_alpha\) must lie in"),
        (["--k", 100000], "vocabulary"),
        (["--samples", 2], "would all be equal"),
        (["--model", "no/such/folder"], "no language model at 'no/such/folder'"),
    ],
)
def test_mistakes_are_told_in_a_line(folder, capsys, arguments, message):
    if "--model" not in arguments:
        arguments = ["--model", folder, *arguments]
    with pytest.raises(SystemExit, match=message):
        run(capsys, PROMPT, *arguments)
