"""Tokenisers for BM25: what turns a text into the terms that are counted."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, cached_property, reduce
from typing import Any, Protocol

from datasets.fingerprint import Hasher

from hn_datasets.errors import ArgumentError, TeacherError
from hn_datasets.texts import digest_of, normalise
from hn_datasets.threads import num_threads


class Tokenizer(Protocol):
    """What all tokenisers share: a text always gives the same tokens, whatever texts stand beside it."""

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that decides the tokens, as JSON data that ``tokenizer_from_spec`` takes."""

    def tokenize(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the tokens of each text, in the order of the text."""


class WordTokenizer:
    r"""Unicode words (``\w+``) of the normalised text; for languages that put spaces between words."""

    spec: dict[str, Any] = {"name": "words"}  # noqa: RUF012

    def tokenize(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the words of each text."""
        return [re.findall(r"\w+", normalise(text)) for text in texts]


class CharBigramTokenizer:
    """Pairs of neighbouring characters of the normalised text, none across white space; for Japanese and Chinese."""

    spec: dict[str, Any] = {"name": "char-bigrams"}  # noqa: RUF012

    def tokenize(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the bigrams of each text; a character that stands alone is a token itself."""
        return [[token for run in normalise(text).split() for token in _bigrams(run)] for text in texts]


class KiwiTokenizer:
    """Korean content morphemes: nouns, stems of verbs and adjectives, roots, foreign words and numbers.

    Particles, endings, affixes and punctuation are left out, so that one noun with two particles is one term.

    Raises:
        TeacherError: kiwipiepy is not installed.
    """

    # N: nouns, pronouns, numerals; VV, VA: verb and adjective stems; XR: roots; SL, SH, SN: Latin letters, Chinese
    # characters, digits; W: addresses and the like; UN: what the analyser does not know.
    _CONTENT = re.compile(r"N|VV|VA|XR|SL|SH|SN|W_|UN")

    def __init__(self) -> None:
        try:
            package = importlib.import_module("kiwipiepy")
            model = importlib.import_module("kiwipiepy_model")
        except ImportError as error:
            raise TeacherError(
                f'Tokeniser "kiwi" needs kiwipiepy, which cannot be imported ({error}); '
                'run: pip install "hn-datasets[korean]"'
            ) from error
        self.spec: dict[str, Any] = {
            "name": "kiwi",
            "kiwipiepy": package.__version__,
            "kiwipiepy_model": model.__version__,
        }

    def tokenize(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the content morphemes of each text, in dictionary form, case folded."""
        forms = [unicodedata.normalize("NFKC", _without_surrogates(text)) for text in texts]
        kiwi, made_in = _load_kiwi()
        # The worker threads of an analyser made before a fork do not live in the child: a batch would wait for ever.
        results = kiwi.tokenize(forms) if made_in == os.getpid() else map(kiwi.tokenize, forms)
        content = self._CONTENT.match
        return [[token.form.casefold() for token in result if content(token.tag)] for result in results]


class PretrainedTokenizer:
    """A Hugging Face tokeniser, without special tokens; loaded when it is first used.

    Args:
        path: a folder, or a name on the Hub.
        digest: what ``spec`` gave earlier; the tokeniser must still be that one.
    """

    def __init__(self, path: str, digest: str | None = None) -> None:
        self.path = path
        self._digest = digest

    @property
    def spec(self) -> dict[str, Any]:
        """The path and a digest of the tokeniser.

        Raises:
            TeacherError: the tokeniser cannot be loaded, or is not the one of the digest.
        """
        return {"name": "huggingface", "path": self.path, "digest": self._digest or self._loaded[1]}

    def tokenize(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the tokens of each text, never truncated.

        Raises:
            TeacherError: the tokeniser cannot be loaded, or is not the one of the digest.
        """
        tokenizer = self._loaded[0]
        forms = [_without_surrogates(text) for text in texts]
        if not tokenizer.is_fast:
            return [list(tokenizer.tokenize(form)) for form in forms]
        encodings = tokenizer.backend_tokenizer.encode_batch(forms, add_special_tokens=False)
        return [list(encoding.tokens) for encoding in encodings]

    @cached_property
    def _loaded(self) -> tuple[Any, str]:
        tokenizer = _load_pretrained(self.path)
        if tokenizer.is_fast:
            # Both settings are part of the file, and of the digest if they were left on.
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
            digest = digest_of(tokenizer.backend_tokenizer.to_str())
        else:
            digest = digest_of(type(tokenizer).__name__, json.dumps(sorted(tokenizer.get_vocab().items())))
        if self._digest not in (None, digest):
            raise TeacherError(
                f"Expected tokeniser {self.path!r} with digest {self._digest}, got {digest}: it has changed since; "
                "give the revision that was used, or make a new teacher."
            )
        return tokenizer, digest


class CallableTokenizer:
    """A function of the user: one text in, its list of tokens out."""

    def __init__(self, function: Callable[[str], list[str]]) -> None:
        self.function = function

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The name of the function and a digest of its pickle and its source."""
        module, qualname = _name_of(self.function)
        return {"name": "callable", "module": module, "qualname": qualname, "hash": _hash_function(self.function)}

    def tokenize(self, texts: Sequence[str]) -> list[list[str]]:
        """Return what the function returns for each text.

        Raises:
            TeacherError: that is not a list of strings.
        """
        return [self._tokens(text) for text in texts]

    def _tokens(self, text: str) -> list[str]:
        tokens = self.function(text)
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise TeacherError(
                f"Expected a list of strings from the tokeniser {_describe(self.spec)}, got {tokens!r:.80} "
                f"for the text {text!r:.80}; make it return list[str]."
            )
        return tokens


TokenizerChoice = str | os.PathLike[str] | Callable[[str], list[str]]

_NAMED: dict[str, Callable[[], Tokenizer]] = {
    "words": WordTokenizer,
    "kiwi": KiwiTokenizer,
    "char-bigrams": CharBigramTokenizer,
}


def make_tokenizer(choice: TokenizerChoice) -> Tokenizer:
    """Return the tokeniser that a user asked for.

    Args:
        choice: ``"words"``, ``"kiwi"``, ``"char-bigrams"``, the path or name of a Hugging Face tokeniser, or a
            function from a text to a list of tokens.

    Raises:
        ArgumentError: it is none of these.
        TeacherError: ``"kiwi"`` without kiwipiepy.
    """
    if isinstance(choice, (str, os.PathLike)) and os.fspath(choice):
        name = os.fspath(choice)
        return _NAMED[name]() if name in _NAMED else PretrainedTokenizer(name)
    if callable(choice):
        return CallableTokenizer(choice)
    raise ArgumentError(
        f"Expected a tokeniser ({', '.join(_NAMED)}, the path or name of a Hugging Face tokeniser, or a function "
        f"from a text to a list of tokens), got {choice!r}; give one of these."
    )


def tokenizer_from_spec(spec: dict[str, Any]) -> Tokenizer:
    """Return the tokeniser whose ``spec`` this is.

    Raises:
        ArgumentError: the spec is of no kind that is known.
        TeacherError: this machine has another version of it, or a function cannot be imported by its name.
    """
    name = spec.get("name")
    if name == "huggingface":
        return PretrainedTokenizer(spec["path"], spec["digest"])
    if name == "callable":
        tokenizer: Tokenizer = CallableTokenizer(_import_function(spec))
    elif name in _NAMED:
        tokenizer = _NAMED[name]()
    else:
        raise ArgumentError(
            f"Unknown tokeniser {name!r} in a spec; expected huggingface, callable, {', '.join(_NAMED)}."
        )
    if tokenizer.spec != spec:
        raise TeacherError(
            f"Expected tokeniser {json.dumps(spec)}, got {json.dumps(tokenizer.spec)}; "
            "install or restore the one that the spec was made with, or make a new teacher."
        )
    return tokenizer


@cache
def _load_kiwi() -> tuple[Any, int]:
    """Return the one analyser of this process and those forked from it, and the process that made it.

    It takes seconds and half a gigabyte to make.
    """
    return importlib.import_module("kiwipiepy").Kiwi(num_workers=num_threads()), os.getpid()


def _bigrams(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)] or [run]


def _without_surrogates(text: str) -> str:
    """Put "?" for every lone surrogate, which compiled tokenisers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _load_pretrained(path: str) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415  (seconds to import, and only this tokeniser needs it)

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # transformers lets many kinds through, a bare Exception among them
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise TeacherError(
            f"Expected {', '.join(_NAMED)}, or the path or name of a Hugging Face tokeniser, got {path!r}: "
            f"AutoTokenizer.from_pretrained({path!r}) failed ({reason}); check the name, pass a function "
            "from a text to its tokens for any other, or to work offline give a folder that holds the tokeniser, or "
            "download it once and set HF_HUB_OFFLINE=1."
        ) from error


def _name_of(function: Callable[[str], list[str]]) -> tuple[str, str]:
    """Return module and qualified name: of a function, of a method such as ``str.split``, or of an object's class."""
    named = function if hasattr(function, "__qualname__") else type(function)
    owner = named if getattr(named, "__module__", None) else getattr(named, "__objclass__", type(named))
    return str(owner.__module__), str(named.__qualname__)


def _hash_function(function: Callable[[str], list[str]]) -> str:
    """Hash a function with its source: a function of a module is pickled as its name, which an edit does not change."""
    try:
        source = inspect.getsource(function if hasattr(function, "__qualname__") else type(function))
    except (OSError, TypeError):  # no source: a builtin, or typed at a prompt
        source = ""
    return str(Hasher.hash((function, source)))


def _import_function(spec: dict[str, Any]) -> Callable[[str], list[str]]:
    module, qualname = spec["module"], spec["qualname"]
    try:
        function: Any = reduce(getattr, qualname.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise TeacherError(
            f"Expected a tokeniser function that can be imported, got {module}.{qualname}; "
            "define it with def at the top level of a module, no lambda and no function inside a function."
        ) from error
    return function  # type: ignore[no-any-return]


def _describe(spec: dict[str, Any]) -> str:
    """Return a short name of a tokeniser for messages."""
    if spec["name"] == "callable":
        return f"{spec['module']}.{spec['qualname']}"
    return repr(spec.get("path", spec["name"]))
