"""S-VCO on a vision-language model: which likelihoods it reads, what the reference is, and what is kept of it."""

import math
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

import nearfar
from nearfar.data import Loader, Records, train_tokenizer
from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.methods import DPO, SVCO, ImageDPO
from nearfar.methods.lvlm import preferences
from nearfar.methods.lvlm.pair_losses import PairLikelihoods, dpo, image_dpo, svco
from nearfar.methods.lvlm.preferences import cropped
from nearfar.models import create, vision_language_model

TEXTS = ["a red car", "two small dogs near a tree", "fish"]
OTHERS = ["a blue car near a tree", "two small fish", "a red fish near a car"]
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
VIT |= {"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def made(seed=0, **settings):
    torch.manual_seed(seed)
    tokenizer = train_tokenizer((TEXTS + OTHERS) * 3, 300)
    model = vision_language_model(VIT, "tiny", tokenizer=tokenizer, image_size=16, **settings)
    with torch.no_grad():  # fresh weights of this size say nearly the same whatever they read
        for name, weight in model.named_parameters():
            weight.mul_(4 if weight.ndim > 1 and not name.startswith("image") else 1)
    return model


@pytest.fixture(scope="module")
def model():
    return made()


def batch_of(model, dtype=torch.float32):
    pictures = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    batch = {"image": pictures[0], "image2": pictures[1], "index": torch.tensor([4, 7, 9])}
    return batch | {"text": model.tokenize(TEXTS), "text2": model.tokenize(OTHERS)}


def moved(model):
    """The model after some training: all its weights a little elsewhere."""
    other = deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    return other


def likelihood(model, picture, text):
    """The sum over a text's tokens, alone and without padding."""
    score = model.likelihoods(None if picture is None else picture[None], model.tokenize([text])).log_likelihood
    return score.sum().item()


def one_by_one(model, batch):
    rows = {"own": [], "other": [], "alone": []}
    for first, second, text, other in zip(batch["image"], batch["image2"], TEXTS, OTHERS, strict=True):
        rows["own"].append([likelihood(model, first, text), likelihood(model, second, other)])
        rows["other"].append([likelihood(model, second, text), likelihood(model, first, other)])
        rows["alone"].append([likelihood(model, None, text), likelihood(model, None, other)])
    return PairLikelihoods(*(torch.tensor(each, dtype=torch.float64) for each in rows.values()))


@torch.no_grad()
def test_the_losses_are_those_of_six_likelihoods_computed_one_by_one(model):
    start = deepcopy(model).double().eval()
    batch, later = batch_of(model, torch.float64), moved(start)
    policy, reference = one_by_one(later, batch), one_by_one(start, batch)
    losses = {SVCO: svco, DPO: dpo, ImageDPO: image_dpo}
    for kind, loss in losses.items():
        method = kind(start).eval()
        method.model = later
        assert method(batch)["loss"].item() == pytest.approx(loss(policy, reference).item(), rel=1e-9)
    method = SVCO(start, anchor=0.3).eval()
    method.model = later
    logs = method(batch)
    count = (
        later.sequences(batch["text"]).targets[:, 1:].ge(0).sum()
        + later.sequences(batch["text2"]).targets[:, 1:].ge(0).sum()
    )
    token_loss = -policy.own.sum() / count
    assert logs["token_loss"].item() == pytest.approx(token_loss.item(), rel=1e-9)
    assert logs["loss"].item() == pytest.approx((svco(policy, reference) + 0.3 * token_loss).item(), rel=1e-9)
    change = {name: a - b for name, a, b in zip(policy._fields, policy, reference, strict=True)}
    for name, each in change.items():
        assert logs[f"{name}_reward"].item() == pytest.approx(each.mean().item(), rel=1e-8)
    attend, reject = change["own"] - change["alone"], change["alone"] - change["other"]
    assert logs["attend_margin"].item() == pytest.approx(attend.mean().item(), rel=1e-8)
    assert logs["attend_accuracy"].item() == pytest.approx((attend > 0).double().mean().item())
    assert logs["reject_margin"].item() == pytest.approx(reject.mean().item(), rel=1e-8)
    assert logs["reject_accuracy"].item() == pytest.approx((reject > 0).double().mean().item())


def test_before_the_first_step_it_is_four_times_ln_2_and_words_alone_have_no_gradient(model):
    policy = deepcopy(model).double().train()
    logs = SVCO(policy)(batch_of(model, torch.float64))
    assert logs["loss"].item() == pytest.approx(4 * math.log(2), abs=1e-9)
    assert logs["attend_margin"] == logs["reject_margin"] == logs["own_reward"] == 0
    logs["loss"].backward()
    assert any(weight.grad.abs().max() > 0 for weight in policy.parameters() if weight.grad is not None)


def test_a_model_that_sees_no_picture_learns_nothing(model):
    class Blind(type(model)):
        def logits(self, pixels, words):
            return super().logits(None, words)

    blind = deepcopy(model).double()
    blind.__class__ = Blind
    method = SVCO(blind).train()
    loss = method(batch_of(model, torch.float64))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(4 * math.log(2), abs=1e-12)
    assert all(w.grad is None or w.grad.abs().max() < 1e-12 for w in method.model.parameters())


def test_padding_and_what_stands_beside_a_pair_change_nothing(model):
    method = SVCO(made(1)).eval()
    method.model = deepcopy(model).eval()
    batch = batch_of(model)
    whole = method(batch)["loss"]
    padded = batch | {name: {k: F.pad(v, (0, 5)) for k, v in batch[name].items()} for name in ("text", "text2")}
    torch.testing.assert_close(method(padded)["loss"], whole, rtol=1e-5, atol=1e-5)
    parts = []
    for row in range(3):
        cut = {k: v[row : row + 1] for k, v in batch.items() if not isinstance(v, dict)}
        parts.append(
            method(cut | {k: model.tokenize(texts[row : row + 1]) for k, texts in (("text", TEXTS), ("text2", OTHERS))})
        )
    torch.testing.assert_close(torch.stack([each["loss"] for each in parts]).mean(), whole, rtol=1e-4, atol=1e-5)
    swapped = batch | {"image": batch["image2"], "image2": batch["image"]}
    swapped |= {"text": batch["text2"], "text2": batch["text"]}
    torch.testing.assert_close(method(swapped)["loss"], whole, rtol=1e-5, atol=1e-5)


def test_nothing_of_the_reference_and_of_frozen_parts_is_trained(model):
    policy = deepcopy(model).freeze("image")
    method = SVCO(policy).train()
    assert not method.reference.copy.training
    before = deepcopy(method.reference.state_dict())
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        method(batch_of(model))["loss"].backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in method.reference.state_dict().items())
    assert all(weight.grad is None for weight in method.reference.parameters())
    assert all(weight.grad is None for weight in method.model.image.parameters())
    assert all(weight.requires_grad for weight in method.model.projector.parameters()), "a copy is frozen"
    assert method(batch_of(model))["loss"] < 4 * math.log(2)


