"""Every error a person can meet, in one tree.

    TunestoneError                     code, message, and what to do about it
    ├── RequestError                   what was asked for is wrong; asking again will not help
    │   ├── ConfigError                a setting is unknown, out of range, or fights with another
    │   ├── DataError                  a data file or one of its rows; names file and line
    │   ├── ModelError                 a model or tokenizer that cannot be trained
    │   ├── RewardError                a reward that cannot be loaded, or fails too often
    │   ├── SandboxError               nothing on this machine can confine reward code
    │   ├── RunError                   a run folder that is missing, locked or not as expected
    │   ├── UnknownModelError          no base, tuned model or deployment of that name
    │   ├── ContextLengthError         a prompt and its answer outgrow the model's positions
    │   ├── GrammarError               an answer's format that cannot be enforced
    │   └── DivergedError              the settings made the weights run away
    └── WorldError                     the world failed; trying again makes sense
        ├── ModelNotReadyError         a model or deployment that cannot answer yet
        ├── OverloadedError            too many questions are waiting already
        ├── DownloadError              no network, a broken download, a wrong checksum
        └── StorageError               the disk is full or a file cannot be written

Anything else that escapes is our own fault and is shown with its traceback, never masked.
"""


class TunestoneError(Exception):
    """Base of all errors meant for a person.

    `code` is stable and documented in docs/errors.md; `remedy` says what to do next.
    """

    code = "tunestone_error"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class RequestError(TunestoneError):
    """What was asked for is wrong. Command-line exit status 2."""

    code = "request_error"


class ConfigError(RequestError):
    """A setting is unknown, out of range, or fights with another one."""

    code = "config_error"


class DataError(RequestError):
    """A data file or a row of it is unusable. `path` and 1-based `line` say where."""

    code = "data_error"

    def __init__(
        self, message: str, *, path: str = "", line: int | None = None, remedy: str = ""
    ) -> None:
        where = f"{path}:{line}: " if line is not None else f"{path}: " if path else ""
        super().__init__(where + message, remedy=remedy)
        self.path = path
        self.line = line


class ModelError(RequestError):
    """A model or tokenizer that cannot be loaded or trained."""

    code = "model_error"


class RewardError(RequestError):
    """A reward that cannot be loaded, or whose grades fail too often to train on."""

    code = "reward_error"


class SandboxError(RequestError):
    """Nothing on this machine can confine reward code, and the settings do not waive it."""

    code = "sandbox_error"


class RunError(RequestError):
    """A run folder that is missing, in use, or not in the state the command needs."""

    code = "run_error"


class UnknownModelError(RequestError):
    """A model is asked by a name that no base, tuned model, checkpoint or deployment has."""

    code = "model_not_found"


class ContextLengthError(RequestError):
    """A prompt and the longest answer asked for need more positions than the model has."""

    code = "context_length_exceeded"


class GrammarError(RequestError):
    """A grammar or JSON schema that is none, or that asks for more than can be enforced."""

    code = "grammar_error"


class DivergedError(RequestError):
    """The gradient is no longer a number; the weights were not touched by it."""

    code = "diverged_error"


class WorldError(TunestoneError):
    """The world failed: network or disk. Trying again makes sense. Exit status 3."""

    code = "world_error"


class ModelNotReadyError(WorldError):
    """A tuned model or a deployment that is being made; it will answer later."""

    code = "model_not_ready"


class OverloadedError(WorldError):
    """More questions are waiting for an answer than the server keeps."""

    code = "overloaded"


class DownloadError(WorldError):
    """The embedded model could not be fetched or its checksum is wrong."""

    code = "download_error"


class StorageError(WorldError):
    """A file could not be written; what was on disk before is still good."""

    code = "storage_error"
