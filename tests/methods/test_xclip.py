"""X-CLIP's training (arXiv 2208.02816): hand-worked targets, frozen texts, learning rates, what a step needs."""

import math

import pytest
import torch
from torch.nn import functional as F

import nearfar
from nearfar.data import Records
from nearfar.data.batches.data_info import DataInfo
from nearfar.data.fields.text import train_tokenizer
from nearfar.errors import UserError
from nearfar.methods import XCLIP
from nearfar.methods.video.clip_mixing import cutmix, mix_clips, mixup, smoothed
from nearfar.models import create, video_encoder
from nearfar.training import TrainConfig
from nearfar.training.loop.optim import build_optimizer, set_lr

VIT = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"intermediate_size": 32, "patch_size": 8}
TEXT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT |= {"intermediate_size": 32, "max_position_embeddings": 16}
NAMES = ["growing", "shrinking", "moving up", "moving down"]


@pytest.fixture
def model():
    tokenizer = train_tokenizer(NAMES, 300)
    pair = create(image=VIT, text=TEXT, tokenizer=tokenizer, image_size=16, embed_dim=32)
    return video_encoder(pair, frames=4)


def batch(b=4):
    return {"video": torch.randn(b, 4, 3, 16, 16), "label": torch.arange(b) % 4}


def test_targets_and_loss_by_hand():
    targets = smoothed(torch.tensor([0, 2]), 4, 0.1)
    assert targets[0].tolist() == pytest.approx([0.925, 0.025, 0.025, 0.025])
    mixed = mixup(torch.zeros(2, 1, 3, 2, 2), targets, 0.3, torch.tensor([1, 0]))[1][:1]
    assert mixed[0].tolist() == pytest.approx([0.295, 0.025, 0.655, 0.025])
    assert F.cross_entropy(torch.tensor([[2.0, 0, 0, 0]]), mixed).item() == pytest.approx(1.7507530, abs=1e-6)
    assert F.cross_entropy(torch.zeros(1, 4), mixed).item() == pytest.approx(math.log(4))


def test_all_frames_of_a_clip_are_mixed_alike():
    clips = torch.arange(2.0).view(2, 1, 1, 1, 1).expand(2, 3, 3, 4, 4)
    mixed, targets = cutmix(clips, torch.eye(2), (1, 0, 3, 2), torch.tensor([1, 0]))
    rectangle = torch.zeros(4, 4)
    rectangle[0:2, 1:3] = 1
    assert torch.equal(mixed[0], rectangle.expand(3, 3, 4, 4))
    assert torch.equal(mixed[1], 1 - rectangle.expand(3, 3, 4, 4))
    assert targets.tolist() == [[0.75, 0.25], [0.25, 0.75]]


