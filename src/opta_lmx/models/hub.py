"""Pulls a model from the hub into the store: look, refuse, check the disk, download, register."""

import threading
from pathlib import Path, PurePosixPath

import msgspec

from opta_lmx.core.errors import LmxError
from opta_lmx.models.config_json import MAX_CONFIG_BYTES, refuse_remote_code
from opta_lmx.models.description import ModelInfo
from opta_lmx.models.disk import remove_tree, typed, write_atomically
from opta_lmx.models.hub_client import HubClient, Repository
from opta_lmx.models.hub_files import Choice, HubRef, choose, parse_ref, quantisation_in
from opta_lmx.models.hub_heads import HubHeads
from opta_lmx.models.json_files import MAX_JSON_BYTES, parse_object
from opta_lmx.models.manifest import FileRecord, ModelEntry
from opta_lmx.models.offer import Offer, Pin, offer_changed, stored_offer
from opta_lmx.models.progress import Progress, ProgressCallback, State, check_cancelled, ignore
from opta_lmx.models.selection import stored_name
from opta_lmx.models.store import ModelStore, Provenance
from opta_lmx.models.transfer import Transfer

_REPORT_BYTES = 1 << 20
_STATE_FILE = "pull.json"


class _Unfinished(msgspec.Struct, frozen=True):
    """What the bytes of an unfinished pull belong to."""

    repo: str
    commit: str


class _Job(msgspec.Struct, frozen=True):
    """A pull that was looked at and found acceptable."""

    name: str
    source: str
    repository: Repository
    choice: Choice

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.choice.files)


class HubPuller:
    """Pulls repositories by id.

    Args:
        store: where models are registered.
        endpoint: the hub's address; None for the Hugging Face hub.
        token: access token for gated and private repositories.
        attempts: connections tried without a new byte before a pull gives up.
    """

    def __init__(
        self,
        store: ModelStore,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        attempts: int = 5,
    ) -> None:
        self._store = store
        self._client = HubClient(endpoint, token)
        self._attempts = attempts

    def look(self, ref: str) -> Offer:
        """What a pull of `ref` would bring, from the hub's listing alone.

        Raises:
            LmxError: as `pull`, as far as a listing tells.
        """
        wanted = parse_ref(ref)
        present = self._present(wanted)
        return stored_offer(present) if present else self._offer(self._job(wanted))

    def describe(self, ref: str) -> tuple[Offer, ModelInfo]:
        """As `look`, with what the model's files say, of which only the beginnings are fetched.

        Raises:
            LmxError: as `pull`; INVALID_REQUEST `too_many_files`.
        """
        wanted = parse_ref(ref)
        present = self._present(wanted)
        if present is not None:
            return stored_offer(present), present.info
        job = self._job(wanted)
        with self._store.temporary() as folder:
            info = HubHeads(self._client, job.repository).describe(job.choice, folder)
        return self._offer(job), info

    def held_bytes(self, ref: str) -> int:
        """What an unfinished pull of `ref` has left on the disk, whatever it is worth now."""
        files = self._store.partial_dir(parse_ref(ref).model_name) / "files"
        with typed(self._store.root):
            return _held(files) if files.is_dir() else 0

    def _present(self, wanted: HubRef) -> ModelEntry | None:
        """The model in the store, unless a certain revision of it is asked for."""
        return None if wanted.revision else self._store.find(wanted.model_name)

    def _job(self, wanted: HubRef, pin: Pin | None = None) -> _Job:
        repository = self._repository(wanted, pin)
        choice = choose(wanted, list(repository.files))
        job = _Job(wanted.model_name, _source(repository, wanted), repository, choice)
        if pin is not None and job.total_bytes != pin.total_bytes:
            raise offer_changed(wanted.model_name)
        return job

    def _repository(self, wanted: HubRef, pin: Pin | None) -> Repository:
        """At the commit that was looked at, if one was, however far the hub has moved on."""
        if pin is None:
            return self._client.repository(wanted.repo, wanted.revision)
        try:
            repository = self._client.repository(wanted.repo, pin.commit)
        except LmxError as error:
            if error.code != "hub_not_found":
                raise
            self._client.repository(wanted.repo, wanted.revision)  # or all of it is gone
            raise offer_changed(wanted.model_name) from error
        if repository.commit != pin.commit:
            raise offer_changed(wanted.model_name)
        return repository

    def _offer(self, job: _Job) -> Offer:
        partial = self._store.partial_dir(job.name)
        known = _read_state(partial / _STATE_FILE) == _state_of(job.repository)
        with typed(self._store.root):
            held = _held(partial / "files") if known and (partial / "files").is_dir() else 0
        return Offer(
            name=job.name,
            origin="hub",
            format=job.choice.format,
            total_bytes=job.total_bytes,
            held_bytes=held,
            licence=job.repository.licence,
            quantisation=quantisation_in(job.choice.main),
            commit=job.repository.commit,
        )

    def pull(
        self,
        ref: str,
        progress: ProgressCallback = ignore,
        cancel: threading.Event | None = None,
        pin: Pin | None = None,
    ) -> ModelEntry:
        """Bring `org/name`, `org/name@revision` or `org/name/file.gguf` into the store.

        A model already there is returned as it is, unless another revision is asked for. An
        interrupted pull goes on where it stopped. With `pin`, just what was looked at is fetched.

        Raises:
            LmxError: INVALID_REQUEST `invalid_model_name`, `no_weights`, `invalid_gguf`,
                `invalid_safetensors`, `invalid_config`, `ambiguous_quantisation`; FORBIDDEN
                `remote_code_refused`, `pickle_refused`, `hub_gated`, `hub_unauthorized`;
                NOT_FOUND `hub_not_found`; UPSTREAM_FAILED `hub_unreachable`, `hub_bad_reply`,
                `checksum_mismatch`; UNAVAILABLE `hub_offline`, `store_unusable`;
                INSUFFICIENT_RESOURCES `insufficient_disk`; CONFLICT `model_exists`,
                `model_busy`, `cancelled`, `offer_changed`.
        """
        wanted = parse_ref(ref)
        name = wanted.model_name
        report = _Report(name, progress)
        present = self._present(wanted)
        if present is not None:
            report.say("done", present.size_bytes, "already there")
            return present
        with self._store.claim(name):
            report.say("resolving")
            job = self._job(wanted, pin)
            present = self._store.find(name)
            if present is not None and present.source == job.source:
                report.say("done", present.size_bytes, "already there")
                return present
            self._store.refuse_clash(name)
            self._refuse_code(job)
            entry = self._download(job, report, cancel or threading.Event())
        report.say("done", entry.size_bytes)
        return entry

    def _refuse_code(self, job: _Job) -> None:
        """Read the configuration first: a folder that wants its own code run is not fetched."""
        if job.choice.format == "gguf":
            return
        repo, commit = job.repository.repo, job.repository.commit
        listed = {file.path for file in job.choice.files}
        for name, limit in (
            ("config.json", MAX_CONFIG_BYTES),
            ("tokenizer_config.json", MAX_JSON_BYTES),
        ):
            if name in listed:
                data = self._client.small_file(repo, commit, name, limit)
                refuse_remote_code(parse_object(data, name), name)

    def _download(self, job: _Job, report: "_Report", cancel: threading.Event) -> ModelEntry:
        """Fetch the chosen files into the partial folder, then register it in one step."""
        partial = self._store.partial_dir(job.name)
        with typed(self._store.root):
            files = _open_partial(partial, job.repository)
            try:
                records = self._fetch(job, files, report, cancel)
            except LmxError:
                if not _held(files):
                    remove_tree(partial)
                raise
            origin = Provenance(job.source, job.repository.licence)
            try:
                return self._store.publish(job.name, files, job.choice.main, records, origin)
            finally:
                # The checksums were right, so what was refused now would be refused again.
                remove_tree(partial)

    def _fetch(
        self, job: _Job, files: Path, report: "_Report", cancel: threading.Event
    ) -> list[FileRecord]:
        report.total = job.total_bytes
        self._store.refuse_full_disk(report.total - _held(files))
        repository = job.repository
        transfer = Transfer(self._client, repository.repo, repository.commit, self._attempts)
        records: list[FileRecord] = []
        for file in job.choice.files:
            check_cancelled(cancel)
            folder = job.choice.format == "mlx"
            name = stored_name(file.path) if folder else PurePosixPath(file.path).name
            target = files / name
            report.begin(target.name)
            digest = transfer.fetch(file, target, report.advance, cancel)
            records.append(FileRecord(target.name, file.size, digest))
        report.say("verifying")
        return records


