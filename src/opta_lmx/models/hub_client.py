"""Talks to the hub through huggingface_hub and says every failure in our own errors."""
# pyright: reportUnknownVariableType=false
# huggingface_hub annotates some of its parameters with a bare `dict`.

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from opta_lmx import __version__
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.models.hub_files import HubFile

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo
    from huggingface_hub.errors import HfHubHTTPError

TIMEOUT_S = 30.0
_NAME = {"user-agent": f"opta-lmx/{__version__}"}
"""All that requests say about who asks: the library would add versions of what is installed."""
_DIGITS = frozenset("0123456789abcdef")
_MOST_BYTES = 1 << 42
"""Of one file: far above any model's, and what file systems take as the length of a file."""


class Repository(msgspec.Struct, frozen=True):
    """A repository at one commit. `licence` is what its card says, "" if nothing."""

    repo: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str


class Body(msgspec.Struct, frozen=True):
    """An answer being received: the offset of its first byte in the file, and the pieces.

    `start` is -1 when the hub refuses the range asked for, or says something else.
    """

    start: int
    pieces: Iterator[bytes]


class HubClient:
    """The three calls a pull needs.

    Args:
        endpoint: the hub's address; None for the Hugging Face hub.
        token: access token. Without one, the Hugging Face hub is shown the user's saved
            token, as its own tools do; another endpoint is shown none.
    """

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        self._endpoint = endpoint
        self._token: str | bool | None = token or (None if endpoint is None else False)

    def repository(self, repo: str, revision: str | None) -> Repository:
        """The files of a repository with sizes and checksums."""
        with _typed_errors(repo), _parsing():
            info = self._api().model_info(
                repo, revision=revision, files_metadata=True, timeout=TIMEOUT_S
            )
            if not isinstance(info.sha, str) or not _is_hex(info.sha, 40):
                raise _bad_reply("it names no commit")
            files = [_file(sibling) for sibling in info.siblings or []]
            return Repository(repo, info.sha, tuple(files), _licence(info))

    def small_file(self, repo: str, commit: str, path: str, limit: int) -> bytes:
        """A file's bytes, at most `limit` of them."""
        data = bytearray()
        with self.open(repo, commit, path, 0) as body:
            for piece in body.pieces:
                data += piece
                if len(data) > limit:
                    raise _bad_reply(f"{path} is larger than {limit} bytes")
        return bytes(data)

    @contextmanager
    def open(self, repo: str, commit: str, path: str, start: int) -> Generator[Body]:
        """Begin to receive a file from byte `start` on.

        Not `hf_hub_download`: in huggingface_hub 2.4 it downloads into a name drawn anew each
        time and deletes it on failure, so nothing is left to resume after a cut or a kill.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        with _typed_errors(repo):
            url = hf_hub_url(repo, path, revision=commit, endpoint=self._endpoint)
            headers = build_hf_headers(token=self._token, headers=_NAME)
            # Compression on the way would make offsets and lengths those of other bytes.
            headers["Accept-Encoding"] = "identity"
            if start:
                headers["Range"] = f"bytes={start}-"
            session = get_session()
            with session.stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
                if response.status_code == 416:
                    yield Body(-1, iter(()))
                    return
                hf_raise_for_status(response)
                offset = _offset(response.headers.get("Content-Range"), response.status_code)
                yield Body(offset, response.iter_raw())

    def _api(self) -> "HfApi":
        from huggingface_hub import HfApi, constants

        constants.HF_HUB_DISABLE_TELEMETRY = True
        return HfApi(endpoint=self._endpoint, token=self._token, headers=_NAME)


def _file(sibling: Any) -> HubFile:
    """One listed file, its path and numbers checked: they are the hub's word only."""
    path, size, lfs, blob = sibling.rfilename, sibling.size, sibling.lfs, sibling.blob_id
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or not path.isprintable():
        raise _bad_reply("it lists a file outside the repository")
    sha256 = lfs.sha256 if lfs is not None else None
    size = lfs.size if lfs is not None else size
    if not isinstance(size, int) or not 0 <= size <= _MOST_BYTES:
        raise _bad_reply(f"it gives no possible size for {path[:120]}")
    if not _is_hex(sha256, 64) and not _is_hex(blob, 40):
        raise _bad_reply(f"it gives no checksum for {path[:120]}")
    if _is_hex(sha256, 64):
        return HubFile(path, size, sha256=sha256)
    return HubFile(path, size, blob_sha1=blob)


def _is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and len(value) == length and _DIGITS.issuperset(value)


def _offset(content_range: str | None, status: int) -> int:
    """Where the answer begins in the file."""
    if status != 206:
        return 0
    first = (content_range or "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isascii() and first.isdigit() and len(first) < 20 else -1


def _licence(info: "ModelInfo") -> str:
    value = getattr(info.card_data, "license", None)
    return value[:100] if isinstance(value, str) else ""


def _bad_reply(reason: str) -> LmxError:
    return LmxError(
        ErrorKind.UPSTREAM_FAILED,
        f"The hub's answer cannot be used: {reason}.",
        code="hub_bad_reply",
    )


def unreachable(reason: str) -> LmxError:
    """The error for a hub that does not answer, or stopped answering."""
    return LmxError(
        ErrorKind.UPSTREAM_FAILED, f"The hub cannot be reached: {reason}.", code="hub_unreachable"
    )


@contextmanager
def _typed_errors(repo: str) -> Generator[None]:
    """Turn the failures of huggingface_hub and its HTTP client into ours."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except HfHubHTTPError as error:
        raise _http_error(repo, error) from error
    except HFValidationError as error:
        raise invalid(f"'{repo}' is no repository of the hub.", param="model") from error
    except OfflineModeIsEnabled as error:
        raise LmxError(
            ErrorKind.UNAVAILABLE,
            "The hub is not asked: HF_HUB_OFFLINE is set.",
            code="hub_offline",
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise unreachable(type(error).__name__) from error


@contextmanager
def _parsing() -> Generator[None]:
    """The client library builds objects straight from the hub's JSON, whatever that holds."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except (HfHubHTTPError, HFValidationError):
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _bad_reply("it is not what was expected") from error


def _http_error(repo: str, error: "HfHubHTTPError") -> LmxError:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return LmxError(
            ErrorKind.FORBIDDEN,
            f"'{repo}' is gated: accept its terms on the hub and set a token that may read it.",
            code="hub_gated",
            param="model",
        )
    absent = (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError)
    if isinstance(error, absent) or status == 404:
        return LmxError(
            ErrorKind.NOT_FOUND,
            f"'{repo}' (or that revision or file of it) is not on the hub, or is private.",
            code="hub_not_found",
            param="model",
        )
    if status in (401, 403):
        return LmxError(
            ErrorKind.FORBIDDEN,
            f"The hub does not let this token (or no token) read '{repo}'.",
            code="hub_unauthorized",
            param="model",
        )
    return unreachable(f"it answers with status {status}")