def test_prompts_stand_before_both_texts_and_have_no_loss(model):
    batch = batch_of(model)
    prompts = ["two small", "a red fish near", "tree"]
    with_prompts = SVCO(model).eval()(batch | {"prompt": model.tokenize(prompts)})
    score, mask = model.likelihoods(batch["image"], batch["text"], prompts)
    score2, mask2 = model.likelihoods(batch["image2"], batch["text2"], prompts)
    expected = -(score.sum() + score2.sum()) / (mask.sum() + mask2.sum())
    torch.testing.assert_close(with_prompts["token_loss"], expected, rtol=1e-5, atol=1e-5)
    assert abs(with_prompts["token_loss"] - SVCO(model).eval()(batch)["token_loss"]) > 1e-3


def begun(model, ids=(4, 7, 9), **settings):
    method = SVCO(deepcopy(model), cache_reference=True, **settings).train()
    method.begin(DataInfo(size=len(ids), ids=lambda: ids))
    return method


def step(method, batch):
    method.before_step()
    method.zero_grad()
    logs = method(batch)
    logs["loss"].backward()
    method.after_step(1)
    return logs["loss"]


def test_the_reference_is_read_once_a_sample(model, monkeypatch):
    method, batch = begun(model), batch_of(model)
    plain = SVCO(deepcopy(model)).train()
    first = step(method, batch)
    for other in (method, plain):
        with torch.no_grad():
            other.model.lm.lm_head.weight.mul_(1.1)
    monkeypatch.setattr(method.reference, "of", None)  # nobody may call it
    assert step(method, batch) != first
    torch.testing.assert_close(method(batch)["loss"], plain(batch)["loss"], rtol=1e-6, atol=1e-6)
    other = begun(model)
    other.load_state_dict(method.state_dict())
    monkeypatch.setattr(other.reference, "of", None)
    torch.testing.assert_close(other(batch)["loss"], method(batch)["loss"])


