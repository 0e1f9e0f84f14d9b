"""Pairs of classes: the gate that opens a subspace to each, the rule that draws them, what they say of the classes."""

from nearfar.methods.class_pairs.class_pair_gate import ClassPairGate
from nearfar.methods.class_pairs.class_relations import ClassRelations
from nearfar.methods.class_pairs.pair_rules import PairRule

__all__ = ["ClassPairGate", "ClassRelations", "PairRule"]