@pytest.mark.parametrize(("a", "b"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_say_how_much_of_each_clip_is_shown(a, b):
    """Clips of one brightness each: the mean of the mixture is the share of the brighter one, and so is its target."""
    clips = torch.arange(2.0).view(2, 1, 1, 1, 1).expand(2, 2, 3, 8, 8)
    shares = []
    for _ in range(40):
        mixed, targets = mix_clips(clips, torch.eye(2), mixup_alpha=a, cutmix_alpha=b)
        torch.testing.assert_close(mixed.mean((1, 2, 3, 4)), targets[:, 1], rtol=0, atol=1e-6)
        shares.append(targets[0, 1].item())
    assert len({round(share, 6) for share in shares}) > 3
    same, _ = mix_clips(clips, torch.eye(2), mixup_alpha=0, cutmix_alpha=0)
    assert same is clips


def test_the_loss_is_cross_entropy_over_all_names(model):
    method, made = XCLIP(model, classes=NAMES).eval(), batch()
    assert method.temperature == 0.01
    cosines = model.similarities(made["video"], model.encode_text(model.tokenize(NAMES)))
    targets = 0.9 * F.one_hot(made["label"], 4) + 0.025
    expected = -(targets * (cosines / 0.01).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(method(made)["loss"], expected)
    assert method.learned() == {"temperature": 0.01}


def test_it_mixes_in_training_alone(model):
    method, made = XCLIP(model, classes=NAMES), batch()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    losses = {mode: {method.train(mode)(made)["loss"].item() for _ in range(4)} for mode in (True, False)}
    assert (len(losses[True]) > 1, len(losses[False])) == (True, 1)


def test_texts_are_the_same_bits_after_training_and_all_else_learns(model):
    before = {name: value.clone() for name, value in model.named_parameters()}
    videos = torch.randint(0, 255, (8, 6, 16, 16, 3), dtype=torch.uint8).numpy()
    records = [{"video": v, "text": NAMES[i % 4], "label": i % 4} for i, v in enumerate(videos)]
    source = Records(records, classes=NAMES)
    nearfar.train(XCLIP(model), source, steps=3, batch_size=4, lr=1e-2, warmup=0, progress=False, report=False)
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    texts = {name for name in before if name.startswith(("pair.text.", "pair.text_projection."))}
    assert texts
    assert not moved & texts
    assert not {name for name, value in model.named_parameters() if value.requires_grad} & texts
    assert {name for name, _ in model.added()} <= moved
    assert any(name.startswith("pair.image.") and "message_" not in name for name in moved)
    assert model.temperature == 0.01


def test_names_are_embedded_once_and_again_when_they_or_the_weights_change(model):
    method, made = XCLIP(model, classes=NAMES), batch(2)
    calls = []
    encode = model.pair.encode_text
    model.pair.encode_text = lambda *arguments: calls.append(model.training) or encode(*arguments)
    with torch.inference_mode():
        method(made)
    method.train()(made)["loss"].backward()
    assert calls == [False], "in evaluation mode, and the mode that was in comes back"
    assert model.training
    other = XCLIP(model, classes=NAMES[:2])
    method.tokens = other.tokens
    method({**made, "label": torch.tensor([0, 1])})
    assert len(calls) == 2
    model.load_state_dict(model.state_dict())
    method({**made, "label": torch.tensor([0, 1])})
    assert len(calls) == 3


def test_what_was_added_learns_ten_times_as_fast_and_all_end_at_the_same_rate(model):
    method = XCLIP(model, classes=NAMES)
    config = TrainConfig(lr=8e-6, min_lr=8e-8, warmup=2, schedule="cosine", weight_decay=0.001)
    optimizer = build_optimizer(method, config)
    names = {id(p): name for name, p in model.named_parameters()}
    grouped = [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]
    added = {name for name, _ in model.added()}
    assert {"prompts.alpha", "integration.time"} < added
    assert any(".message_attn." in name for name in added)
    assert all(name.split(".")[0] in ("prompts", "integration") or "message_" in name for name in added)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set().union(*grouped) == trained
    for group, members in zip(optimizer.param_groups, grouped, strict=True):
        fast = members <= added
        assert fast or not members & added
        assert group["initial_lr"] == pytest.approx(8e-5 if fast else 8e-6)
        if not group["weight_decay"]:
            assert all(model.get_parameter(n).ndim < 2 or "position" in n or "cls" in n or "time" in n for n in members)
    spared = next(members for members in grouped if "integration.time" in members)
    assert "prompts.alpha" in spared
    assert any("position_embeddings" in name for members in grouped[1:2] for name in members)
    rates = []
    for step in (0, 1, 2, 20):
        set_lr(optimizer, step, 20, config)
        rates.append(sorted({group["lr"] for group in optimizer.param_groups}))
    assert rates[0] == pytest.approx([4e-6, 4e-5])
    assert rates[1] == pytest.approx([8e-6, 8e-5])
    assert rates[2] == pytest.approx([8e-6, 8e-5])
    assert rates[3] == pytest.approx([8e-8] * len(rates[3]), rel=1e-6)


def test_what_is_refused(model):
    with pytest.raises(UserError, match=r"this is a DualEncoder: make one of it with nearfar.models.video_encoder"):
        XCLIP(model.pair)
    for setting, value in {"smoothing": 1.0, "mixup": -1.0, "added_lr": 0.0, "temperature": -1.0}.items():
        with pytest.raises(UserError, match=f"{setting} is {value}"):
            XCLIP(model, **{setting: value})
    with pytest.raises(UserError, match=r"has no \{\} for the name"):
        XCLIP(model, template="a video")
    with pytest.raises(UserError, match="names no classes"):
        XCLIP(model).begin(DataInfo(name="clips"))
    with pytest.raises(UserError, match="no class names yet"):
        XCLIP(model)(batch())
    method = XCLIP(model, classes=NAMES)
    for label in (-1, 4):
        with pytest.raises(UserError, match=f"has the label {label}, and there are names for 0 to 3"):
            method({**batch(1), "label": torch.tensor([label])})
