"""A language model that sees pictures in its upper layers: the model below to the bit, and what no embedding sees."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch

import nearfar
from models.interleaved_work import PIXELS, SMALL, TEXTS, TOKENIZER, VIT, gpt2, llama, made, opt, trained
from nearfar.errors import UserError
from nearfar.models import InterleavedModel, create, interleaved_model
from nearfar.models.vlm.interleaved.media_reading import states_kept

DOCUMENTS = ["<visual>a red car<visual>fish", "see <visual>two dogs<visual>a tree", "<visual>fish"]


@pytest.fixture(scope="module")
def model():
    return trained(made())


@pytest.fixture(scope="module")
def pixels():
    return PIXELS.clone()


@pytest.mark.parametrize("language", [llama, gpt2, opt])
def test_with_gates_at_0_it_is_the_language_model_to_the_bit(pixels, language):
    model = made(language)
    plain = model.tokenizer(["a red car near fish", "two dogs"], padding=True, return_tensors="pt")
    plain = {name: plain[name] for name in ("input_ids", "attention_mask")}
    alone = model.lm(**plain).logits
    with model.reading(pixels[:2], plain["input_ids"]) as lm:
        read = lm(**plain).logits
    known = [n for n in range(alone.shape[2]) if n not in model.mark_tokens.marks]
    assert torch.equal(read[..., known], alone[..., known])
    words = model.sequences(model.tokenize(DOCUMENTS))
    table, marks = model.lm.get_input_embeddings(), model.mark_tokens.marks
    inputs = table(words.ids.where(words.ids < table.num_embeddings, 0))
    for mark, row in zip(marks, model.mark_tokens.input, strict=True):
        inputs = torch.where((words.ids == mark)[..., None], row, inputs)
    alone = model.lm(inputs_embeds=inputs, attention_mask=words.mask).logits[:, :-1]
    for pictures in (pixels, -pixels):
        assert torch.equal(model.logits(pictures, words)[..., known], alone[..., known])


@pytest.mark.parametrize("language", [gpt2, opt])
def test_blocks_act_in_language_models_of_other_kinds(pixels, language):
    model = trained(made(language))
    words = model.sequences(model.tokenize(DOCUMENTS))
    one, other = model.logits(pixels, words), model.logits(-pixels, words)
    assert not torch.allclose(one, other)
    changed = words.ids.clone()
    changed[words.mask == 0] = 7
    padded = model.logits(pixels, words._replace(ids=changed))
    torch.testing.assert_close(padded[words.targets[:, 1:] >= 0], one[words.targets[:, 1:] >= 0], rtol=1e-4, atol=1e-5)
    assert torch.isfinite(model.encode_text(model.tokenize(TEXTS))).all()


def test_a_text_s_embedding_knows_of_no_picture_and_of_no_block(model, pixels):
    tokens = model.tokenize(TEXTS)
    one, other = (model.encode_and_score(each[:, 0], tokens) for each in (pixels, -pixels))
    assert torch.equal(one.text, other.text)
    assert not torch.allclose(one.image, other.image)
    assert not torch.allclose(one.likelihoods.log_likelihood, other.likelihoods.log_likelihood)
    torch.testing.assert_close(one.text, model.encode_text(tokens), rtol=1e-5, atol=1e-5)
    further = deepcopy(model)
    with torch.no_grad():
        for weight in further.blocks.parameters():
            weight.add_(1)
        for layer in further.lm.model.layers[2:]:
            layer.mlp.down_proj.weight.mul_(2)
    assert torch.equal(further.encode_and_score(pixels[:, 0], tokens).text, one.text)
    assert torch.equal(further.encode_text(tokens), model.encode_text(tokens))


def test_a_picture_s_embedding_knows_of_no_text(model, pixels):
    one, other = (model.encode_and_score(pixels[:, 0], model.tokenize(each)) for each in (TEXTS, TEXTS[::-1]))
    assert torch.equal(one.image, other.image)
    torch.testing.assert_close(one.image, model.encode_image(pixels[:, 0]))
    several = model.encode_image(pixels)
    each = torch.stack([model.image_projection(model.picture_tokens(pixels[:, n])[:, 0]) for n in range(2)])
    torch.testing.assert_close(several, each.mean(0))
    assert model.encode_image(pixels, normalize=True).norm(dim=1).tolist() == pytest.approx([1] * 3)


def test_pictures_that_are_not_there_count_for_nothing(model, pixels):
    tokens, counts = model.tokenize(["<visual>a red car", "<visual>fish<visual>a tree"]), torch.tensor([1, 2])
    some, rubbish = pixels[:2].clone(), pixels[:2].clone()
    rubbish[0, 1] = 1e3
    one, other = (model.encode_and_score(each, tokens, counts=counts) for each in (some, rubbish))
    for left, right in zip(one[:2], other[:2], strict=True):
        assert torch.equal(left, right)
    assert torch.equal(one.likelihoods.log_likelihood, other.likelihoods.log_likelihood)
    torch.testing.assert_close(one.image[0], model.encode_image(pixels[:1, 0])[0])
    rows = model.encode_and_score(some, tokens, counts=counts, rows=torch.tensor([1]))
    torch.testing.assert_close(rows.image, one.image[1:])
    torch.testing.assert_close(rows.text, one.text[1:])
    nobody = model.encode_and_score(some, tokens, counts=counts, rows=torch.tensor([], dtype=torch.long))
    assert nobody.image.shape == nobody.text.shape == (0, 12)


def test_padding_and_what_stands_beside_a_text_change_nothing_unless_it_is_to(pixels, model):
    tokens = model.tokenize(TEXTS)
    whole = model.encode_text(tokens)
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(whole[row], model.encode_text(model.tokenize([text]))[0], rtol=1e-5, atol=1e-5)
    scores = model.likelihoods(pixels[:, 0], tokens)
    alone = model.likelihoods(pixels[2:, 0], model.tokenize(TEXTS[2:]))
    torch.testing.assert_close(
        scores.log_likelihood[2][scores.mask[2]], alone.log_likelihood[alone.mask], rtol=1e-5, atol=1e-5
    )
    released = trained(made(attend_padding=True, text_layers=1))
    beside, by_itself = released.encode_text(tokens)[2], released.encode_text(released.tokenize(TEXTS[2:]))[0]
    assert not torch.allclose(beside, by_itself, rtol=1e-3, atol=1e-3)


def test_a_text_s_state_is_read_after_as_many_layers_as_is_said():
    for layers in (0, 1, 2):
        model = made(text_layers=layers)
        tokens = model.tokenize(TEXTS)
        words = model.sequences(tokens)
        with model.reading(None, torch.zeros_like(words.ids)) as lm:
            states = lm(input_ids=words.ids, attention_mask=words.mask, output_hidden_states=True).hidden_states
        own = model.text_projection(model.text_pooler(states[layers], words.mask))
        torch.testing.assert_close(model.encode_text(tokens), own, rtol=1e-5, atol=1e-5)


def test_words_see_the_last_picture_or_all_before_them(pixels):
    for attend in ("latest", "all"):
        model = trained(made(attend=attend, unimodal_layers=3))
        words = model.sequences(model.tokenize(["see <visual>a red car<visual>fish"]))
        first, second = (words.ids[0] == model.mark_tokens.marks.picture).nonzero()[:, 0].tolist()

        def behind_the_block(pictures, model=model, words=words):
            with model.reading(pictures, words.ids) as lm, states_kept(lm, 3) as kept:
                lm(input_ids=words.ids)
            return kept[0]

        before, length = behind_the_block(pixels[:1]), words.ids.shape[1]
        sees = {0: range(first, second if attend == "latest" else length), 1: range(second, length)}
        for picture in range(2):
            changed = pixels[:1].clone()
            changed[0, picture] *= -1
            differs = (behind_the_block(changed) != before).any(-1)[0]
            assert differs.nonzero()[:, 0].tolist() == list(sees[picture])


def test_blocks_the_marks_and_the_resampler_are_trained_and_nothing_else():
    model = made(interval=1).train()
    trained_parts = {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    heads = {"text_pooler", "image_projection", "text_projection"}
    assert trained_parts == {"resampler", "blocks", "mark_tokens"} | heads
    assert (list(model.blocks), list(made().blocks)) == (["2", "3"], ["2"])
    assert not model.lm.training
    assert not model.image.training
    by_hand = made(unimodal_layers=0, interval=1, compress=1)
    assert list(by_hand.blocks) == ["0", "1", "2", "3"]
    before = deepcopy(model.lm.state_dict())
    out = model.encode_and_score(torch.randn(3, 3, 16, 16), model.tokenize(TEXTS))
    (out.image.sum() + out.text.sum() - out.likelihoods.log_likelihood.sum()).backward()
    assert all(w.grad is None for part in (model.lm, model.image) for w in part.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.lm.state_dict().items())
    assert model.mark_tokens.input.grad.abs().min() >= 0
    assert model.mark_tokens.output.grad[1].abs().sum() > 0


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_nothing_of_a_call_is_left_behind(model, pixels):
    before, tokens = hooks(model), model.tokenize(TEXTS)
    model.encode_text(tokens), model.likelihoods(pixels[:, 0], tokens), model.caption(pixels[:, 0], max_tokens=2)
    assert hooks(model) == before
    with pytest.raises(RuntimeError), model.reading(pixels, tokens["input_ids"]):
        raise RuntimeError("stopped")
    with pytest.raises(UserError, match="2 marks"):
        model.likelihoods(pixels[:, 0], model.tokenize(DOCUMENTS))
    with pytest.raises(ValueError, match="input_ids"), model.reading(pixels, tokens["input_ids"]) as lm:
        lm()
    assert hooks(model) == before
    assert torch.equal(model.lm(**{n: tokens[n] for n in tokens}).logits, model.lm(**dict(tokens)).logits)


def test_it_is_saved_and_opened(model, pixels, tmp_path):
    model = deepcopy(model)
    model.temperature = 0.05
    again = nearfar.load(model.save_pretrained(tmp_path / "model"))
    assert isinstance(again, InterleavedModel)
    tokens = model.tokenize(DOCUMENTS)
    assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))
    assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))
    assert torch.equal(
        again.likelihoods(pixels, tokens).log_likelihood, model.likelihoods(pixels, tokens).log_likelihood
    )
    assert (again.temperature, again.frozen, again.made_of) == (0.05, model.frozen, model.made_of)
    assert {n for n, w in again.named_parameters() if w.requires_grad} == {
        n for n, w in model.named_parameters() if w.requires_grad
    }
    assert "Pictures and texts in one space" in (tmp_path / "model" / "README.md").read_text()
    vectors = again.encode(["a red car", np.zeros((16, 16, 3), np.uint8)], normalize_embeddings=True)
    assert vectors.shape == (2, 12)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"unimodal_layers": -1}, "interleaved is"), ({"attend": "some"}, "interleaved is"), ({"os": 1}, "interleaved is"),
     ({"unimodal_layers": 4}, "at least the last"), ({"latents": 2}, "does not fit")],
)  # fmt: skip
def test_a_damaged_folder_is_named(model, tmp_path, change, words):
    file = model.save_pretrained(tmp_path / "model") / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"interleaved": config["interleaved"] | change}))
    with pytest.raises(UserError, match=words):
        nearfar.load(tmp_path / "model")


def test_settings_that_cannot_be_are_named():
    for settings, words in (
        ({"unimodal_layers": 4}, "at least the last"),
        ({"text_layers": 3}, "text_layers=3"),
        ({"interval": 0}, "interval"),
        ({"attend": "first"}, "attend='first'"),
        ({"compress": 3}, "compress=3"),
        ({"max_length": 200}, "200 tokens are more than the 96 positions"),
    ):
        with pytest.raises(UserError, match=words):
            made(**settings)
    with pytest.raises(UserError, match="keeps its own tokenizer"):
        interleaved_model(VIT, "smollm2", tokenizer=TOKENIZER)
    pair = create("tiny", tokenizer=TOKENIZER)
    own = interleaved_model(pair, llama(), **{**SMALL, "image_size": None})
    assert own.image is not pair.image
    assert own.image_size == pair.image_size


def test_a_question_is_answered_by_one_of_some_answers(model, pixels):
    (best, share), *_ = model.answer(pixels[:, 0], ["what is it"] * 3, ["a red car", "fish", "a tree"])
    prompts = model.tokenize(["what is it"] * 3)
    score = torch.stack(
        [model.likelihoods(pixels[:, 0], model.tokenize([each] * 3), prompts).log_likelihood.sum(1)[0]
         for each in ("a red car", "fish", "a tree")]
    )  # fmt: skip
    assert ("a red car", "fish", "a tree")[score.argmax()] == best
    assert share == pytest.approx(score.softmax(0).max().item(), rel=1e-4)
