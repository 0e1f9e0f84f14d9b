"""`nearfar heatmap`."""

from __future__ import annotations

from pathlib import Path


def heatmap(
    model: Path,
    picture: Path,
    words: str,
    *,
    out: Path = Path("heatmap.png"),
    center: bool = False,
    ignore: str = "a, an, the",
) -> None:
    """Draw where in a picture a vision-language model has put words (CG-VLM).

    Each place of the picture is one token to the language model. Its cosine with the rows of a word in the model's own
    table says how near the two are: the brighter, the nearer. All words have one scale. What a model means by it
    depends on its training: recipes cg-vlm and cg-vlm-paper bring places near their words, captions alone need not.

    Args:
        model: the folder of a vision-language model that nearfar saved.
        picture: a file.
        words: words, or several that belong together, with commas between: "red car, tree, sky".
        out: the drawing, a .png, .svg or .pdf.
        center: subtract the mean of the table of words first, for a model that was trained with it.
        ignore: words that do not count within others, with commas between.
    """
    from rich.console import Console

    from nearfar.data.pictures.images import load_image
    from nearfar.data.sources.skipped import BadRecord
    from nearfar.errors import UserError
    from nearfar.evaluation.words.word_heatmaps import draw_word_heatmaps, peak
    from nearfar.models import VisionLanguageModel, load
    from nearfar.models.vlm.patch_word_heatmap import patch_word_heatmap

    phrases, left_out = (listed(text) for text in (words, ignore))
    if not phrases:
        raise UserError("words are missing: name some, with commas between")
    opened = load(str(model))
    if not isinstance(opened, VisionLanguageModel):
        raise UserError(f"{model} is a {type(opened).__name__}: name the folder of a vision_language_model")
    try:
        shown = load_image(picture)
    except BadRecord as error:
        raise UserError(f"{picture}: {error}") from None
    known = [word for word in left_out if is_one_token(opened.tokenizer, word)]
    pixels = opened.preprocess([shown])
    tokens = opened.picture_tokens(pixels.to(opened.device)).detach().expand(len(phrases), -1, -1)
    heat = patch_word_heatmap(opened, tokens, phrases, center=center, ignore=known).cpu().numpy()
    drawn = draw_word_heatmaps(shown, phrases, heat, opened.pixels.window(*shown.size), out)
    console = Console(soft_wrap=True, highlight=False)
    for phrase, each in zip(phrases, heat, strict=True):
        row, column = peak(each)
        where = f"peaks at row {row + 1} of {each.shape[0]}, column {column + 1} of {each.shape[1]}"
        console.print(f"{phrase}: {where}, cosine {each.max():.3f}, {each.mean():.3f} on average", markup=False)
    console.print(f"written to {drawn}", markup=False)


def listed(text: str) -> list[str]:
    """What stands between commas.

    >>> listed(" red car, tree,,sky ")
    ['red car', 'tree', 'sky']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def is_one_token(tokenizer: object, word: str) -> bool:
    """Whether a tokenizer has a token for this word alone."""
    from nearfar.errors import UserError
    from nearfar.models.vlm.patch_word_space import ignored_tokens

    try:
        return bool(ignored_tokens(tokenizer, [word]))
    except UserError:
        return False
