"""What papers, and the code that their authors released, give for each setting of the recipes at their scale."""

from training.paper_values import class_pairs, few_shot, image, image_text, pixels, texts, videos, views

EXPECTED = {
    **image_text.VALUES,
    **image.VALUES,
    **few_shot.VALUES,
    **class_pairs.VALUES,
    **views.VALUES,
    **texts.VALUES,
    **pixels.VALUES,
    **videos.VALUES,
}
