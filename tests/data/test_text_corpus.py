import pytest

from nearfar.data.sources.text_corpus import corpus, passages
from nearfar.errors import UserError


def test_passages_keep_every_word_in_order():
    text = "one two three\n\nfour\n\n" + " ".join(f"w{i}" for i in range(25)) + "\n \nlast"
    cut = list(passages(text, 10))
    assert " ".join(cut).split() == text.split()
    assert max(len(passage.split()) for passage in cut) <= 10
    assert cut[0] == "one two three\n\nfour"


def test_a_folder_is_read_in_order_and_files_are_not_joined(tmp_path):
    (tmp_path / "b.md").write_text("second file", "utf-8")
    (tmp_path / "a.txt").write_text("first file", "utf-8")
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    assert corpus(tmp_path).texts() == ["first file", "second file"]


def test_hidden_files_and_folders_that_are_called_as_texts_are_passed_over(tmp_path):
    (tmp_path / ".in" / ".ipynb_checkpoints").mkdir(parents=True)
    root = tmp_path / ".in"  # what is named itself may be hidden
    (root / ".ipynb_checkpoints" / "a.txt").write_text("a copy", "utf-8")
    (root / "._a.txt").write_bytes(b"\x00\x05\xff")
    (root / ".#a.txt").symlink_to("somebody@here.7")
    (root / "notes.md").mkdir()
    (root / "notes.md" / "a.txt").write_text("the text", "utf-8")
    assert corpus(root).texts() == ["the text"]


def test_splits_part_the_passages():
    everything = corpus("python", words=80)
    train, test = corpus("python", words=80, split="train"), corpus("python", words=80, split="test")
    assert len(train) + len(test) == len(everything) > 500
    assert not set(train.texts()) & set(test.texts())
    assert 0.05 < len(test) / len(everything) < 0.2
    assert sum(len(text.split()) for text in everything.texts()) > 30_000


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        corpus(tmp_path / "missing")
    with pytest.raises(UserError, match=r"holds no \.txt"):
        corpus(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(UserError, match=r"latin\.txt is not UTF-8 text .* at byte 3"):
        corpus(tmp_path)
    (tmp_path / "latin.txt").write_text("", "utf-8")
    with pytest.raises(UserError, match="no text in it"):
        corpus(tmp_path)
    with pytest.raises(UserError, match="'train' and 'test'"):
        corpus("python", split="dev")


def test_lines_and_sentences(tmp_path):
    """SimCSE's file has a sentence a line, and no blank lines between."""
    file = tmp_path / "wiki.txt"
    file.write_text("A cat sleeps.\nIt rains. It pours.\n\n  \nThe end\n")
    assert [r["text"] for r in corpus(file, unit="lines")] == ["A cat sleeps.", "It rains. It pours.", "The end"]
    cut = [r["text"] for r in corpus(file, unit="sentences")]
    assert cut == ["A cat sleeps.", "It rains.", "It pours.", "The end"]
    assert len(corpus("python", unit="sentences")) > 2000
    with pytest.raises(UserError, match="choose one of passages, lines, sentences"):
        corpus(file, unit="words")


def test_a_line_ends_where_lines_end_and_not_at_other_signs(tmp_path):
    """A mark of the file's encoding, and lines that nobody sees, are no text; a NUL within a line is left to the
    tokenizer."""
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\n\u200b\n\0\0\na b\u2028c\nd\x85e\x0cf\ng\0h\nx\nx".encode())
    assert corpus(file, unit="lines").texts() == ["one", "a b\u2028c", "d\x85e\x0cf", "g\0h", "x", "x"]
    file.write_bytes(bytes(4096))  # as a disk that was full leaves it
    for unit in ("lines", "sentences", "passages"):
        with pytest.raises(UserError, match="no text in it"):
            corpus(file, unit=unit)


def test_languages_without_blanks_have_sentences_and_passages(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("吾輩は猫である。名前は「まだ無い。」と言う！！どこ？\n\nयह एक है। वह दो है। The 3.5 end", "utf-8")  # noqa: RUF001
    first = ["吾輩は猫である。", "名前は「まだ無い。」と言う！！", "どこ？"]  # noqa: RUF001
    assert corpus(file, unit="sentences").texts() == [*first, "यह एक है।", "वह दो है।", "The 3.5 end"]
    long = "猫と犬がいる。" * 50
    cut = list(passages(f"{long}\n\nend", 20))
    assert "".join(cut).replace("\n\n", "") == long + "end"
    assert max(len(passage) for passage in cut) <= 20 + len("\n\nend")
    assert list(passages("two words 猫と犬 and more", 4)) == ["two words 猫と", "犬 and more"]
