"""X-CLIP's parts (arXiv 2208.02816): what each must leave alone, the special cases that reduce to a CLIP, what depends
on the order of frames."""

from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

import nearfar
from nearfar.data import FrameChoice, Records
from nearfar.embedding import embed
from nearfar.errors import UserError
from nearfar.models import FrameMean, VideoEncoder, create, video_encoder
from nearfar.models.card import card
from nearfar.models.video.frame_integration import FrameIntegration
from nearfar.models.video.frame_messages import MessageLayer, layers_of, set_frames

VIT = {"model_type": "vit", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
VIT |= {"intermediate_size": 96, "patch_size": 8}
CLIP = {**VIT, "model_type": "clip_vision_model"}
TEXT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT |= {"intermediate_size": 32, "max_position_embeddings": 16}
B, T, K = 3, 4, 5


@pytest.fixture(params=["vit", "clip"])
def pair(request, tokenizer):
    image = {"vit": VIT, "clip": CLIP}[request.param]
    return create(image=image, text=TEXT, tokenizer=tokenizer, image_size=16, embed_dim=64).eval()


def lively(model):
    """Weights large enough for every part to matter."""
    with torch.no_grad():
        for _, parameter in model.added():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def made(pair, **options):
    return lively(VideoEncoder(deepcopy(pair), frame_choice=FrameChoice(T), **options))


def frames(b=B, t=T):
    return torch.randn(b, t, 3, 16, 16)


def test_without_messages_frames_are_the_clips_own(pair):
    model, x = made(pair, messages=False), frames()
    own = pair.encode_image(x.flatten(0, 1)).unflatten(0, (B, T))
    torch.testing.assert_close(model.pair.image_projection(model.frame_tokens(x)[:, :, 0]), own, rtol=0, atol=1e-5)


def test_a_message_that_nobody_reads_changes_nothing(pair):
    """The message masked in the keys of every layer: each frame is what the CLIP makes of it, for any number."""
    model, x = made(pair), frames(2, 7)
    for layer in layers_of(model.pair.image.backbone):
        inner = layer.layer

        def without(states, *rest, _inner=inner, **options):
            return F.pad(_inner(states[:, :-1], *rest, **options), (0, 0, 0, 1))

        layer.layer = _Call(without)
    own = pair.image_tokens(x.flatten(0, 1)).unflatten(0, (2, 7))
    torch.testing.assert_close(model.frame_tokens(x), own, rtol=0, atol=1e-5)


class _Call(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *arguments, **options):
        return self.function(*arguments, **options)


@pytest.mark.parametrize("t", [1, 4, 6])
def test_a_video_knows_nothing_of_the_others(pair, t):
    """A swap of videos and frames in a reshape mixes different videos, and still runs."""
    model, x = made(pair), frames(B, t)
    whole = model.frame_tokens(x)
    other = x.clone()
    other[1] = torch.randn_like(other[1])
    changed = model.frame_tokens(other)
    torch.testing.assert_close(changed[[0, 2]], whole[[0, 2]], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.frame_tokens(x[2:]), whole[2:], rtol=0, atol=1e-5)
    assert (changed[1] - whole[1]).abs().max() > 0.01
    texts = torch.randn(K, 64)
    torch.testing.assert_close(model.similarities(x, texts)[:1], model.similarities(x[:1], texts), rtol=0, atol=1e-5)


def test_frames_of_one_video_know_of_each_other(pair):
    model, x = made(pair), frames(1)
    other = x.clone()
    other[:, 0] = torch.randn(3, 16, 16)
    away = (model.frame_tokens(other) - model.frame_tokens(x))[0, 1:].abs().amax((1, 2))
    assert (away > 1e-3).all()


def test_order_is_known_by_the_embedding_of_time_alone(pair):
    """Messages have no place in time: frames in another order give their tokens in that order, and patches over time
    the same mean. With the embedding of time at 0 the video does not change either; with it, it does."""
    model, x, order = made(pair), frames(), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model.frame_tokens(x[:, order]), model.frame_tokens(x)[:, order], rtol=0, atol=1e-5)
    patches = [model.prompts.patches(model.frame_tokens(each)[:, :, 1:]) for each in (x, x[:, order])]
    torch.testing.assert_close(*patches, rtol=1e-4, atol=1e-4)
    assert (model.encode_video(x) - model.encode_video(x[:, order])).abs().max() > 1e-3
    with torch.no_grad():
        model.integration.time.zero_()
    torch.testing.assert_close(model.encode_video(x), model.encode_video(x[:, order]), rtol=0, atol=1e-5)