class _Report:
    """Counts bytes and passes them on, about once a megabyte."""

    def __init__(self, name: str, progress: ProgressCallback) -> None:
        self._name = name
        self._progress = progress
        self._done = 0
        self._said = 0
        self._file = ""
        self.total = 0

    def begin(self, file: str) -> None:
        self._file = file
        self.say("downloading")

    def advance(self, count: int) -> None:
        self._done += count
        if abs(self._done - self._said) >= _REPORT_BYTES or self._done >= self.total:
            self.say("downloading")

    def say(self, state: State, size: int | None = None, message: str = "") -> None:
        if size is not None:
            self._done = self.total = size
        self._said = self._done
        self._progress(Progress(self._name, self._file, self._done, self.total, state, message))


def _source(repository: Repository, wanted: HubRef) -> str:
    file = f"/{wanted.file}" if wanted.file else ""
    return f"hub:{repository.repo}{file}@{repository.commit}"


def _open_partial(partial: Path, repository: Repository) -> Path:
    """The folder of received bytes, emptied when they belong to another commit."""
    state = _state_of(repository)
    path = partial / _STATE_FILE
    if _read_state(path) != state:
        remove_tree(partial)
        partial.mkdir(parents=True)
        write_atomically(path, msgspec.json.encode(state))
    files = partial / "files"
    files.mkdir(exist_ok=True)
    return files


def _state_of(repository: Repository) -> _Unfinished:
    return _Unfinished(repository.repo, repository.commit)


def _read_state(path: Path) -> _Unfinished | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Unfinished)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _held(files: Path) -> int:
    return sum(path.stat().st_size for path in files.iterdir() if path.is_file())
