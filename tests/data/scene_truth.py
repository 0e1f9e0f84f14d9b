"""What is to be seen in a scene, read off the boxes of its things."""

from nearfar.data.scenes.captions import PHRASES

PHRASE = {phrases[0]: relation for relation, phrases in PHRASES.items()}


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def holds(relation, a, b):
    """Whether a relation is to be seen in the boxes of two things."""
    (ax, ay), (bx, by) = centre(a["box"]), centre(b["box"])
    side_a, side_b = (thing["box"][2] - thing["box"][0] for thing in (a, b))
    tall_a, tall_b = (thing["box"][3] - thing["box"][1] for thing in (a, b))
    area_a, area_b = max(side_a, tall_a), max(side_b, tall_b)
    within = abs(ax - bx) < max(side_a, side_b) / 4 and abs(ay - by) < max(tall_a, tall_b) / 4
    return {
        "left of": ax < bx,
        "right of": ax > bx,
        "above": ay < by,
        "below": ay > by,
        "bigger than": area_a > area_b,
        "smaller than": area_a < area_b,
        "inside": within and area_a < area_b,
        "around": within and area_a > area_b,
    }[relation]


def parts_of(question, things):
    """The two things and the relation of a question."""
    inner = question.removeprefix("is ").removesuffix("?").removeprefix("the ")
    names = {thing["name"]: thing for thing in things}
    for phrase, relation in sorted(PHRASE.items(), key=lambda pair: -len(pair[0])):
        first, matched, second = inner.partition(f" {phrase} the ")
        if matched and first in names and second in names:
            return names[first], relation, names[second]
    raise AssertionError(question)
