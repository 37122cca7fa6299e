"""All errors that this package raises on purpose.

    StreamDetectorError            base; the message is one sentence: what was wrong, what was expected, what to do
    ├── UsageError                 bad input or usage; the command line exits with 2
    │   ├── ConfigError            a configuration file, key or value
    │   ├── SourceError            a source that cannot be opened or is not a video
    │   ├── BundleError            a model bundle that is malformed, or whose fingerprint does not match
    │   ├── CheckpointError        a weights file that cannot be recognised or read safely
    │   ├── EndpointError          an endpoint that cannot be bound, or must not be
    │   ├── AccessError            a write of somebody who may only read
    │   ├── DataError              data (frames, tables, features) of the wrong shape, type, name or content
    │   └── MissingExtraError      an optional dependency that is not installed
    └── RunError                   the run itself failed; the command line exits with 1
        ├── EngineError            the inference engine failed (out of memory, lost device)
        ├── StageError             a stage of the pipeline raised
        ├── LedgerError            the event journal could not be used
        ├── OutputError            standard output is closed or full
        └── ProtocolError          a peer sent data that violates the protocol

Errors of third-party libraries are converted to one of these where the library is called.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"""[^\s'"]+""")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:/{1,2}", re.IGNORECASE)


def redacted(text: str) -> str:
    """Return a text without the user, password, query and fragment of anything in it that looks like an address.

    The time grows linearly with the text, because peers send some of what it quotes.
    """
    return _WORD.sub(_word_redacted, text)


def _word_redacted(found: re.Match[str]) -> str:
    word = found[0]
    address = word.find(":/")
    first = word.find("@")
    if first >= 0 and word.find(":", 0, first) >= 0:  # "user:password@", perhaps behind a scheme
        scheme = _SCHEME.match(word)
        kept = scheme[0] if scheme and word.find(":", scheme.end(), first) >= 0 else ""
        word, address = f"{kept}…@{word[word.rfind('@') + 1 :]}", 0
    if address >= 0:
        ends = [at for mark in "?#\\" if (at := word.find(mark, address)) >= 0]
        if ends and min(ends) + 1 < len(word):
            word = word[: min(ends) + 1] + "…"
    return word


class StreamDetectorError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line returns.

    A sentence may quote what a user wrote, so it is `redacted` here, once for all of them.
    """

    exit_code = 1

    def __init__(self, sentence: str = "", *more: object) -> None:
        super().__init__(redacted(sentence), *more)


class UsageError(StreamDetectorError):
    """Bad input or usage."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file, key or value is wrong."""


class SourceError(UsageError):
    """A source cannot be opened or is not a video."""


class BundleError(UsageError):
    """A model bundle is malformed or its fingerprint does not match."""


class CheckpointError(UsageError):
    """A weights file cannot be recognised or read safely, or a bundle's weights are not in the cache."""


class EndpointError(UsageError):
    """An endpoint cannot be bound, or must not be."""


class AccessError(UsageError):
    """Somebody who may only read wanted to write."""


class DataError(UsageError):
    """Data has the wrong shape, type, name or content.

    Raised for frames and times that are pushed into a `Session`, for tables (scores.csv, events.jsonl), heads, and
    files of a site that cannot be read or do not fit, and by the trainer for its recordings, labels and features.
    """


class MissingExtraError(UsageError):
    """An optional dependency is not installed. distribution: the distribution that has the extra."""

    def __init__(self, what: str, package: str, extra: str, distribution: str = "stream-detector") -> None:
        super().__init__(
            f"{what} needs the package {package!r}, which is not installed; run: pip install '{distribution}[{extra}]'"
        )


class RunError(StreamDetectorError):
    """The run itself failed."""


class EngineError(RunError):
    """The inference engine failed."""


class StageError(RunError):
    """A stage of the pipeline raised, or the caller of `watch` did not take the events of a live camera in time."""


class LedgerError(RunError):
    """The event journal, or a subscriber's cursor file, could not be read or written."""


class OutputError(RunError):
    """Standard output cannot be written.

    gone: its reader closed it (`| head`); then nothing is printed, as in other tools, and the exit code is that of
    SIGPIPE.
    """

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(f"standard output cannot be written ({reason}); free the disk, or send it elsewhere")
        self.gone = gone
        self.exit_code = 141 if gone else 1


class ProtocolError(RunError):
    """A peer sent data that violates the protocol."""
