"""Segmentation on frozen maps: overlaps worked out by hand, masks in a model's frame, a probe that must be perfect."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.classifiers.cell_probe import CellProbe, class_shares
from nearfar.data import Loader, Records
from nearfar.data.pictures.mask_field import MaskField, class_numbers
from nearfar.data.scenes import scenes
from nearfar.data.sources.skipped import BadRecord
from nearfar.errors import UserError
from nearfar.evaluation import evaluate, segmentation
from nearfar.evaluation.measures.overlap import Overlaps
from nearfar.evaluation.report import write_report
from nearfar.models import image_encoder
from nearfar.models.towers.pixels import Pixels

COLOURS = np.array([[250, 250, 250], [200, 30, 30], [30, 160, 60]], np.uint8)


class Averaged(torch.nn.Module):
    """A model whose cells are mean colours, so that what is where can be read off exactly."""

    image_size, pixels = 32, Pixels(32)

    def preprocess(self, pictures):
        return self.pixels(pictures)

    def encode_image_map(self, pixels):
        return torch.nn.functional.avg_pool2d(pixels, 4)


def records(n=12, size=(32, 32)):
    """Pictures of a red and a green rectangle, aligned to cells of 4 pixels, each with its mask."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        mask = np.zeros(size[::-1], np.uint8)
        for number in (1, 2):
            left, top = 4 * rng.integers(0, size[0] // 4 - 2), 4 * rng.integers(0, size[1] // 4 - 2)
            mask[top : top + 8, left : left + 8] = number
        made.append({"image": Image.fromarray(COLOURS[mask]), "mask": mask, "group": i})
    return made


def source(**kinds):
    return Records(records(**kinds), name="rectangles", classes=["red", "green"])


def test_overlaps_by_hand():
    true = torch.tensor([[[0, 0, 1, 1], [0, 2, 2, -1]]])
    predicted = torch.tensor([[[0, 1, 1, 1], [0, 2, 0, 2]]])
    overlaps = Overlaps.of(predicted, true, 4)
    # ground: both 2, predicted 3, true 3; 1: 2 of 3; 2: 1, 1 (one does not count), 2.
    assert overlaps.iou()[:3].tolist() == pytest.approx([2 / 4, 2 / 3, 1 / 2])
    assert np.isnan(overlaps.iou()[3])
    assert overlaps.mean_iou() == pytest.approx((2 / 4 + 2 / 3 + 1 / 2) / 3)
    assert overlaps.accuracy() == pytest.approx(5 / 7)
    parts = Overlaps.joined([overlaps, Overlaps.of(true, true, 4)])
    assert parts.iou()[0] == pytest.approx((2 + 3) / (4 + 3))


def test_overlaps_are_of_all_pixels_and_not_means_over_pictures():
    """A picture with one pixel of a class counts one pixel."""
    true = torch.zeros(2, 1, 100, dtype=torch.long)
    true[0, 0, :50] = 1
    true[1, 0, 0] = 1
    predicted = torch.zeros_like(true)
    predicted[0, 0, :50] = 1
    assert Overlaps.of(predicted, true, 2).iou()[1] == pytest.approx(50 / 51)


def test_intervals_resample_whole_groups():
    predicted, true = torch.randint(0, 3, (2, 30, 4, 4), generator=torch.Generator().manual_seed(0))
    overlaps = Overlaps.of(predicted, true, 3)
    (low, high), by_class = overlaps.intervals(seed=1)
    assert low < overlaps.mean_iou() < high
    assert (by_class[0] < overlaps.iou()).all()
    assert (overlaps.iou() < by_class[1]).all()
    assert overlaps.intervals(cluster=np.zeros(30), seed=1)[0] == pytest.approx((overlaps.mean_iou(),) * 2)


def test_shares_of_cells():
    mask = torch.tensor([[[0, 0, 1, 1], [0, 2, 1, -1]]])
    shares = class_shares(mask, 3, (1, 2))
    assert shares[0, :, 0].tolist() == [[0.75, 0.0], [0.0, 0.75], [0.25, 0.0]]


def test_a_probe_is_a_penalised_logistic_regression():
    """Held against scikit-learn's, on cells that are of one class each."""
    from sklearn.linear_model import LogisticRegression

    g = torch.Generator().manual_seed(0)
    maps = torch.randn(6, 4, 3, 3, generator=g)
    label = (maps[:, :3] + torch.randn(6, 3, 3, 3, generator=g)).argmax(1)
    shares = torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float()
    probe = CellProbe(penalty=1e-2, max_iter=500).fit(maps, shares)
    rows = maps.movedim(1, -1).flatten(0, 2).numpy()
    rows = (rows - rows.mean(0)) / rows.std(0)
    # Its penalty is |w|^2 / 2C beside the sum of the cross-entropies.
    other = LogisticRegression(C=1 / (2 * 1e-2 * len(rows)), max_iter=2000, tol=1e-8).fit(rows, label.flatten())
    expected = other.predict_proba(rows)
    actual = probe.logits(maps).movedim(1, -1).flatten(0, 2).softmax(1).numpy()
    np.testing.assert_allclose(actual, expected, atol=2e-3)


def test_what_can_be_read_off_exactly_is():
    result = segmentation(Averaged(), source())
    assert result["cells_miou"] > 0.7
    assert result["miou"] > 0.9 * result["cells_miou"]
    assert result["pixel_accuracy"] > 0.9
    assert list(result.by["class"]) == ["ground", "red", "green"]
    metric = result.metrics["miou"]
    assert metric.low <= metric.value <= metric.high
    assert metric.chance < 0.34, "the ground everywhere: two of three classes at 0"
    assert result.details["train"] == 6
    assert result.details["grid"] == [8, 8]


def test_few_labels_and_training_data_of_one_s_own():
    result = segmentation(Averaged(), source(n=4), train=source(n=10), labelled=[1, 5])
    assert result.details["train"] == 10
    assert {"miou_of_1", "miou_of_5"} < set(result.metrics)
    assert result == segmentation(Averaged(), source(n=4), train=source(n=10), labelled=[5, 1])
    with pytest.raises(UserError, match="labelled"):
        segmentation(Averaged(), source(n=4), labelled=[3])


def test_scenes_bring_their_own_training_half():
    data = scenes("test", n=8, vocabulary="shapes", objects=2, size=32)
    result = segmentation(Averaged(), data, limit=8)
    assert result.details["train"] == 8
    assert result.details["classes"] == ["ground", *data.classes]
    for example in result.details["examples"]:
        assert np.array_equal(np.array(example["true"]), data[example["row"]]["mask"])


def test_the_masks_of_scenes_are_those_of_their_things():
    data = scenes("train", n=6, vocabulary="basic", objects=3)
    for record in data:
        mask = record["mask"]
        assert mask.shape == (64, 64)
        for thing in record["objects"]:
            assert (mask[thing["mask"]] == 1 + data.classes.index(thing["name"])).all()
        assert (mask > 0).sum() == sum(thing["mask"].sum() for thing in record["objects"])


@pytest.mark.parametrize(
    ("fit", "size"), [("crop", (48, 32)), ("crop", (32, 40)), ("squash", (64, 32)), ("pad", (48, 32))]
)
def test_a_mask_lies_as_the_model_sees_the_picture(fit, size):
    """On pictures that are not square: each pixel's class is the one whose colour lies there; what padding adds does
    not count."""
    pixels = Pixels(16, mean=(0.0,) * 3, std=(1.0,) * 3, fit=fit, resample="nearest")
    for record in records(4, size):
        mask = MaskField(16, window=pixels.window).prepare(record, None)
        shown = (pixels([record["image"]])[0].movedim(0, -1) * 255).round().to(torch.uint8).numpy()
        known = mask.numpy() >= 0
        agree = (COLOURS[mask.clamp_min(0).numpy()] == shown).all(-1)
        assert agree[known].mean() > 0.93, "edges may round otherwise"
        assert known.all() == (fit != "pad")
        assert (shown[~known] == 255).all()


def test_a_crop_takes_classes_away_with_their_pixels():
    """10 x 10, the left half seen: A (1, 1, 3, 3) stays, B (6, 6, 9, 9) goes, C (4, 4, 7, 7) keeps its column 4."""
    mask = np.zeros((10, 10), int)
    for number, (x0, y0, x1, y1) in enumerate([(1, 1, 3, 3), (6, 6, 9, 9), (4, 4, 7, 7)], 1):
        mask[y0:y1, x0:x1] = number
    kept = MaskField(10, window=lambda width, height: (0.0, 0.0, 5.0, 10.0)).prepare({"mask": mask}, None)
    assert sorted(kept.unique().tolist()) == [0, 1, 3]
    assert (kept == 3).sum() == 3 * 2  # one column, three rows, drawn twice as wide
    assert (kept[:, 8:] == 3).any(1).nonzero().flatten().tolist() == [4, 5, 6]


def test_masks_in_batches(tmp_path):
    path = tmp_path / "mask.png"
    paletted = Image.fromarray(np.array([[0, 1], [255, 2]], np.uint8), "L").convert("P")
    Image.fromarray(np.array([[0, 1], [255, 2]], np.uint8), "L").save(path)
    rows = [{"image": Image.new("RGB", (2, 2)), "mask": each} for each in (str(path), [[0, -1], [300, 255]])]
    loader = Loader(Records(rows), batch_size=2, fields=[MaskField(2)], shuffle=False)
    assert next(iter(loader))["mask"].tolist() == [[[0, 1], [-1, 2]], [[0, -1], [300, 255]]]
    assert class_numbers(paletted).shape == (2, 2)


@pytest.mark.parametrize(
    "mask", [None, "nowhere.png", [[0.5, 1.0]], [0, 1], "", Image.new("RGB", (2, 2)), [[0], [1, 2]]]
)
def test_masks_that_are_none_are_named(mask):
    with pytest.raises(BadRecord, match="mask"):
        class_numbers(mask)


def test_no_probe_moves_a_backbone_with_batch_norm():
    torch.manual_seed(0)
    model = image_encoder("micro-resnet").train()
    before = copy.deepcopy(model.state_dict())
    evaluate(model, source(), ["segmentation"], options={"segmentation": {"labelled": [2]}})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match="encode_image_map"):
        segmentation(torch.nn.Linear(2, 2), source())
    with pytest.raises(UserError, match="mask"):
        segmentation(Averaged(), Records([{"image": Image.new("RGB", (8, 8))}], name="plain"))
    with pytest.raises(UserError, match="train="):
        segmentation(Averaged(), Records([r | {"group": 0} for r in records(3)], name="one thing"))
    with pytest.raises(UserError, match="two classes"):
        CellProbe().fit(torch.randn(1, 2, 2, 2), torch.ones(1, 1, 2, 2))
    with pytest.raises(UserError, match="same cells"):
        CellProbe().fit(torch.randn(1, 2, 2, 2), torch.ones(1, 1, 2, 3))
    with pytest.raises(UserError, match="penalty"):
        CellProbe(penalty=-1.0)


