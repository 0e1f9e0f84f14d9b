"""COCONUT: without its losses it is experience replay, its teacher stands still, its total is the formula's."""

import numpy as np
import pytest
import torch

from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.losses import RehearsalContrastive
from nearfar.methods import COCONUT, Transcription, find
from nearfar.models import sound_encoder, sound_transcriber
from nearfar.models.sound.sound_tower import masked_mean

TEXTS = ["turn on the light", "play some jazz", "stop now"]
SMALL = {"width": 16, "layers": 1, "decoder_layers": 1, "heads": 2, "embed_dim": 8, "mels": 8}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return sound_transcriber(tokenizer=train_tokenizer(TEXTS * 3), classes=3, **SMALL)


def batch_of(model, memory=(1, 1, 0, 0, 0, 0)):
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(6, 20, dtype=torch.long)
    mask[::2, 13:] = 0
    return {
        "audio": {"input_features": torch.rand(6, 20, 8, generator=generator), "attention_mask": mask},
        "text": model.tokenize(TEXTS * 2),
        "label": torch.tensor([0, 1, 2] * 2),
        "is_memory": torch.tensor(memory),
    }


def gradients(method, batch):
    method.zero_grad()
    out = method(batch)
    out["loss"].backward()
    return out, {name: p.grad.clone() for name, p in method.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("memory", [(1, 1, 0, 0, 0, 0), (0,) * 6], ids=["rehearsed", "first task"])
def test_without_its_losses_it_is_experience_replay(model, memory):
    batch = batch_of(model, memory)
    expected, of_replay = gradients(Transcription(model), batch)
    out, own = gradients(COCONUT(model, lambda_mm=0, lambda_nspt=0), batch)
    assert torch.equal(out["loss"], expected["loss"])
    assert own.keys() == of_replay.keys()
    assert all(torch.equal(own[name], value) for name, value in of_replay.items())


def test_without_rehearsed_sounds_there_is_no_nspt(model):
    batch = batch_of(model, (0,) * 6)
    out, own = gradients(COCONUT(model, lambda_mm=0, lambda_nspt=3.0), batch)
    expected, of_ordinary = gradients(Transcription(model), {k: v for k, v in batch.items() if k != "is_memory"})
    assert torch.equal(out["loss"], expected["loss"])
    assert "nspt" not in out
    assert all(torch.equal(own[name], value) for name, value in of_ordinary.items())


def test_the_total_is_the_sum_of_its_losses(model):
    method, batch = COCONUT(model, lambda_mm=0.3, lambda_nspt=2.0), batch_of(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    out = method(batch)
    a, a_teacher = (masked_mean(*each.encode(batch["audio"])) for each in (method.model, method.teacher))
    nspt = RehearsalContrastive(0.1, learnable=False)(a, a_teacher, batch["label"], batch["is_memory"])
    assert out["nspt"].item() == pytest.approx(nspt.item(), rel=1e-5)
    # L_MM by hand, of the four new sounds, classes 2, 0, 1, 2.
    unit = torch.nn.functional.normalize
    x = unit(model.encode_audio(batch["audio"]), dim=1)[2:] / 0.1
    s = (x @ unit(model.encode_text(batch["text"]), dim=1)[2:].T).detach()
    same = (batch["label"][2:, None] == batch["label"][None, 2:]).float()
    ways = [-((w - w.logsumexp(1, keepdim=True)) * same).sum(1) / same.sum(1) for w in (s, s.T)]
    assert out["mm"].item() == pytest.approx(((ways[0].mean() + ways[1].mean()) / 2).item(), rel=1e-5)
    assert out["loss"].item() == pytest.approx((out["asr"] + 0.3 * out["mm"] + 2 * out["nspt"]).item(), rel=1e-6)


def test_padded_frames_change_nothing(model):
    method, batch = COCONUT(model), batch_of(model)
    expected = method(batch)["loss"].item()
    batch["audio"]["input_features"][batch["audio"]["attention_mask"] == 0] = 9.0
    assert method(batch)["loss"].item() == pytest.approx(expected, rel=1e-6)


def test_the_teacher_stands_still(model):
    method = COCONUT(model).train()
    assert method.model.training
    assert not any(module.training for module in method.teacher.modules())
    before = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
    method(batch_of(model))["loss"].backward()
    optimizer.step()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in method.teacher.state_dict().items())
    assert not torch.equal(method.model.output.weight, method.teacher.output.weight)


def test_mm_in_the_first_task_alone(model):
    method = COCONUT(model, mm="first")
    assert "mm" in method(batch_of(model, (0,) * 6))
    assert "mm" not in method(batch_of(model))
    assert "mm" not in COCONUT(model)(batch_of(model, (1,) * 6))


def test_the_student_learns_what_the_teacher_writes_of_rehearsed_sounds(model):
    """S-KD: with a teacher that writes the truth it is no distillation; else the targets of the rehearsed change."""
    batch = batch_of(model)
    method = COCONUT(model, lambda_mm=0, lambda_nspt=0, distil="sequence")
    targets = method._targets(batch)
    heard = method.teacher.transcribe({name: value[:2] for name, value in batch["audio"].items()})
    assert targets["label"].tolist() == [each.label for each in heard] + [2, 0, 1, 2]
    words = model.tokenizer.batch_decode(targets["text"]["input_ids"].tolist(), skip_special_tokens=True)
    assert [each.strip() for each in words] == [each.text for each in heard] + [TEXTS[2], *TEXTS]
    assert method._targets(batch_of(model, (0,) * 6))["text"]["input_ids"].equal(batch["text"]["input_ids"])


def test_decoding_learns_what_was_said(model):
    """A few sounds are learned by heart, and then written, class and words."""
    batch, method = batch_of(model, (0,) * 6), Transcription(model)
    batch["audio"]["input_features"] = torch.eye(8)[batch["label"]][:, None].expand(6, 20, 8).clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        method(batch)["loss"].backward()
        optimizer.step()
    assert [tuple(each) for each in model.transcribe(batch["audio"])] == list(enumerate(TEXTS)) * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"denominator": "sum"}, "denominator='sum': choose one of softmax, literal"),
        ({"mm": "last"}, "mm='last': choose one of all, first"),
        ({"lambda_mm": -1}, "lambda_mm=-1: must be 0 or above"),
        ({"lambda_nspt": float("nan")}, "lambda_nspt=nan: must be 0 or above"),
        ({"temperature": 0}, "temperature=0: must be above 0"),
    ],
)
def test_what_is_refused(model, settings, message):
    with pytest.raises(UserError, match=message):
        COCONUT(model, **settings)


def test_models_and_labels_that_do_not_fit(model):
    with pytest.raises(UserError, match="writes no words of sounds"):
        find("coconut")(sound_encoder(tokenizer=train_tokenizer(TEXTS, 300), width=16, layers=1, heads=2))
    batch = batch_of(model)
    for label in (3, -1):
        batch["label"][0] = label
        with pytest.raises(UserError, match="the model has 3 classes"):
            Transcription(model)(batch)


def test_a_saved_model_writes_the_same(model, tmp_path):
    import nearfar

    audio = model.preprocess_audio([(np.sin(np.arange(4000) / 9), 16000)])
    model.save_pretrained(tmp_path / "model")
    again = nearfar.load(tmp_path / "model")
    assert again.transcribe(audio) == model.transcribe(audio)
    assert torch.equal(again.encode(audio)[0], model.eval().encode(audio)[0])
