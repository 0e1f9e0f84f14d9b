"""Models that read texts alone: every kind of folder opens by `load`, and embeds as its own library does."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import nearfar
from nearfar.errors import UserError
from nearfar.models import create
from nearfar.models.language.model import LanguageModel, language_model
from nearfar.models.language.text_model import TextEncoder, text_encoder
from nearfar.training.recipe.recipe_model import build_model

TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 20}
TEXTS = ["a red fox", "the ship at sea runs", "cat"]


@pytest.fixture
def bert(tokenizer, tmp_path):
    """A folder that transformers wrote, and the model."""
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(**TOWER)).eval()
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert", model


def states(model, encoder):
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        return model(**tokens).last_hidden_state, tokens["attention_mask"][..., None].float()


def sentence_encoder(folder, pooling, *, kinds=("Transformer", "Pooling", "Normalize"), **settings):
    paths = ["" if kind == "Transformer" else f"{i}_{kind}" for i, kind in enumerate(kinds)]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))


def test_a_transformers_folder_is_pooled_by_the_mean(bert):
    folder, model = bert
    encoder = nearfar.load(folder)
    assert (type(encoder), encoder.text.pooling, encoder.training) == (TextEncoder, "mean", False)
    hidden, real = states(model, encoder)
    expected = F.normalize((hidden * real).sum(1) / real.sum(1), dim=1)
    torch.testing.assert_close(encoder.encode_text(encoder.tokenize(TEXTS), normalize=True), expected)


@pytest.mark.parametrize("older", [True, False], ids=["flags", "a word"])
@pytest.mark.parametrize(
    ("mode", "flag"),
    [
        ("cls", "cls_token"),
        ("mean", "mean_tokens"),
        ("lasttoken", "lasttoken"),
        ("max", "max_tokens"),
        ("mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("weightedmean", "weightedmean_tokens"),
    ],
)
def test_a_sentence_encoder_is_pooled_as_its_folder_states(bert, mode, flag, older):
    folder, model = bert
    names = ("cls_token", "mean_tokens", "lasttoken", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens")
    flags = {f"pooling_mode_{name}": name == flag for name in names}
    sentence_encoder(folder, flags if older else {"pooling_mode": mode}, max_seq_length=4)
    encoder = nearfar.load(folder)
    assert encoder.max_length == 4
    hidden, real = states(model, encoder)
    last = real[..., 0].sum(1).long() - 1
    places = real * torch.arange(1.0, 1 + real.shape[1])[None, :, None]
    expected = {
        "max": hidden.masked_fill(real == 0, -torch.inf).amax(1),
        "mean_sqrt_len_tokens": (hidden * real).sum(1) / real.sum(1).sqrt(),
        "weightedmean": (hidden * places).sum(1) / places.sum(1),
        "cls": hidden[:, 0],
        "mean": (hidden * real).sum(1) / real.sum(1),
        "lasttoken": hidden[torch.arange(len(TEXTS)), last],
    }[mode]
    torch.testing.assert_close(encoder.encode_text(encoder.tokenize(TEXTS)), expected)


@pytest.mark.parametrize(
    ("pooling", "kinds", "message"),
    [
        ({"pooling_mode": ["cls", "max"]}, ("Transformer", "Pooling"), "pools by cls and max, which is not done here"),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
            ("Transformer", "Pooling"),
            "pools by cls and max, which is not done here",
        ),
        ({}, ("Transformer", "Pooling"), "pools by nothing"),
        ({"pooling_mode": "mean"}, ("Transformer", "Pooling", "CNN"), r"not read here \(CNN\)"),
        ({"pooling_mode": "mean"}, ("Transformer", "Dense", "Pooling"), r"not read here \(modules.json\)"),
        ({"pooling_mode": "mean"}, ("Transformer", "Pooling", "Dense"), "does not describe a dense layer"),
        ({"pooling_mode": "mean"}, ("Pooling",), r"not read here \(modules.json\)"),
    ],
)
def test_what_a_sentence_encoder_does_beside_is_a_sentence(bert, pooling, kinds, message):
    sentence_encoder(bert[0], pooling, kinds=kinds)
    with pytest.raises(UserError, match=message):
        nearfar.load(bert[0])


def test_without_a_mode_it_is_the_mean_as_there(bert):
    sentence_encoder(bert[0], {"word_embedding_dimension": 32, "pooling_mode_cls_token": False})
    assert nearfar.load(bert[0]).text.pooling == "mean"


STATES = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        ({"max_seq_length": 6}, 6),
        ({"max_seq_length": 6, "processing_kwargs": {"text": {"max_length": 4}}}, 4),
        ({"processor_kwargs": {"model_max_length": 5, "padding_side": "left"}}, 5),
        ({"max_seq_length": 6, "modality_config": STATES, "module_output_name": "token_embeddings"}, 6),
    ],
)
@pytest.mark.parametrize("file", ["sentence_bert_config.json", "sentence_roberta_config.json"])
def test_lengths_are_read_wherever_they_stand(settings, length, file, bert):
    sentence_encoder(bert[0], {"pooling_mode": "mean"}, **settings)
    (bert[0] / "sentence_bert_config.json").rename(bert[0] / file)
    assert nearfar.load(bert[0]).max_length == length
    assert create("tiny", text=str(bert[0]), max_length=None).text.stated_length == length


def test_the_transformers_own_pooling_in_place_of_a_module(bert):
    folder, model = bert
    own = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
    sentence_encoder(folder, {}, kinds=("Transformer",), modality_config=own, module_output_name="sentence_embedding")
    encoder = nearfar.load(folder)
    with torch.no_grad():
        expected = model(**encoder.tokenize(TEXTS)).pooler_output
    torch.testing.assert_close(encoder.encode_text(encoder.tokenize(TEXTS)), expected)


def test_texts_in_lower_case(bert):
    sentence_encoder(bert[0], {"pooling_mode": "mean"}, do_lower_case=True)
    for model in (nearfar.load(bert[0]), create("tiny", text=str(bert[0]))):
        upper, lower = model.tokenize(["A Red FOX"]), model.tokenize(["a red fox"])
        assert torch.equal(upper["input_ids"], lower["input_ids"])


@pytest.mark.parametrize(
    ("settings", "whole", "words"),
    [
        ({"config_kwargs": {"num_hidden_layers": 1}}, {}, r"\(config_args: num_hidden_layers\)"),
        ({"tokenizer_args": {"truncation_side": "left"}}, {}, r"\(tokenizer_args: truncation_side\)"),
        ({"model_args": {"hidden_act": "relu"}}, {}, r"\(model_args: hidden_act\)"),
        ({"processing_kwargs": {"text": {"add_special_tokens": False}}}, {}, r"\(processing: add_special_tokens\)"),
        (
            {"modality_config": {"text": {"method": "forward", "method_output_name": ["hidden_states", -2]}}},
            {},
            r"modality_config: hidden_states/-2 of its transformer",
        ),
        ({}, {"prompts": {"query": "find: "}, "default_prompt_name": "query"}, r"default_prompt_name: 'find: ' before"),
        ({}, {"truncate_dim": 8}, r"truncate_dim: 8 numbers .* encode\(dim=\.\.\.\)"),
    ],
)
def test_settings_that_change_numbers_are_refused(settings, whole, words, bert):
    """Each gave other vectors than its own library, in silence."""
    sentence_encoder(bert[0], {"pooling_mode": "mean"}, **settings)
    (bert[0] / "config_sentence_transformers.json").write_text(json.dumps(whole))
    for load in (nearfar.load, lambda folder: create("tiny", text=str(folder))):
        with pytest.raises(UserError, match=words):
            load(bert[0])


def test_prompts_that_are_not_the_default_are_for_queries(bert):
    sentence_encoder(bert[0], {"pooling_mode": "mean", "include_prompt": False})
    stated = {"prompts": {"query": "find: ", "document": ""}, "default_prompt_name": "document"}
    (bert[0] / "config_sentence_transformers.json").write_text(json.dumps(stated))
    assert nearfar.load(bert[0]).text.pooling == "mean"


@pytest.mark.parametrize("saved", [True, False], ids=["its reading part", "whole"])
def test_t5_is_its_reading_part(saved, tokenizer, tmp_path):
    """Saved alone it no longer says that it was one of two, and AutoModel would make both again."""
    from transformers import T5Config, T5EncoderModel, T5Model

    small = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2, "vocab_size": 20}
    model = (T5EncoderModel if saved else T5Model)(T5Config(**small)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = nearfar.load(tmp_path)
    hidden, real = states(model if saved else model.encoder, encoder)
    expected = (hidden * real).sum(1) / real.sum(1)
    torch.testing.assert_close(encoder.encode_text(encoder.tokenize(TEXTS)), expected)
    assert create("tiny", text=str(tmp_path)).text.backbone.config.model_type == "t5"


def with_dense_layers(folder, *, activation="torch.nn.modules.activation.Tanh", weights=None, **change):
    """The folder of a sentence encoder with a dense layer, a scaling and another dense layer; the layers' weights."""
    sentence_encoder(
        folder, {"pooling_mode": "mean"}, kinds=("Transformer", "Pooling", "Dense", "Normalize", "Dense", "Normalize")
    )
    first, second = nn.Linear(32, 24), nn.Linear(24, 8, bias=False)
    for place, layer, kind in (("2_Dense", first, activation), ("4_Dense", second, "torch.nn.modules.linear.Identity")):
        (folder / place).mkdir()
        stated = {"in_features": layer.in_features, "out_features": layer.out_features, "bias": layer.bias is not None}
        (folder / place / "config.json").write_text(json.dumps({**stated, "activation_function": kind, **change}))
        held = weights or {f"linear.{name}": value.detach() for name, value in layer.state_dict().items()}
        save_file(held, folder / place / "model.safetensors")
    return first, second


