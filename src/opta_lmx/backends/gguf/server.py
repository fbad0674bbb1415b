"""Starts llama.cpp's server inside this process, listening on a private UNIX socket only.

The server object is never destroyed: its destructor can wait forever for a thread while it
holds the interpreter. The worker process ends instead.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from opta_lmx.backends.gguf.plan import GgufOptions, Plan
from opta_lmx.backends.gguf.speculation import cache_type, set_draft
from opta_lmx.backends.protocol import LoadError
from opta_lmx.core.clock import block_for

MAX_SOCKET_PATH = 100
"""Bytes; macOS allows 104 with the terminator."""

SLOTS = ".slots"
"""Ends the name of a process's folder for files of slots, which begins with its number."""

_ERRORS_ONLY = 1
_CAUSE = re.compile(r"error loading model: (?P<cause>.+)")
_LAST_WORDS = "exiting due to"
_LOG_S = 1.0
"""llama.cpp's log is written by a thread of its own: it may come this much after the failure."""
_LOG_POLL_S = 0.01
_ABOUT_CACHES = re.compile(r"[KV] cache|cache type")
_ERROR_LINE = re.compile(r"^\S+ E \s*(?P<cause>.+)$", re.MULTILINE)
_immortal: list[Any] = []


def start_server(
    model: str, folder: str, plan: Plan, options: GgufOptions, slots: Path | None = None
) -> tuple[str, str]:
    """Load the model file (the first of a split one) and serve it on a socket in `folder`.

    `slots` is where it may keep files of what its slots hold.

    Returns:
        The socket's path, and the engine's name with its version.

    Raises:
        LoadError: the bindings are missing, or llama.cpp refused; its reason is in the message.
    """
    xllamacpp = _bindings()
    path = _socket_path(folder)
    params = _params(xllamacpp, model, path, plan, options)
    params.slot_save_path = "" if slots is None else f"{slots}/"
    with _captured_stderr() as read_log:
        try:
            server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise _refusal(_reason(_whole(read_log)) or str(error), options) from error
    _immortal.append(server)
    if server.listening_address != f"unix://{path}":
        raise LoadError(f"llama.cpp listens on {server.listening_address}, not on its socket")
    return path, f"llama.cpp (xllamacpp {xllamacpp.__version__})"


def gpu_memory() -> int:
    """Bytes of the first GPU this build of llama.cpp can use; 0 without one.

    Raises:
        LoadError: the bindings are missing.
    """
    xllamacpp = _bindings()
    kinds = xllamacpp.ggml_backend_dev_type
    gpus = (kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU)
    devices: list[dict[str, Any]] = xllamacpp.get_device_info()
    return next((int(each["memory_total"]) for each in devices if each["type"] in gpus), 0)


def _bindings() -> Any:
    try:
        return import_module("xllamacpp")
    except ImportError as error:
        raise LoadError(
            f"The llama.cpp engine is not installed ({error}). "
            "Install it with: pip install 'opta-lmx[gguf]'",
            "missing_extra",
        ) from None


def _refusal(reason: str, options: GgufOptions) -> LoadError:
    """What llama.cpp says, with the setting that it is about."""
    if options.kv_type != "f16" and _ABOUT_CACHES.search(reason):
        message = f"its caches cannot be of kv_type '{options.kv_type}': {reason}"
        return LoadError(message, "kv_type_refused")
    return LoadError(reason)


def _params(xllamacpp: Any, model: str, socket: str, plan: Plan, options: GgufOptions) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = [socket]
    params.n_ctx, params.n_parallel, params.kv_unified = plan.cells, plan.slots, plan.shared
    params.n_batch = params.n_ubatch = plan.batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = plan.threads
    params.n_threads_http = plan.slots + 6
    params.n_gpu_layers = options.gpu_layers
    params.n_ctx_checkpoints, params.checkpoint_min_step = plan.checkpoints, plan.batch
    params.swa_full = plan.whole_windows
    params.cache_ram_mib = 0
    # A quantised one makes llama.cpp turn on flash attention, or refuse where there is none.
    params.cache_type_k = params.cache_type_v = cache_type(xllamacpp, options)
    params.ctx_shift = params.fit_params = params.ui = False
    params.use_jinja = params.enable_chat_template = False
    # llama.cpp would try the model's own template at load, without any bound; nothing here uses it.
    params.chat_template = "chatml"
    params.verbosity = _ERRORS_ONLY
    params.embedding = bool(plan.pooling)
    if plan.pooling in ("mean", "rank"):
        kinds = xllamacpp.llama_pooling_type
        params.pooling_type = getattr(kinds, f"LLAMA_POOLING_TYPE_{plan.pooling.upper()}")
    if plan.draft:
        set_draft(xllamacpp, params, plan, options)
    # Of no weight unless a request says otherwise: also in what runs before the first one.
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in plan.adapters]
    params.lora_init_without_apply = True
    return params


def _socket_path(folder: str) -> str:
    """A path for this process's socket in a private folder, with dead ones cleared away."""
    root = Path(folder or tempfile.mkdtemp(prefix="lmx-")) / "llama"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
        for left in root.glob("*.sock"):
            if not _alive(left.stem):
                left.unlink(missing_ok=True)
        for left in root.glob(f"*{SLOTS}"):
            if left.stem != str(os.getpid()) and not _alive(left.stem):
                shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        raise LoadError(f"the folder for sockets cannot be used: {error}") from error
    path = str(root / f"{os.getpid()}.sock")
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise LoadError(f"the socket's path is longer than {MAX_SOCKET_PATH} bytes: {path}")
    return path


def _alive(pid: str) -> bool:
    """Whether another process of this number runs; our own number can only be a leftover."""
    if not pid.isdigit() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _captured_stderr() -> Generator[Callable[[], str]]:
    """Catch what native code writes to stderr, the only place it tells why a load failed."""
    with tempfile.TemporaryFile() as log:
        sys.stderr.flush()
        original = os.dup(2)
        os.dup2(log.fileno(), 2)

        def read() -> str:
            log.seek(0)
            return log.read().decode(errors="replace")

        try:
            yield read
        finally:
            os.dup2(original, 2)
            os.close(original)
            sys.stderr.write(read())


def _whole(read_log: Callable[[], str]) -> str:
    """What was logged, once the log has come to its end, or all that came in time."""
    for _ in range(round(_LOG_S / _LOG_POLL_S)):
        if _LAST_WORDS in (log := read_log()):
            return log
        block_for(_LOG_POLL_S)
    return read_log()


def _reason(log: str) -> str:
    match = _CAUSE.search(log) or _ERROR_LINE.search(log)
    return match["cause"].strip() if match else ""
