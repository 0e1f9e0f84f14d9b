"""What papers, and the code that their authors released, give for each setting of the recipes at their scale."""

from training.paper_values import few_shot, image, image_text, texts, views

EXPECTED = {**image_text.VALUES, **image.VALUES, **few_shot.VALUES, **views.VALUES, **texts.VALUES}
