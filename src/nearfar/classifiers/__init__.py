"""Classifiers of embeddings, one file each: by the texts of the classes, their mean, their neighbours, a linear map."""

from nearfar.classifiers.class_means import NearestMean
from nearfar.classifiers.classifier import Classifier
from nearfar.classifiers.k_nearest import KNearest
from nearfar.classifiers.linear import LinearProbe
from nearfar.classifiers.zero_shot import ZeroShotClassifier, class_prototypes

__all__ = ["Classifier", "KNearest", "LinearProbe", "NearestMean", "ZeroShotClassifier", "class_prototypes"]