def test_prompts_of_share_0_leave_texts_alone(pair):
    """alpha = 0: the cosine of the video and the text, and no gradient in the prompts but alpha's."""
    model, x, texts = made(pair), frames(), torch.randn(K, 64)
    with torch.no_grad():
        model.prompts.alpha.zero_()
    cosines = model.similarities(x, texts)
    plain = model.encode_video(x, normalize=True) @ F.normalize(texts, dim=1).T
    torch.testing.assert_close(cosines, plain, rtol=0, atol=1e-5)
    F.cross_entropy(cosines, torch.tensor([0, 1, 2])).backward()
    gradients = {name: p.grad for name, p in model.prompts.named_parameters()}
    assert gradients.pop("alpha").abs().max() > 0
    assert all(gradient is None or not gradient.any() for gradient in gradients.values())


def test_silent_integration_is_twice_the_mean_and_with_all_parts_silent_the_model_is_the_clips_mean(pair):
    x, texts = frames(), torch.randn(K, 64)
    model = made(pair, messages=False)
    with torch.no_grad():
        model.integration.time.zero_()
        for layer in model.integration.layers:
            for part in (layer.attention.out_proj, layer.mlp[2]):
                part.weight.zero_()
                part.bias.zero_()
        model.prompts.alpha.zero_()
    mean = pair.encode_image(x.flatten(0, 1)).unflatten(0, (B, T)).mean(1)
    torch.testing.assert_close(model.encode_video(x), 2 * mean, rtol=1e-5, atol=1e-5)
    baseline = F.normalize(mean, dim=1) @ F.normalize(texts, dim=1).T
    torch.testing.assert_close(model.similarities(x, texts), baseline, rtol=0, atol=1e-5)
    absent = VideoEncoder(deepcopy(pair), messages=False, integration_layers=0, prompt_layers=0)
    torch.testing.assert_close(absent.similarities(x, texts), baseline, rtol=0, atol=1e-5)
    torch.testing.assert_close(FrameMean(pair).encode_video(x), mean)
    assert [*absent.added()] == []


def test_at_the_start_it_is_not_the_clips_mean(pair):
    """Messages are keys of each attention, alpha is 0.1 and the integration is random: before any training zero-shot is
    another model's, which is why the mean is always reported beside it."""
    model, x = VideoEncoder(deepcopy(pair), frame_choice=FrameChoice(T)).eval(), frames()
    mean = FrameMean(pair).encode_video(x, normalize=True)
    assert (model.encode_video(x, normalize=True) * mean).sum(1).max() < 0.999
    assert model.prompts.alpha.detach().unique().tolist() == pytest.approx([0.1])
    assert model.prompts.projection.detach().std() == pytest.approx(1, abs=0.1)
    assert model.integration.time.detach().std() == pytest.approx(0.02, rel=0.2)


def test_equal_frames_are_one_frame(pair):
    """Frame tokens are the same in all frames, and without the embedding of time so is the video's direction."""
    model, x = made(pair), frames()[:, :1]
    many, one = x.expand(-1, T, -1, -1, -1), x
    tokens = model.frame_tokens(many)
    torch.testing.assert_close(tokens, tokens[:, :1].expand_as(tokens), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens[:, :1], model.frame_tokens(one), rtol=0, atol=1e-5)
    with torch.no_grad():
        model.integration.time.zero_()
    torch.testing.assert_close(
        model.encode_video(many, normalize=True), model.encode_video(one, normalize=True), rtol=0, atol=1e-5
    )


def test_lengths_do_not_count_and_classes_do_not_know_each_other(pair):
    model, x, texts = made(pair), frames(), torch.randn(K, 64)
    whole = model.similarities(x, texts)
    torch.testing.assert_close(model.similarities(x, texts[[3]]), whole[:, [3]], rtol=0, atol=1e-5)
    order = torch.tensor([4, 0, 1, 3, 2])
    torch.testing.assert_close(model.similarities(x, texts[order]), whole[:, order], rtol=0, atol=1e-5)
    tokens = model.tokenize(["a red fox", "a ship"])
    torch.testing.assert_close(model(x, tokens), model.similarities(x, model.encode_text(tokens)))
    bare = VideoEncoder(deepcopy(pair), messages=False, integration_layers=0, prompt_layers=0)
    before = bare.similarities(x, texts)
    with torch.no_grad():
        for parameter in bare.pair.image_projection.parameters():
            parameter.mul_(7)
    torch.testing.assert_close(bare.similarities(x, 3 * texts), before, rtol=0, atol=1e-5)


