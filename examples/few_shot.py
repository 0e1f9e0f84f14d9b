"""OpTA on plain features (BECLR, arXiv 2402.02444): few-shot classification without a model.

    python examples/few_shot.py 200

Each episode takes five emojis. One drawing of each is the example, the drawings in the other four styles are sorted by
it: by the nearest example, and by examples that optimal transport moved onto the queries first. The features are
pictures of 8 x 8 pixels; any vectors will do. The number is how many episodes to draw.
"""

import io
import sys

import numpy as np
from PIL import Image

from nearfar.classifiers import NearestMean, OpTA
from nearfar.data import world

EPISODES = int(sys.argv[1]) if len(sys.argv) > 1 else 200


def feature(record):
    picture = Image.open(io.BytesIO(record["image"])).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB").resize((8, 8)), dtype=np.float32).ravel()


source = world.emoji("test")
records = [source[i] for i in range(len(source))]
features = np.stack([feature(record) for record in records])
label = np.array([record["label"] for record in records])
style = np.array([record["style"] for record in records])

draw = np.random.default_rng(0)
accuracies = {"nearest example": [], "OpTA": [], "OpTA, no balance presumed": []}
for _ in range(EPISODES):
    chosen = np.isin(label, draw.choice(label.max() + 1, 5, replace=False))
    example = chosen & (style == draw.choice(np.unique(style)))
    query = chosen & ~example
    for name, classifier in {
        "nearest example": NearestMean(),
        "OpTA": OpTA(),
        "OpTA, no balance presumed": OpTA(prior="relaxed"),
    }.items():
        classifier.fit(features[example], label[example])
        accuracies[name].append(classifier.score(features[query], label[query]))

for name, values in accuracies.items():
    error = 1.96 * np.std(values, ddof=1) / len(values) ** 0.5
    print(f"{name}: {100 * np.mean(values):.1f} ± {100 * error:.1f} % of queries (chance 20.0)")
