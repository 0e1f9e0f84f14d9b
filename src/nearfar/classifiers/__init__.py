"""Classifiers of embeddings, one file each: by the texts of the classes, their means, their means moved onto the
queries, their neighbours, a linear map, one that was trained on texts; and of texts, by a head that matches them with
labels."""

from nearfar.classifiers.class_means import NearestMean
from nearfar.classifiers.classifier import Classifier
from nearfar.classifiers.k_nearest import KNearest
from nearfar.classifiers.label_matching import LabelMatchClassifier
from nearfar.classifiers.linear import LinearProbe
from nearfar.classifiers.text_trained import TextTrained
from nearfar.classifiers.transported_means import OpTA, opta
from nearfar.classifiers.zero_shot import ZeroShotClassifier, class_prototypes

__all__ = [
    "Classifier",
    "KNearest",
    "LabelMatchClassifier",
    "LinearProbe",
    "NearestMean",
    "OpTA",
    "TextTrained",
    "ZeroShotClassifier",
    "class_prototypes",
    "opta",
]