def test_dense_layers_after_the_pooling_are_read(bert, tmp_path):
    folder, model = bert
    first, second = with_dense_layers(folder)
    encoder = nearfar.load(folder)
    hidden, real = states(model, encoder)
    with torch.no_grad():
        middle = F.normalize(torch.tanh(first((hidden * real).sum(1) / real.sum(1))), dim=1)
        expected = F.normalize(second(middle), dim=1)
        torch.testing.assert_close(encoder.encode_text(encoder.tokenize(TEXTS)), expected)
    assert encoder.embed_dim == 8
    again = nearfar.load(encoder.save_pretrained(tmp_path / "saved"))
    assert torch.equal(again.encode_text(again.tokenize(TEXTS)), encoder.encode_text(encoder.tokenize(TEXTS)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation": "mine.Wave"}, "has the activation 'Wave', which is none of Identity, Tanh"),
        ({"in_features": 31}, "a dense layer takes 31 numbers, where 32 come to it"),
        ({"out_features": "many"}, "2_Dense/config.json does not describe a dense layer"),
        ({"module_input_name": "token_embeddings"}, "does not describe a dense layer of sentence embeddings"),
        ({"use_residual": True}, r"2_Dense adds what goes in to what comes out \(use_residual\)"),
        ({"weights": {"linear.weight": torch.zeros(3, 3)}}, "does not hold the weights of its dense layer"),
    ],
)
def test_dense_layers_that_cannot_be_read_are_a_sentence(bert, change, words):
    with_dense_layers(bert[0], **change)
    with pytest.raises(UserError, match=words):
        nearfar.load(bert[0])


