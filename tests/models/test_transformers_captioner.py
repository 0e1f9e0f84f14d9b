"""A vision-language model of transformers writes of pictures: alone as among others, with and without a template."""

import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

import nearfar
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import load_captioner
from nearfar.models.vlm.transformers_captioner import TransformersCaptioner

TEMPLATE = (
    "{% for turn in messages %}user {% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}{% endfor %}{% endfor %} it is"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny LLaVA, saved as transformers saves it."""
    path = tmp_path_factory.mktemp("llava") / "model"
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["user it is a red car", "describe all objects near a tree"] * 9, 300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.eos_token = tokenizer.sep_token
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256, initializer_range=0.5,
    )  # fmt: skip
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_token, image_seq_length=4)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(8 if "projector" in name or "vision" in name else 1)
    model.save_pretrained(path)
    size = {"height": 16, "width": 16}
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size=size, crop_size=size), tokenizer=tokenizer, patch_size=8,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=TEMPLATE,
    ).save_pretrained(path)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def pictures():
    draw = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (3, 20, 24, 3), generator=draw, dtype=torch.uint8).numpy()
    return [Image.fromarray(each) for each in noise]


def test_it_writes_of_each_picture_what_it_writes_of_it_alone(folder, pictures):
    model = load_captioner(folder)
    assert isinstance(model, TransformersCaptioner)
    pixels = model.preprocess(pictures)
    prompts = ["describe", "describe all objects near a tree", ""]
    together = model.caption(pixels, prompts, max_tokens=6)
    alone = [model.caption([one], prompt, max_tokens=6)[0] for one, prompt in zip(pixels, prompts, strict=True)]
    assert together == alone == model.caption(pixels, prompts, max_tokens=6)
    assert not any("user" in text and "it is" in text for text in together), "the prompt is not written again"
    assert model.caption([], "x") == []
    assert len(model.caption(pixels, max_tokens=1)) == 3


def test_drawn_tokens_repeat_by_seed(folder, pictures):
    model = load_captioner(folder)
    options = {"do_sample": True, "temperature": 3.0, "max_tokens": 8}
    first, again, other = (model.caption(pictures, "describe", seed=seed, **options) for seed in (1, 1, 2))
    assert first == again != other


def test_without_a_template_the_prompt_follows_the_picture(folder, pictures):
    model = load_captioner(folder)
    assert model._with_picture("describe") == "user <image> describe it is"
    model.processor.chat_template = None
    assert model._with_picture("describe") == "<image>\ndescribe"
    assert len(model.caption(pictures[:1], "describe", max_tokens=2)) == 1


def test_other_models_are_opened_as_before(folder, pictures):
    assert type(load_captioner("starter")) is type(nearfar.load("starter"))
    with pytest.raises(UserError, match="nothing-here"):
        load_captioner(folder.parent / "nothing-here")
    (folder.parent / "empty").mkdir()
    with pytest.raises(UserError):
        load_captioner(folder.parent / "empty")
    with pytest.raises(UserError, match="2 prompts for 3 pictures"):
        load_captioner(folder).caption(pictures, ["a", "b"])
