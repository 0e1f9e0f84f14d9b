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


def test_a_chat_begins_as_its_template_says(folder, capsys, monkeypatch, tmp_path):
    """The template writes the sign that a text begins with, and the tokenizer must not write another before it."""
    model = language_model(folder)
    model.tokenizer.chat_template = "[CLS]{% for m in messages %}{{ m['content'] }}{% endfor %}"
    model.save_pretrained(tmp_path / "chat")
    prompts = []
    monkeypatch.setattr("nearfar.decoding.contrastive_search", lambda lm, tokens, **_: prompts.append(tokens))
    run(capsys, PROMPT, "--model", tmp_path / "chat", "--chat", "true")
    run(capsys, PROMPT, "--model", folder)
    chat, plain = (tokens["input_ids"][0].tolist() for tokens in prompts)
    assert chat == plain
    assert chat.count(model.tokenizer.cls_token_id) == 1
    with pytest.raises(SystemExit, match="this model has no chat template: leave --chat out"):
        main(["generate", PROMPT, "--model", str(folder), "--chat", "true"])


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