def test_dense_layers_without_their_weights_are_a_sentence(bert):
    with_dense_layers(bert[0])
    (bert[0] / "4_Dense" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"its dense layer 4_Dense has no model\.safetensors"):
        nearfar.load(bert[0])


def test_a_tower_has_no_dense_layers(bert):
    with_dense_layers(bert[0])
    with pytest.raises(UserError, match="has dense layers after its pooling, which a text tower has not"):
        create("tiny", text=str(bert[0]))


def test_a_language_model_that_was_saved_opens_as_one(tokenizer, tmp_path):
    model = language_model("tiny", tokenizer=tokenizer)
    model.save_pretrained(tmp_path / "whole")
    weights = {name: value + 1 for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "given", state_dict=weights)  # as a split training gives them
    whole, by_folder = nearfar.load(tmp_path / "whole"), nearfar.load(tmp_path / "given")
    assert type(whole) is type(by_folder) is LanguageModel
    for name, value in model.state_dict().items():
        assert torch.equal(whole.state_dict()[name], value)
        assert torch.equal(by_folder.state_dict()[name], value + 1)


def test_a_text_encoder_is_saved_and_loaded_bit_by_bit(tokenizer, tmp_path):
    model = text_encoder({"model_type": "bert", **TOWER}, tokenizer=tokenizer, pooling="cls", max_length=5).eval()
    model.save_pretrained(tmp_path)
    again = nearfar.load(tmp_path)
    assert (again.text.pooling, again.max_length, again.embed_dim) == ("cls", 5, 32)
    tokens = model.tokenize(TEXTS)
    assert torch.equal(again.encode_text(again.tokenize(TEXTS)), model.encode_text(tokens))