def test_a_batch_of_which_some_were_never_read_is_read_whole(model):
    """What was never read passes for no known number."""
    method, batch = begun(model, ids=(4, 7, 9, 5)), batch_of(model)
    plain = SVCO(deepcopy(model)).train()
    step(method, batch)
    mixed = batch | {"index": torch.tensor([5, 7, 9])}
    torch.testing.assert_close(method(mixed)["loss"], plain(batch)["loss"], rtol=1e-6, atol=1e-6)


def test_what_is_kept_is_refused_for_other_pictures_and_texts(model):
    batch = batch_of(model)
    changes = {
        "image": batch["image"].flip(-1),
        "image2": batch["image2"] + 0.01,
        "text": model.tokenize(["a blue car", *TEXTS[1:]]),
        "text2": model.tokenize([" ".join(reversed(text.split())) for text in OTHERS]),
    }
    method = begun(model)
    step(method, batch)
    for key, value in changes.items():
        with pytest.raises(UserError, match=r"cache_reference keeps .* samples .*4.* have other pictures or texts"):
            method(batch | {key: value})
    padded = batch | {"text": {name: F.pad(each, (0, 4)) for name, each in batch["text"].items()}}
    step(method, padded)
    assert method.eval()(batch | {"image": changes["image"]})["loss"].isfinite(), "validation keeps nothing"
    with pytest.raises(UserError, match="call begin"):
        SVCO(model, cache_reference=True).train()(batch)
    with pytest.raises(UserError, match="samples 4, 7, 9 are not in the data"):
        begun(model, ids=(1, 2, 3))(batch)


def test_a_forward_pass_alone_leaves_nothing(model):
    method, batch = begun(model), batch_of(model)
    method(batch)
    method.after_step(1)
    assert method.cache.read("likelihoods", batch["index"]).isnan().all()