def test_large_projected_patches_stay_harmless(pair):
    """The projection has a deviation of 1, so what it gives is large, and texts of length 10 are not unit: the norm
    that follows keeps the result finite and of the texts' own size."""
    model, x = VideoEncoder(deepcopy(pair), frame_choice=FrameChoice(T)), 100 * frames()
    texts = 10 * F.normalize(torch.randn(K, 64), dim=1)
    patches = model.prompts.patches(model.frame_tokens(x)[:, :, 1:])
    adapted = model.prompts(texts, patches)
    assert adapted.isfinite().all()
    assert (adapted.norm(dim=-1) < 2 * 10).all()
    torch.testing.assert_close(model.prompts(texts, 1000 * patches), adapted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("t", [1, 2, 8, 16])
def test_another_number_of_frames_interpolates_time(pair, t):
    model = made(pair)
    assert model.encode_video(frames(2, t)).shape == (2, 64)
    time = FrameIntegration(1, 2)
    with torch.no_grad():
        time.time.copy_(torch.tensor([[[0.0], [1.0]]]))
    right = {1: [0.5], 2: [0, 1], 8: [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]}
    if t in right:
        assert time.time_of(t).flatten().tolist() == pytest.approx(right[t])


def test_the_number_of_frames_is_that_of_the_batch_and_is_not_kept(pair):
    model = made(pair)
    model.encode_video(frames(2, 5))
    assert {layer.frames for layer in layers_of(model.pair.image.backbone)} == {1}
    copied = deepcopy(model)
    set_frames(copied, 9)
    assert {layer.frames for layer in layers_of(model.pair.image.backbone)} == {1}
    assert all(isinstance(layer, MessageLayer) for layer in layers_of(model.pair.image.backbone))


def test_saved_and_loaded(pair, tmp_path):
    model, x = made(pair, prompt_layers=1), frames()
    model.freeze("text").temperature = 0.02
    model.save_pretrained(tmp_path / "m")
    again = nearfar.load(tmp_path / "m")
    tokens = model.tokenize(["a red fox"])
    assert torch.equal(again(x, tokens), model(x, tokens))
    assert (again.temperature, again.frozen, again.frame_choice) == (0.02, ("text",), FrameChoice(T))
    page = card(again)
    assert "model.encode_video(model.preprocess_video" in page
    assert "| 4 frames a video | 16 x 16 |" in page


def test_it_is_made_of_a_copy_and_embeds_videos_and_texts(pair):
    before = deepcopy(pair.state_dict())
    model = video_encoder(pair, frames=T)
    lively(model)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    films = torch.randint(0, 255, (2, 9, 20, 20, 3), dtype=torch.uint8)
    data = embed(model, Records([{"video": film.numpy(), "text": "a fox"} for film in films]))
    assert sorted(data.sides) == ["text", "video"]
    expected = model.encode_video(model.preprocess_video([*films]), normalize=True)
    torch.testing.assert_close(data.image, expected, rtol=0, atol=1e-5)


def test_what_is_refused(pair, tokenizer):
    model = made(pair)
    with pytest.raises(UserError, match=r"frames are \[B, T, 3, 16, 16\] here; these are \[2, 3, 16, 16\]"):
        model.encode_video(torch.randn(2, 3, 16, 16))
    with pytest.raises(UserError, match="image_size=20"):
        model.encode_video(torch.randn(1, 2, 3, 20, 20))
    convnext = {"model_type": "convnext", "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
    still = create(image=convnext, text=TEXT, tokenizer=tokenizer, image_size=16, embed_dim=64)
    with pytest.raises(UserError, match="has no class token for frames"):
        video_encoder(still)
    assert video_encoder(still, messages=False).encode_video(frames()).shape == (B, 64)
    with pytest.raises(UserError, match="made of a DualEncoder"):
        video_encoder("minilm")
    with pytest.raises(UserError, match="frames is 0"):
        video_encoder(pair, frames=0)
