"""A student of an image-text model: the teacher's texts to the bit, another image tower, saved and opened again."""

from copy import deepcopy

import pytest
import torch

import nearfar
from nearfar.data.fields.text import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import create, image_encoder, load, student_encoder

NAMES = ["a cat", "a dog", "a red car"]


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return create("tiny", tokenizer=train_tokenizer(NAMES, 300), temperature=0.05).eval()


def texts(model):
    with torch.no_grad():
        return model.eval().encode_text(model.tokenize(NAMES))


@pytest.mark.parametrize("kind", ["linear", "mlp", "none"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_its_texts_are_the_teachers(kind, dropout):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(NAMES, 300)
    teacher = create("tiny", tokenizer=tokenizer, text_projection=kind, projection_dropout=dropout, temperature=0.05)
    student = student_encoder(teacher, image="micro-resnet")
    assert torch.equal(texts(student), texts(teacher))
    assert (student.temperature, student.max_length, student.embed_dim) == (0.05, teacher.max_length, teacher.embed_dim)
    assert student.frozen == ("text", "text_projection")
    assert not [module for module in student.image_projection.modules() if isinstance(module, torch.nn.Dropout)]
    assert isinstance(student.image_projection, torch.nn.Linear)
    assert student.image_projection.bias is not None


def test_it_shares_nothing_with_the_teacher(teacher):
    before = texts(teacher)
    student = student_encoder(teacher, image="micro-resnet")
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert torch.equal(texts(teacher), before)


def test_adapters_of_the_teachers_texts_are_folded_in(teacher):
    plain = create("tiny", tokenizer=teacher.tokenizer)
    adapted = deepcopy(plain).add_lora("text", rank=2)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name:
                parameter.add_(0.02)
    student = student_encoder(adapted, image="micro-resnet")
    assert student.adapters == {}
    torch.testing.assert_close(texts(student), texts(adapted))
    unadapted = student_encoder(plain, image="micro-resnet")
    assert (texts(student) - texts(unadapted)).abs().max() > 1e-3


@pytest.mark.parametrize("saved", ["image encoder", "dual encoder"])
def test_the_tower_of_a_saved_model_is_copied(teacher, saved, tmp_path):
    other = image_encoder("micro-resnet", projector="simclr") if saved == "image encoder" else teacher
    other.save_pretrained(tmp_path / "run" / "model")
    pixels = torch.rand(2, 3, other.image_size, other.image_size)
    for image in (tmp_path / "run", str(tmp_path / "run" / "model"), other):
        student = student_encoder(teacher, image=image)
        assert student.pixels == other.pixels
        assert all(parameter.requires_grad for parameter in student.image.parameters())
        with torch.no_grad():
            assert torch.equal(student.eval().image(pixels), other.eval().image(pixels))
    frozen = student_encoder(teacher, image=deepcopy(teacher).freeze("image"))
    assert all(parameter.requires_grad for parameter in frozen.image.parameters())
    larger = student_encoder(teacher, image=other, image_size=96)
    assert (larger.image_size, other.image_size) == (96, pixels.shape[-1])


def test_it_is_saved_and_opened_as_any_dual_encoder(teacher, tmp_path):
    teacher.save_pretrained(tmp_path / "teacher")
    student = student_encoder(str(tmp_path / "teacher"), image="micro-resnet").eval()
    student.save_pretrained(tmp_path / "student")
    again = load(tmp_path / "student")
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.encode_image(pixels), student.encode_image(pixels))
    assert torch.equal(texts(again), texts(teacher))


def test_what_is_refused(teacher):
    with pytest.raises(UserError, match="a student has the text side of a dual encoder"):
        student_encoder(image_encoder("micro-resnet"), image="micro-resnet")
    with pytest.raises(UserError, match="leave it out"):
        student_encoder(teacher, image=image_encoder("micro-resnet"), image_pooling="cls")
    with pytest.raises(UserError, match="nowhere/at-all"):
        student_encoder("nowhere/at-all", image="micro-resnet")
    assert nearfar.models.MAKERS["student_encoder"].endswith(":student_encoder")