def test_the_report_draws_masks_and_classes(tmp_path):
    data, model = source(), Averaged()
    results = {"segmentation": segmentation(model, data)}
    page = write_report(tmp_path, results=results, source=data).read_text()
    for text in (
        "Masks",
        "IoU by class",
        "segmentation, mIoU",
        "pixels right",
        "true",
        "predicted",
        "The row of cells",
    ):
        assert text in page, text
    assert page.count("data:image/webp;base64") >= 3 * 6


def test_training_pictures_number_the_same_classes():
    """Scenes of any noun show others in each split: what the training split calls 1 is another thing. Then half of the
    things are learnt from; another source given for training is refused."""
    model = Averaged()
    few = scenes("test", n=12, size=32)
    assert list(few.classes) != list(few.training().classes)
    result = segmentation(model, few, max_iter=2)
    assert result.details["train"] < 12
    assert result.details["classes"] == ["ground", *few.classes]
    same = scenes("test", n=4, size=32, vocabulary="shapes", relations=["above"])
    assert segmentation(model, same, max_iter=2, limit=6).details["train"] == 6, "the thousand of its own training"
    exchanged = Records(records(), name="exchanged", classes=["green", "red"])
    with pytest.raises(UserError, match="class 1 of the masks is 'green' in the training pictures and 'red'"):
        segmentation(model, source(), train=exchanged)


