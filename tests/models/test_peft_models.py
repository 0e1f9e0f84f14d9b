"""Models given to peft, adapters alone, tokens that go to a device, towers that are folders of sentence encoders."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F

import nearfar
from models.dual_families import clip
from nearfar.errors import UserError
from nearfar.files import why
from nearfar.methods import CLIP
from nearfar.models import create

TEXTS = ["a red fox", "the ship at sea runs", "cat"]


def adapted(model, **options):
    import peft

    made = peft.get_peft_model(model, peft.LoraConfig(r=2, **{"target_modules": ["q_proj", "v_proj"], **options}))
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return made


@pytest.fixture
def encoder(tokenizer):
    return nearfar.load(clip().eval(), tokenizer=tokenizer)


def embeddings(model):
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.cat([model.encode_image(pixels), model.encode_text(model.tokenize(TEXTS))])


def test_a_model_given_to_peft_is_trained_saved_and_loaded(encoder, tmp_path):
    model = adapted(encoder)
    assert nearfar.load(model) is encoder
    before = embeddings(encoder)
    batch = {"image": torch.randn(3, 3, 32, 32), "text": model.tokenize(TEXTS)}
    run = nearfar.train(CLIP(model), [batch], steps=2, lr=0.1, warmup=0, out=tmp_path, progress=False, report=False)
    after, again = embeddings(encoder.eval()), nearfar.load(tmp_path)
    assert not torch.equal(before, after)
    assert torch.equal(embeddings(again), after)
    assert again.temperature == run.method.loss.temperature().item()
    names = {name for name, parameter in again.named_parameters() if parameter.requires_grad}
    assert names == {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in names)


def test_adapters_alone(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "base")
    adapted(encoder)
    expected = embeddings(encoder)
    encoder.save_adapters(tmp_path / "adapters")
    assert {path.name for path in (tmp_path / "adapters").iterdir()} == {"adapters.json", "adapters.safetensors"}
    assert torch.equal(
        embeddings(nearfar.load(tmp_path / "base").load_adapters(tmp_path / "adapters").eval()), expected
    )
    nearfar.load(tmp_path / "base").add_lora("image", rank=1).save_adapters(tmp_path / "other")
    (tmp_path / "other" / "adapters.json").write_bytes((tmp_path / "adapters" / "adapters.json").read_bytes())
    with pytest.raises(UserError, match="does not fit this model"):
        nearfar.load(tmp_path / "base").load_adapters(tmp_path / "other")
    with pytest.raises(UserError, match="no adapters can be read"):
        nearfar.load(tmp_path / "base").load_adapters(tmp_path / "base")
    with pytest.raises(UserError, match="has no adapters"):
        nearfar.load(tmp_path / "base").save_adapters(tmp_path)


@pytest.mark.parametrize("options", [{"rank_pattern": {"v_proj": 1}}, {"use_rslora": True}, {"use_dora": True}])
def test_adapters_that_cannot_be_put_in_again_are_refused(options, encoder, tmp_path):
    adapted(encoder, **options)
    with pytest.raises(UserError, match="merge_and_unload"):
        encoder.save_pretrained(tmp_path)


def test_adapters_on_a_model_of_transformers_are_folded_in(tokenizer, tmp_path):
    theirs = adapted(clip().eval())
    ours = nearfar.load(theirs, tokenizer=tokenizer)
    pixels = torch.randn(2, 3, 32, 32)
    expected = theirs.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(ours.encode_image(pixels), expected, atol=1e-5, rtol=1e-5)
    again = nearfar.load(ours.save_pretrained(tmp_path))
    assert torch.equal(again.encode_image(pixels), ours.encode_image(pixels))


def test_tokens_go_to_a_device(encoder):
    tokens = encoder.tokenize(TEXTS)
    moved = tokens.to("meta")
    assert isinstance(tokens, dict)
    assert {value.device.type for value in moved.values()} == {"meta"}
    assert torch.equal(encoder.encode_text(tokens.to("cpu")), encoder.encode_text(tokens))


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_a_tower_that_is_a_sentence_encoder_pools_as_its_folder_states(pooling, vit, tokenizer, tmp_path):
    from transformers import BertConfig, BertModel

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    bert = BertModel(BertConfig(**small, vocab_size=20)).eval()
    bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    kinds = ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    made = create(image=vit, text=str(tmp_path), embed_dim=32, text_projection="none").eval()
    assert made.max_length == 6
    tokens = made.tokenize(TEXTS)
    states, real = bert(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
    last = states[torch.arange(3), real[..., 0].sum(1) - 1]
    mean = (states * real).sum(1) / real.sum(1)
    expected = {"mean": mean, "cls": states[:, 0], "lasttoken": last}[pooling]
    torch.testing.assert_close(made.encode_text(tokens, normalize=True), F.normalize(expected, dim=1))
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}'
    )
    with pytest.raises(UserError, match="pools by"):
        create(image=vit, text=str(tmp_path))


def test_a_package_that_breaks_transformers_is_named_with_its_remedy():
    error = RuntimeError("Failed to import transformers.models.clip: operator torchvision::nms does not exist")
    assert "pip uninstall torchvision" in why(error, "")
    assert "pip uninstall torchaudio" in why(OSError("Could not load this library: /lib/torchaudio/lib.so"), "")
    assert why(ValueError("plain\nsecond"), "our own words") == "our own words"
