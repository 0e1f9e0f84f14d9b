import pytest
import torch

import nearfar
from nearfar.data import Loader
from nearfar.data.fields.text import train_tokenizer
from nearfar.data.sources.text_corpus import corpus
from nearfar.decoding import contrastive_search
from nearfar.evaluation.language.isotropy import isotropy
from nearfar.losses.simctg_loss import simctg_loss
from nearfar.methods.text.simctg import SimCTG
from nearfar.models.language.model import LanguageModel, language_model


@pytest.fixture(scope="module")
def source():
    return corpus("python", words=40)


@pytest.fixture(scope="module")
def tokenizer(source):
    return train_tokenizer(source.texts()[:200], 500)


def batch_of(source, tokenizer, size=8):
    return next(iter(Loader(source, batch_size=size, tokenizer=tokenizer, max_length=32)))


def test_loss_is_likelihood_plus_hinge(source, tokenizer):
    model = language_model("tiny", tokenizer=tokenizer)
    batch = batch_of(source, tokenizer)
    out = SimCTG(model, margin=0.6, weight=2.0)(batch)
    ids, mask = batch["text"]["input_ids"], batch["text"]["attention_mask"]
    with torch.no_grad():
        labels = ids.masked_fill(mask == 0, -100)
        theirs = model.lm(input_ids=ids, attention_mask=mask, labels=labels, output_hidden_states=True)
    hinge = simctg_loss(theirs.hidden_states[-1], mask, margin=0.6)
    torch.testing.assert_close(out["mle_loss"], theirs.loss, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out["contrastive_loss"], hinge, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out["loss"], out["mle_loss"] + 2 * out["contrastive_loss"])
    out["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_padding_and_end_tokens(source, tokenizer):
    """More padding changes nothing; an end token that doubles as padding still counts where the mask says so."""
    model = language_model("tiny", tokenizer=tokenizer)
    ids = torch.randint(10, 400, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    text = {"input_ids": ids, "attention_mask": mask}
    longer = {name: torch.nn.functional.pad(value, (0, 4)) for name, value in text.items()}
    short, long = (SimCTG(model)({"text": tokens}) for tokens in (text, longer))
    torch.testing.assert_close(short["loss"], long["loss"])
    inside = ids.clone()
    inside[0, 4] = tokenizer.pad_token_id
    assert SimCTG(model)({"text": {"input_ids": inside, "attention_mask": mask}})["mle_loss"] != short["mle_loss"]


def test_training_spreads_the_states(source, tokenizer):
    """The same steps from the same weights: with the hinge isotropy rises above likelihood's alone."""
    spread = {}
    settings = {"steps": 25, "lr": 3e-3, "batch_size": 8, "progress": False, "report": False}
    for weight in (0.0, 1.0):
        model = language_model("tiny", tokenizer=tokenizer)
        loader = Loader(source, batch_size=8, tokenizer=tokenizer, max_length=32, seed=0)
        run = nearfar.train(SimCTG(model, weight=weight), loader, **settings)
        assert run.metrics["mle_loss"] < 6.0  # ln 500 is 6.2
        batch = batch_of(source, tokenizer)["text"]
        with torch.no_grad():
            spread[weight] = isotropy(model(batch).hidden, batch["attention_mask"]).within
    assert spread[1.0] > spread[0.0] + 0.02


def test_texts_of_one_token_have_a_loss_of_zero(tokenizer):
    """Nothing follows their only token."""
    batch = {"text": {"input_ids": torch.full((2, 1), 7), "attention_mask": torch.ones(2, 1, dtype=torch.long)}}
    out = SimCTG(language_model("tiny", tokenizer=tokenizer))(batch)
    out["loss"].backward()
    assert out["loss"].item() == out["mle_loss"].item() == 0


def test_saved_model_is_a_transformers_model(source, tokenizer, tmp_path):
    model = language_model("tiny", tokenizer=tokenizer)
    model.save_pretrained(tmp_path)
    again = language_model(tmp_path)
    assert isinstance(again, LanguageModel)
    prompts = model.tokenize_prompts(["The import statement", "A"])
    assert prompts["attention_mask"][1, 0] == 0
    assert prompts["input_ids"][0, -1] != tokenizer.sep_token_id
    first = contrastive_search(model.lm.eval(), prompts, max_new_tokens=5)
    second = contrastive_search(again.lm.eval(), prompts, max_new_tokens=5)
    assert torch.equal(first, second)


def test_recipe_runs(tmp_path):
    from nearfar.training.recipe import load

    for name in ("simctg", "simctg-gpt2"):
        recipe = load(name)
        assert recipe.method["margin"] == 0.5
    small = {
        "model.name": "tiny",
        "model.vocab_size": 500,
        "data.validation": None,
        "data.limit": 40,
        "monitor": "val_loss",
    }
    run = load("simctg", small | {"steps": 2, "batch_size": 4, "accumulate": 1, "progress": False}).run(
        tmp_path / "run"
    )
    assert run.step == 2
    assert language_model(tmp_path / "run" / "model").lm.config.hidden_size == 128