def test_with_adapters_the_reference_is_the_model_without_them(model):
    import peft

    copied = SVCO(deepcopy(model)).train()
    options = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    adapted = deepcopy(model)
    adapted.lm = peft.get_peft_model(adapted.lm, options)
    assert SVCO(adapted).reference.copy is not None, "the projector is trained, too"
    method = SVCO(adapted.freeze("image", "projector")).train()
    assert method.reference.copy is None
    batch = batch_of(model)
    torch.testing.assert_close(method(batch)["loss"], copied(batch)["loss"], rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        for name, weight in method.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    loss = method(batch)["loss"]
    assert abs(loss - 4 * math.log(2)) > 1e-4
    loss.backward()
    trained = {name for name, weight in method.model.lm.named_parameters() if weight.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)
    plain = SVCO(deepcopy(model)).eval()
    plain.model = method.model
    torch.testing.assert_close(plain(batch)["loss"], loss.detach(), rtol=1e-5, atol=1e-5)


def test_crops_are_the_same_for_model_and_reference_and_lie_within(model):
    torch.manual_seed(0)
    method = ImageDPO(model, rejected="crop").eval()
    assert method(batch_of(model))["loss"].item() == pytest.approx(math.log(2), abs=1e-6)
    ramp = torch.linspace(-1, 1, 16).expand(200, 3, 16, 16)
    across = cropped(ramp)
    widths = across[:, 0].amax((1, 2)) - across[:, 0].amin((1, 2))
    assert ramp.min() <= across.min() < across.max() <= ramp.max()
    assert 0.02 < (widths.max() / 2) <= 0.2**0.5 + 0.05
    assert across[:, 0, 0, 0].std() > 0.3, "somewhere else each time"
    torch.testing.assert_close(across, across[:, :1, :1].expand_as(across), rtol=0, atol=1e-5)


def test_what_is_rejected_is_a_crop_of_the_text_s_own_picture(model, monkeypatch):
    batch, method = batch_of(model), ImageDPO(model, rejected="crop").eval()
    policies = []
    loss_of = lambda policy, reference: policies.append(policy) or image_dpo(policy, reference)  # noqa: E731
    monkeypatch.setattr(method, "loss_of", loss_of)
    monkeypatch.setattr(preferences, "cropped", lambda pixels: pixels.flip(-1))  # stands for any change of each
    method(batch)
    pairs = zip(batch["image"].flip(-1), batch["image2"].flip(-1), TEXTS, OTHERS, strict=True)
    expected = torch.tensor(
        [[likelihood(model, one, text), likelihood(model, two, text2)] for one, two, text, text2 in pairs]
    )
    torch.testing.assert_close(policies[0].other, expected, rtol=1e-5, atol=1e-4)


def test_what_cannot_be_is_named(model):
    with pytest.raises(UserError, match="a DualEncoder writes no captions"):
        SVCO(create("tiny", tokenizer=model.tokenizer))
    with pytest.raises(UserError, match="four are needed"):
        SVCO(model, betas=[0.1])
    with pytest.raises(UserError, match="anchor=-1"):
        DPO(model, anchor=-1)
    with pytest.raises(UserError, match="a number above 0"):
        ImageDPO(model, beta=0)
    with pytest.raises(UserError, match="rejected='noise'"):
        ImageDPO(model, rejected="noise")
    with pytest.raises(UserError, match="leave it out"):
        ImageDPO(model, rejected="crop", cache_reference=True)


def painted(shades=(40, 90, 160, 220)):
    from PIL import Image

    rows = []
    for shade in shades:
        first, second = (Image.new("RGB", (16, 16), rgb) for rgb in ((shade, 0, 0), (0, 0, shade)))
        rows.append({"image": first, "image2": second, "text": "a red car", "text2": "a blue car"})
    return Records(rows * 2, name="painted")


def test_it_learns_which_picture_a_text_is_of(model):
    source = painted()
    method = SVCO(deepcopy(model))
    nearfar.train(method, source, steps=30, batch_size=8, lr=1e-3, warmup=0.1, progress=False, report=False)
    [batch] = Loader(
        source,
        batch_size=8,
        shuffle=False,
        views="none",
        picture_pairs=True,
        image_size=16,
        tokenizer=(model.tokenizer),
    )
    logs = method.eval()(batch)
    assert logs["attend_accuracy"] == logs["reject_accuracy"] == 1
    assert logs["loss"] < 2


def test_data_without_second_pictures_are_refused_before_the_first_step(model):
    source = painted().map(lambda record: {key: record[key] for key in ("image", "text")}, columns=["image", "text"])
    with pytest.raises(UserError, match=r"painted has no second picture, 'image2'.* columns are: image, text\. Name"):
        nearfar.train(SVCO(model), source, steps=1, batch_size=8, progress=False, report=False)
    source = painted().map(lambda record: record, columns=["image", "image2", "text"])
    with pytest.raises(UserError, match="no text of a second picture, 'text2'"):
        nearfar.train(DPO(model), source, steps=1, batch_size=8, progress=False, report=False)
