"""The error tree.

Every error that a user can cause says in one line what was expected, what came and what to do, and is raised before
any expensive work starts. Each is also the builtin that a caller would expect, so ``except ValueError`` keeps working.
"""


class HNDatasetsError(Exception):
    """Base of every error that this package raises on purpose."""


class ArgumentError(HNDatasetsError, ValueError):
    """An argument is out of range, contradicts another one, or has no effect."""


class ColumnError(HNDatasetsError, ValueError):
    """A dataset column is missing, has the wrong type, or is named twice."""


class TextError(HNDatasetsError, ValueError):
    """A text is None, empty or only white space, or there is no text at all."""


class VectorError(HNDatasetsError, ValueError):
    """Vectors have the wrong shape, another dimension, or values that are not finite."""


class TeacherError(HNDatasetsError, RuntimeError):
    """A teacher cannot be loaded or cannot score these texts."""


class StoreError(HNDatasetsError, OSError):
    """The embedding store cannot be written, for instance because the disk is full."""


class DataSourceError(HNDatasetsError, ValueError):
    """A data source given on the command line cannot be read."""


class ClusterError(HNDatasetsError, RuntimeError):
    """A Ray cluster does not answer, or its nodes lack what the work needs."""


class ReleaseError(HNDatasetsError, RuntimeError):
    """A release cannot be made: its version is taken, its data is unsound, or the Hub does not let it in."""


class MissingPromptWarning(UserWarning):
    """A model family is known to need prompts, and none is set."""


class WeakTeacherWarning(UserWarning):
    """A teacher is known to give negatives that train worse than random ones."""


class ShortRowsWarning(UserWarning):
    """Rows have fewer negatives than asked for."""


class ReplacedColumnsWarning(UserWarning):
    """A dataset has columns of its own with the names of those that mining adds, and would lose them."""


class DamagedShardWarning(UserWarning):
    """A shard of the embedding store does not match its checksum and is encoded again."""


class UnkeptRowsWarning(UserWarning):
    """Mined rows cannot be kept, so an interrupted run would search them again."""