def test_an_encoder_of_texts_is_handed_on(tokenizer):
    for model in (language_model("tiny", tokenizer=tokenizer), text_encoder("minilm")):
        assert nearfar.load(model) is model
    with pytest.raises(UserError, match="brings no tokenizer"):
        text_encoder({"model_type": "bert", **TOWER})


def test_an_instance_of_transformers_is_opened_with_its_tokenizer(bert, tokenizer):
    folder, model = bert
    encoder = nearfar.load(model, tokenizer=tokenizer)
    assert (type(encoder), encoder.text.pooling, encoder.training) == (TextEncoder, "mean", False)
    by_folder = nearfar.load(folder)
    with torch.no_grad():
        same = encoder.encode_text(encoder.tokenize(TEXTS)), by_folder.encode_text(by_folder.tokenize(TEXTS))
    torch.testing.assert_close(*same)
    assert next(encoder.parameters()) is not next(model.parameters()), "a copy: the instance stays as it is"
    with pytest.raises(UserError, match=r"a BertModel comes without its tokenizer: load\(model, tokenizer=...\)"):
        nearfar.load(model)


def test_an_instance_with_a_head_of_words(tokenizer):
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

    gpt = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=len(tokenizer)))
    model = nearfar.load(gpt, tokenizer=tokenizer)
    assert isinstance(model, LanguageModel)
    assert torch.equal(model.lm.transformer.wte.weight, gpt.transformer.wte.weight)
    with pytest.raises(UserError, match=r"a BertForMaskedLM predicts words .*model.base_model"):
        nearfar.load(BertForMaskedLM(BertConfig(**TOWER)), tokenizer=tokenizer)


@pytest.mark.parametrize("settings", [{"freeze": ["text"]}, {"lora": {"text": {"rank": 2}}}])
def test_a_recipe_says_that_its_parts_are_neither_frozen_nor_adapted(settings, bert):
    folder, _ = bert
    setting = next(iter(settings))
    with pytest.raises(UserError, match=rf"{setting}: a TextEncoder is trained whole.*leave model\.{setting} out"):
        build_model({"load": str(folder), **settings}, None)


@pytest.mark.parametrize("make", [lambda folder: nearfar.load(folder), lambda folder: nearfar.load("minilm")])
def test_no_model_of_texts_carries_a_size_of_pictures(make, bert):
    model = make(bert[0])
    assert not [name for name in ("image_size", "mean", "std", "preprocess", "encode_image") if hasattr(model, name)]


def test_no_language_model_carries_a_size_of_pictures(tokenizer):
    model = language_model("tiny", tokenizer=tokenizer)
    assert not [name for name in ("image_size", "mean", "std", "preprocess", "encode_image") if hasattr(model, name)]
