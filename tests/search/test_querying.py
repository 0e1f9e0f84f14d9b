import numpy as np
import pytest
from PIL import Image

from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.search import Index, Query, build, compose_query, query, zero_shot_labels
from nearfar.search.index.identity import check_model
from nearfar.search.index.writer import IndexWriter
from search.colours import ColourEncoder, draw, folder_source, png


@pytest.fixture
def index(encoder, world, tmp_path):
    return build(encoder, world, tmp_path / "index")


def captions(results):
    return [hit.captions[1] for hit in results]


def test_an_image_finds_itself_and_then_its_like(index, encoder, world):
    results = query(index, encoder, image=world[1]["image"], top=2)
    assert results[0].key == "world/toy:1"
    assert results[0].score == pytest.approx(1, abs=1e-5)
    assert captions(query(index, encoder, image=draw("green", "square"), top=2))[0] == "a green thing on white"


def test_text_is_added_to_an_image_and_taken_from_it(index, encoder):
    picture = draw("red", "disc", "white")
    assert captions(query(index, encoder, image=picture, top=1)) == ["a red thing on white"]
    added = query(index, encoder, image=picture, plus=["black"], minus=["white"], top=1)
    assert captions(added) == ["a red thing on black"]
    changed = query(index, encoder, image=picture, text="blue", minus=["red"], top=1)
    assert captions(changed) == ["a blue thing on white"]
    heavier = query(index, encoder, image=picture, plus=["blue"], weight=4.0, top=1)
    assert "blue" in heavier[0].caption


def test_compose_query_is_the_formula():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 5)), rng.standard_normal((3, 5))
    for sign in (1, -1):
        unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y)]
        q = unit[0] + sign * 0.5 * unit[1]
        expected = q / np.linalg.norm(q, axis=1, keepdims=True)
        np.testing.assert_allclose(compose_query(x, y, sign=sign, weight=0.5), expected, rtol=1e-5)
        np.testing.assert_allclose(compose_query(7 * x, 0.1 * y, sign=sign, weight=0.5), expected, rtol=1e-5)
    with pytest.raises(UserError, match="cancel out"):
        compose_query(x, 2 * x, sign=-1)
    with pytest.raises(ValueError, match="sign"):
        compose_query(x, y, sign=0)


def test_a_query_embeds_as_the_sum_of_its_terms(encoder):
    def unit(text):
        return encoder.encode_text(encoder.tokenize([text]), normalize=True)[0].numpy()

    picture = draw("green")
    x = encoder.encode_image(encoder.preprocess([picture]), normalize=True)[0].numpy()
    total = unit("red") + x + 0.5 * unit("blue") - 0.5 * unit("white") - 0.5 * unit("black")
    composed = Query(text="red", image=picture, plus=("blue",), minus=("white", "black"), weight=0.5)
    np.testing.assert_allclose(composed.embed(encoder), total / np.linalg.norm(total), rtol=1e-5)


@pytest.mark.parametrize("nothing", [{}, {"text": ""}, {"text": "  ", "plus": [""]}])
def test_asking_nothing_is_an_error(index, encoder, nothing):
    with pytest.raises(UserError, match="nothing to look for"):
        query(index, encoder, **nothing)


def test_terms_that_cancel_are_an_error(index, encoder):
    with pytest.raises(UserError, match="cancel out"):
        query(index, encoder, text="red", minus=["red"])


@pytest.mark.parametrize("bad", [b"", b"no picture", png(draw("red"))[:50], "/no/such/file.png"])
def test_a_broken_query_picture_is_named(index, encoder, bad):
    with pytest.raises(UserError):
        query(index, encoder, image=bad)


def test_a_reranker_sees_deep_and_decides(index, encoder):
    calls = []

    def by_darkness(composed, candidates):
        calls.append((composed.text, len(candidates)))
        return [-np.asarray(hit.image()).mean() for hit in candidates]

    results = query(index, encoder, text="red", top=2, rerank=by_darkness, depth=6)
    assert calls == [("red", 6)]
    assert len(results) == 2
    assert all("black" in hit.captions[1] for hit in results)
    assert [hit.rank for hit in results] == [1, 2]
    assert results[0].score >= results[1].score
    assert "6 candidates re-ranked" in results.cost
    assert "rerank" in results.seconds
    with pytest.raises(ValueError, match="1 scores for 8"):
        query(index, encoder, text="red", rerank=lambda q, c: [0.0])


def test_more_hits_than_pictures_gives_all(index, encoder):
    assert len(query(index, encoder, text="red", top=100)) == 8
    with pytest.raises(UserError, match="at least 1"):
        query(index, encoder, text="red", top=0)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_refused(index, encoder, weight):
    with pytest.raises(UserError, match="a weight of the query is no number"):
        query(index, encoder, text="red", plus=["blue"], weight=weight)


def test_an_empty_index_and_another_width_say_so(encoder, tmp_path):
    IndexWriter.create(tmp_path / "index", model="m", dim=7, probe=[]).close()
    with pytest.raises(UserError, match="is empty"):
        query(Index(tmp_path / "index"), encoder, text="red")


def test_another_width_and_nan_are_refused(index):
    with pytest.raises(UserError, match=r"5-d .* 7-d"):
        index.search(np.ones(5, "f4"))
    with pytest.raises(UserError, match="NaN"):
        index.search(np.full(7, np.nan, "f4"))


def test_the_model_is_checked_by_what_it_sees(index, encoder):
    check_model(index.manifest, encoder, where="index")
    with pytest.raises(UserError, match="probe picture has cosine"):
        check_model(index.manifest, ColourEncoder(turn=0.5), where="index")
    narrow = ColourEncoder()
    narrow._finish = lambda z, normalize: z[:, :3] + 0.1  # type: ignore[method-assign]
    with pytest.raises(UserError, match="3-d embeddings and the index holds 7-d"):
        check_model(index.manifest, narrow, where="index")


def test_a_file_that_went_is_named_by_its_hit(encoder, photos, tmp_path):
    index = build(encoder, folder_source(photos), tmp_path / "index")
    (photos / "red-disc.png").unlink()
    hit = next(h for h in query(index, encoder, text="red", top=9) if "red disc" in h.caption)
    with pytest.raises(UserError, match=r"red-disc.png.*nearfar index"):
        hit.image()


def test_large_bytes_are_kept_as_a_thumbnail(encoder, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 600, 3), dtype=np.uint8))
    index = build(encoder, Records([{"image": png(noise), "text": "noise"}]), tmp_path / "index")
    assert index.hits([0.0], [0])[0].image().size == (256, 171)


def test_labels_of_the_index(index, encoder, photos, tmp_path):
    assert index.labels() == ["blue disc", "green disc", "red disc", "yellow disc"]
    unlabelled = build(encoder, folder_source(photos), tmp_path / "other")
    assert "a red disc" in unlabelled.labels()


def test_zero_shot_labels(encoder):
    labels = zero_shot_labels(encoder, draw("blue", "bar"), ["red", "blue ", "blue", "", "green"], templates="name")
    assert labels[0].name == "blue"
    assert len(labels) == 3
    assert sum(label.share for label in labels) == pytest.approx(1)
    assert labels[0].score > labels[1].score >= labels[2].score
    with pytest.raises(UserError, match="no labels"):
        zero_shot_labels(encoder, draw("blue"), [" "])
