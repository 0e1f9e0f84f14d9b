"""What one process does in the test that a step of every method is the same on any number of processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nearfar import distributed
from nearfar.data.batches.batch import rows
from nearfar.data.batches.data_info import DataInfo
from nearfar.data.fields.field import BatchChance, RecordChance
from nearfar.data.fields.text import train_tokenizer
from nearfar.data.texts.label_texts_field import LabelTextsField
from nearfar.methods import METHODS, find
from nearfar.methods.base import EmbeddingMethod, Method
from nearfar.methods.detection import dito
from nearfar.methods.parts import matching, momentum_contrast
from nearfar.methods.text import masked_words, token_views
from nearfar.models import create, detector
from nearfar.models.grounded.grounded_encoder import grounded_encoder
from nearfar.models.grounded.relation_encoder import relation_encoder
from nearfar.models.language.label_matcher import label_matcher
from nearfar.models.language.model import language_model
from nearfar.models.prompts.prompt_maker import prompted_encoder
from nearfar.models.sound.sound_transcriber import sound_transcriber
from nearfar.models.video.video_encoder import video_encoder
from nearfar.models.vlm.interleaved.interleaved_maker import interleaved_model
from nearfar.models.vlm.lvlm_embedder import lvlm_embedder
from nearfar.models.vlm.vlm_maker import vision_language_model
from nearfar.training.loop.gradients import backward

N, STEPS = 8, 2
TEXTS = ["a red car", "two small dogs", "the old house near a tree", "a boat at sea", "one red fish", "a tall tower"]
ANSWERS = ["red", "two dogs", "", "sea", "", "", "house", "tree", "a boat", "tall", "", "", *["red", "", ""] * 4]
SHARES = [[0.75, 0.25, 0.0], [1.0, 0.0, 0.0], [0.5, 0.3, 0.2], [1.0, 0.0, 0.0], *[[1.0, 0.0, 0.0]] * 4]

MOMENTUM: dict[str, Any] = {"queue_size": 16, "momentum": 0.8, "ramp_steps": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "albef": MOMENTUM,
    "align": {"exclude_duplicates": True},
    "answering": {"momentum": 0.8, "ramp_steps": 2},
    "captioning": {},
    "cg_vlm": {"contrast": 0.7, "pool": 2, "center": True, "learn_temperature": True},
    "cless": {"positives": 3, "negatives": 5},
    "clip": {"exclude_duplicates": True},
    "close": {"targets": "others", "noise": 0.0},  # each process draws the noise of its own part
    "coconut": {"lambda_mm": 0.5, "temperature": 0.5},
    "consert": {"second": "adversarial"},
    "cosmo": {"contrast": 0.5, "temperature": 0.5},
    "detection": {"base": ["left", "up"], "proposals": 8},  # all places and regions count, so that none is drawn
    "distill_ood": {"top_k": 2, "captions": 0.5, "distance": 0.3},
    "dito": {"boxes": [3, 2]},
    "dpo": {"beta": 0.5, "anchor": 0.1},
    "ensemble": {"of": {"name": "negclip"}},
    "entailment": {"momentum": 0.8, "ramp_steps": 2},
    "instruction": {},
    "hydra": {"classes": 3, "gate_width": 4, "gate_hidden": 8, "gate": "gumbel", "gate_penalty": 0.1},
    "image_dpo": {"beta": 0.5},
    "isogclr": {"temperature": 0.2, "rho": 0.2, "exclude_duplicates": True},
    "lexiclip": {"same_picture": "joint", "temperature": 0.005, "learn_temperature": True},
    "masked_language": {},
    "matryoshka": {"of": {"name": "clip", "exclude_duplicates": True}, "dims": [2, 4]},
    "multiview": {"loss": "mv_info_nce", "exclude_duplicates": True},
    "negclip": {"exclude_duplicates": True},
    "siglip": {"share_duplicates": True},
    "simclr": {},
    "simcse": {"exclude_duplicates": True, "hard_negative_weight": 0.3, "masked_language": 0.5},
    "simctg": {},
    "supcon": {},
    "svco": {"betas": [0.1, 0.2, 0.3, 0.4], "cache_reference": True},
    "sogclr": {"temperature": 0.2},
    "transcription": {"smoothing": 0.1},
    "ogen": {"unknown": ["the sea", "a tree"], "neighbours": 2, "warmup_share": 0.0, "steps": 4, "checkpoint_every": 1}
    | {"dropout": 0.0},
    "prompt_tuning": {},
    "prior": {"alpha": 0.5},
    "relational": {"trained_layers": 1},
    "two_stream": {"frozen_layers": 1, "exclude_duplicates": True, "train_image": True},
    "vl2v": {"stage": "together", "image_weight": 0.3},
    "vladva": {"caption_weight": 0.5, "exclude_duplicates": True},
    "within_clusters": {"of": {"name": "clip", "exclude_duplicates": True}, "key": "label"},
    "xclip": {"mixup": 0.0, "cutmix": 0.0, "temperature": 0.5},  # each process mixes its own part
    "tcl": MOMENTUM | {"weights": (0.2, 0.2, 0.3, 0.3, 0, 0)},  # of the process's own part: see the other test
}
"""Every method that recipes know but for the next, its queue and its teacher on."""
ELSEWHERE = {"beclr", "byol", "moco", "pixpro", "sepclr", "simsiam", "whitenedcse"}
"""Methods whose batch norm or logs are of each process's own part: `test_view_ranks`, `test_moco`, `test_beclr`,
`test_pixpro`, `test_sepclr`; or that need dropout: `test_whitenedcse`."""


def steps_in_worlds(folder: str) -> dict[str, Any]:
    """What this process finds as one of four, and then as one of two with unequal parts, or alone: it starts and
    imports once. `folder` is empty, and where each world meets."""
    rank = distributed.rank()
    actual: dict[str, Any] = {"four": steps_of_all(), "local terms of four": local_terms()}
    torch.distributed.destroy_process_group()
    world, place = (2, rank) if rank < 2 else (1, 0)
    meeting = f"file://{folder}/{'two' if world == 2 else rank}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=place, world_size=world)
    if world == 2:
        return actual | {"unequal": steps_of_all([2, N - 2])}
    return actual | ({"alone": steps_of_all()} if rank == 2 else {"local terms alone": local_terms()})


def steps_of_all(counts: list[int] | None = None) -> dict[str, dict[str, Any]]:
    """By method, what `taken` finds; with `counts` of those whose loss goes by embeddings, on unequal parts."""
    assert SETTINGS.keys() | ELSEWHERE == METHODS.keys(), "add the new method to SETTINGS"
    torch.set_default_dtype(torch.float64)
    try:
        fixed_draws()
        names = [name for name in SETTINGS if not counts or issubclass(find(name), EmbeddingMethod)]
        return {name: taken(made(name, SETTINGS[name]), counts) for name in names}
    finally:
        torch.set_default_dtype(torch.float32)


def taken(method: Method, counts: list[int] | None = None) -> dict[str, Any]:
    """Gradients and logs of `STEPS` steps of plain gradient descent on this process's part, and the state after."""
    counts = counts or [N // distributed.world_size()] * distributed.world_size()
    first, share = sum(counts[: distributed.rank()]), counts[distributed.rank()]
    values: dict[str, Any] = {}
    for step in range(1, STEPS + 1):
        whole = batch(method, step)
        method.zero_grad()
        method.before_step()
        chunk = 2 if isinstance(method, EmbeddingMethod) else None
        scalars = distributed.mean(backward(method, rows(whole, first, first + share, N), chunk=chunk, seed=step))
        distributed.average_gradients(method.parameters())
        with torch.no_grad():
            for name, p in method.named_parameters():
                if p.grad is not None:
                    values[f"{step}, gradient of {name}"] = p.grad.numpy().copy()
                    p.sub_(0.05 * p.grad)
        values |= {f"{step}, {name}": value.item() for name, value in scalars.items()}
        method.after_step(step)
    return values | {f"state, {name}": value.numpy() for name, value in method.state_dict().items()}


def local_terms() -> list[tuple[float, float]]:
    """TCL's local terms of this process's part, for one process as for many: of each quarter of the batch if alone."""
    torch.set_default_dtype(torch.float64)
    try:
        fixed_draws()
        method = made("tcl", MOMENTUM)
        world = distributed.world_size()
        parts = [distributed.rank()] if world > 1 else range(4)
        values = []
        for part in parts:
            share = rows(batch(method, 1), part * 2, part * 2 + 2, N)
            out = method(share)
            values.append((out["lmi_image"].item(), out["lmi_text"].item()))
        return values
    finally:
        torch.set_default_dtype(torch.float32)


def made(name: str, settings: dict[str, Any]) -> Method:
    """A method on a small model, the same in every process, without dropout."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 300)
    if name == "simctg":
        model: Any = language_model("tiny", tokenizer=tokenizer)
    else:
        vit = {"model_type": "vit", "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        bert = {"model_type": "bert", "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        without = ("close", "detection", "dito", "distill_ood", "ogen", "prompt_tuning", "vl2v", "xclip")
        without += ("two_stream", "relational")
        alone: dict[str, Any] = {each: {} for each in without}
        alone = (alone | {"ensemble": {"image_projection": "mlp", "image_heads": 2}}).get(name, {"text_layers": 1})
        model = create(
            image=vit | calm | {"hidden_size": 16, "patch_size": 4},
            text=bert | calm | {"hidden_size": 16, "max_position_embeddings": 32},
            tokenizer=tokenizer,
            image_size=16,
            embed_dim=8,
            **alone,
        )
    if name == "cless":
        bert |= calm | {"hidden_size": 16, "max_position_embeddings": 32}
        model = label_matcher(bert, tokenizer=tokenizer, pooling="mean")
    if name in ("captioning", "cg_vlm", "instruction", "prior", "svco", "dpo", "image_dpo", "vladva"):
        model = vision_language_model(model, "tiny", tokenizer=tokenizer, pool=2)
    if name == "vladva":
        model = lvlm_embedder(model, image_prompt="a red", text_prompt="near a", rank=2)
    if name == "cosmo":
        shape = {"latents": 2, "depth": 1, "heads": 2, "head_width": 4, "embed_dim": 8, "max_length": 48}
        model = interleaved_model(model, "tiny", tokenizer=tokenizer, **shape)
    if name == "prior":
        settings = settings | {"reference": language_model("tiny", tokenizer=tokenizer, seed=1)}
    if name == "close":
        settings = settings | {"pair": model}
        model = vision_language_model(model, "tiny", tokenizer=tokenizer, read="embedding", tokens=2)
    if name in ("ogen", "prompt_tuning"):
        model = prompted_encoder(model, kind="coop" if name == "ogen" else "maple", context=2, depth=1)
    if name == "xclip":
        model = video_encoder(model, frames=2)
    if name in ("coconut", "transcription"):
        small: dict[str, Any] = {"width": 16, "layers": 1, "decoder_layers": 1, "heads": 2, "mels": 4, "embed_dim": 8}
        model = sound_transcriber(tokenizer=tokenizer, classes=3, **small)
    if name in ("detection", "dito"):
        model = detector(model, window=2, levels=(4, 5), width=4, convolutions=1, hidden=8)
    if name in ("two_stream", "relational"):
        model = grounded_encoder(model, dropout=0.0)
    if name == "relational":
        names = {"relations": ["left of", "right of", "on"], "objects": ["car", "dog"]}
        model = relation_encoder(model, **names, operator_dropout=0.0, most_objects=3, relation_width=4)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3 if p.ndim > 1 else 1)  # else all embeddings of so small a model are nearly one
        for gate in [p for key, p in model.named_parameters() if key.endswith("_gate")]:
            gate.fill_(0.5)  # blocks that act
    method = find(name)(model, **settings).double().train()
    method.begin(DataInfo(size=4 * N, ids=lambda: range(4 * N), classes=["left", "right", "up"]))
    return method


def batch(method: Method, step: int) -> dict[str, Any]:
    """The whole batch of a step: texts of different lengths, duplicates, labels, answers, hard captions."""
    model: Any = method.model
    texts = [TEXTS[(step + i * i) % len(TEXTS)] for i in range(N)]
    if hasattr(model, "encode_video"):
        clips = torch.randn(N, 2, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        return {"index": torch.arange(N), "video": clips, "label": torch.arange(N) % 3}
    if hasattr(model, "transcribe"):
        features = torch.randn(N, 9, 4, generator=torch.Generator().manual_seed(step))
        audio = {"input_features": features, "attention_mask": (torch.arange(9) < 5 + torch.arange(N)[:, None]).long()}
        memory = torch.tensor([1, 0, 0, 1, 0, 0, 1, 0])
        return {"audio": audio, "text": model.tokenize(texts), "label": torch.arange(N) % 3, "is_memory": memory}
    if hasattr(model, "ground"):
        return things(model, step)
    if hasattr(model, "match_labels"):
        return {"text": model.tokenize(texts)} | words_as_labels(method, texts)
    if not hasattr(model, "encode_image"):
        encoded = model.tokenizer(texts, padding=True, return_tensors="pt")
        return {"index": torch.arange(N), "text": {name: encoded[name] for name in ("input_ids", "attention_mask")}}
    views = torch.randn(2, N, 3, 16, 16, generator=torch.Generator().manual_seed(step))
    if hasattr(model, "text_pooler"):
        return documents(model, texts, views)
    return {
        "index": torch.arange(N) + N * step,
        "group": torch.tensor([0, 0, 1, 2, 3, 3, 0, 5]) + 3 * step,
        "label": torch.arange(N) % 3,
        "weight": torch.linspace(0.5, 1.5, N),
        "image": views[0],
        "teacher_image": views[1, :, 0, :2].flatten(1)[:, :8],
        "image2": views[1],
        "views": views,
        "text": model.tokenize(texts),
        "long_text": model.tokenize([f"{text} and {text}" for text in reversed(texts)]),
        "has_text": torch.tensor([1, 1, 0, 1, 1, 1, 1, 0]),
        "has_long_text": torch.tensor([0, 1, 1, 1, 0, 0, 1, 1]),
        "negative_count": torch.arange(N) % 2,
        "text2": model.tokenize(TEXTS[: N // 2] * 2),
        "negative_text": model.tokenize([" ".join(reversed(each.split())) for each in texts]),
        "answers": model.tokenize(ANSWERS),
        "stand_in": views[0, :, 0, :2].flatten(1)[:, :8],
        "targets": model.tokenize([part for text in texts for part in (text, text[:9])]),
        "target_count": 1 + torch.arange(N) % 2,
        "answer_weight": torch.tensor(SHARES).roll(step, 0),
        **boxes(step),
    }


def documents(model: Any, texts: list[str], views: Tensor) -> dict[str, Any]:
    """Pairs, and documents of two pictures; some processes have more of the one than others."""
    paired = torch.tensor([1, 1, 0, 1, 0, 0, 1, 1])
    texts = [text if single else f"<visual>{text}<visual>{text}" for text, single in zip(texts, paired, strict=True)]
    return {
        "index": torch.arange(N),
        "images": views.movedim(0, 1),
        "image_count": 2 - paired,
        "paired": paired,
        "text": model.tokenize(texts),
    }


def boxes(step: int) -> dict[str, Tensor]:
    """Up to three things a picture, and many more in some processes' pictures than in others'."""
    drawn = 16 * torch.rand(N, 3, 2, 2, generator=torch.Generator().manual_seed(step)).sort(2).values.flatten(2)
    there = torch.arange(3) < torch.tensor([0, 0, 1, 0, 3, 2, 3, 1])[:, None]
    label = (torch.arange(3) + torch.arange(N)[:, None] + step) % 3
    return {"boxes": drawn, "box_label": label.where(there, -1)}


def things(model: Any, step: int) -> dict[str, Any]:
    """Pictures of one to three things, some with relations."""
    records: list[dict[str, Any]] = [
        {"objects": [{"name": text} for text in TEXTS[i % 3 : i % 3 + i % 4 + 1]]} for i in range(step, step + N)
    ]
    for i, record in enumerate(records):
        record["relations"] = [[0, "left of", 1], [1, "on", 2], [0, "right of", 2]][: i % 3]
        record["objects"][0]["name"] = ("car", "dog", "fish")[i % 3]
    (field,) = model.fields(True)
    pixels = torch.randn(N, 3, 16, 16, generator=torch.Generator().manual_seed(step))
    return {"image": pixels} | field.collate([field.prepare(record, None) for record in records], None)


def words_as_labels(method: Method, texts: list[str]) -> dict[str, Any]:
    """Words of the texts: some have fewer than others."""
    assert method.label_texts is not None
    field = LabelTextsField(method.model.tokenize, method.label_texts)
    chance = [RecordChance(0, 0, place) for place in range(N)]
    parts = [field.prepare({"text": text}, each) for text, each in zip(texts, chance, strict=True)]
    return field.collate(parts, BatchChance(0, 0, 0, N, range(N)))


def fixed_draws() -> None:
    """What is drawn at random depends on the samples alone: the same on any number of processes."""

    def partner(q: Tensor, k: Tensor, scale: Tensor, *, q_group: Tensor, k_group: Tensor) -> Tensor:
        """The other one of a pair of rows, which no split into processes parts; none where it is a duplicate."""
        other = torch.arange(len(q_group)) ^ 1
        return other.masked_fill(q_group == k_group[other], -1)

    def every_third(ids: Tensor, tokenizer: Any, *, probability: float) -> tuple[Tensor, Tensor]:
        """As many words of one text as its words say: some texts have none."""
        hidden = (ids % 3 == 0) & (ids != tokenizer.pad_token_id) & (ids != tokenizer.cls_token_id)
        return ids.masked_fill(hidden, tokenizer.mask_token_id), ids.masked_fill(~hidden, -100)

    def same_for_all(n: int, count: int = 0, **_: Any) -> Tensor:
        """The same boxes in each picture."""
        return torch.rand(count, 4, generator=torch.Generator().manual_seed(count)).sort(-1).values.expand(n, -1, -1)

    def alike(shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The same numbers for each text."""
        return torch.rand(shape[1:], generator=torch.Generator().manual_seed(0)).expand(shape)

    token_views._uniform = alike
    dito.sample_random_boxes = same_for_all  # type: ignore[assignment]
    momentum_contrast.sample_hard_negatives = partner  # type: ignore[assignment]
    matching.mask_tokens = every_third  # type: ignore[assignment]
    masked_words.mask_tokens = lambda ids, tokenizer, probability=0.15, generator=None: every_third(  # type: ignore[assignment]
        ids, tokenizer, probability=probability
    )
