"""Guards: rules that keep likely false negatives out, whatever their score."""

from hn_datasets.guards.base import Block, Guard, Rule, Sieve, Sources, merge, same_texts
from hn_datasets.guards.cross_encoder import CrossEncoderGuard
from hn_datasets.guards.groups import SameGroup
from hn_datasets.guards.held_out import HeldOut
from hn_datasets.guards.loading import GUARDS, describe_guards, guard_from_dict
from hn_datasets.guards.near_duplicate import NearDuplicate
from hn_datasets.guards.similar import SimilarToPositive

__all__ = [
    "GUARDS",
    "Block",
    "CrossEncoderGuard",
    "Guard",
    "HeldOut",
    "NearDuplicate",
    "Rule",
    "SameGroup",
    "Sieve",
    "SimilarToPositive",
    "Sources",
    "describe_guards",
    "guard_from_dict",
    "merge",
    "same_texts",
]
