"""Reads what a model on the hub says of itself from the beginnings of its files alone.

Each weight file is put beside its configuration as long as it is, and empty but for its header:
the readers for whole models then see all that they look at.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.models.config_json import MAX_CONFIG_BYTES
from opta_lmx.models.description import ModelInfo
from opta_lmx.models.folder_info import TOKENIZERS
from opta_lmx.models.gguf_header import read_gguf_header
from opta_lmx.models.hub_client import HubClient, Repository, unreachable
from opta_lmx.models.hub_files import Choice, HubFile
from opta_lmx.models.info import read_info
from opta_lmx.models.json_files import MAX_JSON_BYTES
from opta_lmx.models.safetensors_header import MAX_HEADER_BYTES as MAX_SAFETENSORS_BYTES
from opta_lmx.models.selection import stored_name

_FIRST_BYTES = 1 << 20
_MOST_BYTES = 64 << 20
"""Of a GGUF file: vocabularies of 262k words take about 16 MB."""
MAX_WEIGHT_FILES = 64
"""Each costs a connection; models in more parts are beyond any machine this is for."""
_READ = {
    "config.json": MAX_CONFIG_BYTES,
    "generation_config.json": MAX_CONFIG_BYTES,
    "tokenizer_config.json": MAX_JSON_BYTES,
    "sentence_bert_config.json": MAX_JSON_BYTES,
    "modules.json": MAX_JSON_BYTES,
    "1_Pooling/config.json": MAX_JSON_BYTES,
}


class HubHeads:
    """Describes what was chosen of one repository.

    Args:
        client: the hub.
        repository: the files are read at its commit.
    """

    def __init__(self, client: HubClient, repository: Repository) -> None:
        self._client = client
        self._repository = repository

    def describe(self, choice: Choice, folder: Path) -> ModelInfo:
        """What the files of `choice` say.

        Args:
            choice: what would be pulled.
            folder: empty, on a disk that keeps holes in files; the caller deletes it.

        Raises:
            LmxError: what `read_info` refuses; INVALID_REQUEST `too_many_files`; those of
                `HubClient`.
        """
        weights = [file for file in choice.files if _is_weights(file.path)]
        if len(weights) > MAX_WEIGHT_FILES:
            raise invalid(
                f"The model lies in {len(weights)} files; at most {MAX_WEIGHT_FILES} are looked "
                "at before they are fetched.",
                param="model",
                code="too_many_files",
            )
        for file in choice.files:
            self._take(file, choice, folder)
        info = read_info(folder / choice.main if choice.main else folder)
        return msgspec.structs.replace(info, size_bytes=sum(file.size for file in choice.files))

    def _take(self, file: HubFile, choice: Choice, folder: Path) -> None:
        if choice.format == "gguf":
            self._gguf(file, folder / PurePosixPath(file.path).name)
        elif _is_weights(file.path):
            self._safetensors(file, folder / file.path)
        elif file.path in _READ:
            data = self._client.small_file(
                self._repository.repo, self._repository.commit, file.path, _READ[file.path]
            )
            (folder / stored_name(file.path)).write_bytes(data)
        elif file.path in TOKENIZERS or file.path.endswith(".tiktoken"):
            (folder / file.path).touch()

    def _gguf(self, file: HubFile, target: Path) -> None:
        """Receive until the header can be read, looking each time that twice as much is there."""
        next_look = min(_FIRST_BYTES, file.size)
        done = 0
        with target.open("w+b") as out:
            out.truncate(file.size)
            for piece in self._pieces(file):
                out.write(piece)
                done += len(piece)
                if done < next_look:
                    continue
                out.flush()
                if _is_whole(target) or done >= min(_MOST_BYTES, file.size):
                    return
                next_look = min(2 * done, file.size)
        raise unreachable("the connection ended early")

    def _safetensors(self, file: HubFile, target: Path) -> None:
        """Receive the header, whose length its first 8 bytes say."""
        head = bytearray()
        wanted = 8
        for piece in self._pieces(file):
            head += piece
            if len(head) >= 8:
                wanted = 8 + min(int.from_bytes(head[:8], "little"), MAX_SAFETENSORS_BYTES)
            if len(head) >= wanted:
                break
        with target.open("wb") as out:
            out.write(head[:wanted])
            out.truncate(file.size)

    def _pieces(self, file: HubFile) -> Iterator[bytes]:
        repository = self._repository
        with self._client.open(repository.repo, repository.commit, file.path, 0) as body:
            if body.start != 0:
                raise unreachable("it does not begin where it was asked to")
            yield from body.pieces


def _is_weights(path: str) -> bool:
    return path.endswith(".safetensors") or path.lower().endswith(".gguf")


def _is_whole(path: Path) -> bool:
    """Whether the header is all there: behind its end lie zeros, which are no tensor."""
    try:
        read_gguf_header(path)
    except LmxError:
        return False
    return True