def test_hundreds_of_classes_take_no_memory_of_pictures_times_pixels_times_classes(monkeypatch):
    """A thousand scenes of 390 nouns took 20 GB. In parts the shares and classes are the same to the bit."""
    import nearfar.classifiers.cell_probe as probe

    masks = torch.randint(-1, 7, (9, 12, 12), generator=torch.Generator().manual_seed(0))
    cells = torch.randn(9, 7, 3, 3, generator=torch.Generator().manual_seed(1))
    whole = probe.class_shares(masks, 7, (3, 3)), probe.class_of_pixels(cells, 12)
    most = []
    for name in ("adaptive_avg_pool2d", "interpolate"):
        real = getattr(probe, name)
        monkeypatch.setattr(probe, name, lambda x, *a, real=real, **k: most.append(len(x)) or real(x, *a, **k))
    monkeypatch.setattr(probe, "AT_ONCE", 2 * 7 * 144)
    parts = probe.class_shares(masks, 7, (3, 3)), probe.class_of_pixels(cells, 12)
    assert max(most) == 2
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


def test_of_many_classes_the_highest_have_a_bar():
    """The names of 123 bars lay over each other."""
    from nearfar.evaluation.dense.segmentation_figure import segmentation_figure
    from nearfar.evaluation.measures.result import Metric, Result
    from nearfar.evaluation.report.blocks import Figures

    by = {"class": {f"class {i}": {"iou": Metric(i / 100, unit="%", n=3)} for i in range(60)}}
    details = {"grid": [8, 8], "train": 9, "side": 64, "classes": []}
    blocks = segmentation_figure({"segmentation": Result("segmentation", {}, by, details)}, None)
    (drawn,) = (block.figures[0].svg for block in blocks if isinstance(block, Figures))
    assert "the 40 highest of 60" in drawn
    assert "class 20 20.0" in drawn
    assert "class 19 19.0" not in drawn
