"""Makes the quantised folder of a model: convert, pack, hash, and put in place in one step."""

import shutil
from collections.abc import Callable
from pathlib import Path

from opta_lmx.backends.convert.folder import convert
from opta_lmx.backends.quantize.outcome import Outcome, Packed
from opta_lmx.backends.quantize.packing import open_model, pack, write
from opta_lmx.backends.quantize.rules import Scheme, refuse_source
from opta_lmx.models.disk import sha256_of, sync_tree
from opta_lmx.models.folder_info import INDEX, weight_files
from opta_lmx.models.info import read_info
from opta_lmx.models.manifest import FileRecord
from opta_lmx.models.selection import files_of, stored_name

Report = Callable[[str, int, int, str], None]
"""Called with the phase, bytes done and in all, and the layer now in work ("" between layers)."""


def quantise(source: Path, out: Path, scheme: Scheme, report: Report) -> Outcome:
    """Write the quantised model into the new folder `out`, which appears when all is complete.

    Args:
        source: a model folder, or a GGUF file, which is converted first.
        out: must not exist, but the folder it is in must.
        scheme: how weights are packed.
        report: told the progress.

    Raises:
        LmxError: the source cannot be read or quantised; INSUFFICIENT_RESOURCES.
        ConvertError: the GGUF file is of a kind that cannot be converted.
        OSError: reading or writing failed.
    """
    refuse_source(read_info(source))
    draft, unpacked = (out.with_name(f"{out.name}.{part}") for part in ("part", "source"))
    for folder in (draft, unpacked):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    try:
        folder = source if source.is_dir() else _unpacked(source, unpacked, report)
        packed = _fill(folder, draft, scheme, report)
        shutil.rmtree(unpacked)
        files = _recorded(draft, report)
        sync_tree(draft)
        draft.rename(out)
    finally:
        for folder in (draft, unpacked):
            shutil.rmtree(folder, ignore_errors=True)
    return Outcome(files, packed)


def _unpacked(gguf: Path, folder: Path, report: Report) -> Path:
    # Scales are kept in the type of the weights: two bytes, of float32's range.
    convert(gguf, folder, "bf16", lambda done, total: report("converting", done, total, ""))
    return folder


def _fill(folder: Path, draft: Path, scheme: Scheme, report: Report) -> Packed:
    """Weights and configuration are written anew, everything else is taken over as it is."""
    report("loading", 0, 0, "")
    model, config = open_model(folder)
    packed = pack(model, config, scheme)
    write(packed, draft, lambda done, total, layer: report("quantising", done, total, layer))
    anew = {path.name for path in weight_files(folder)} | {"config.json", INDEX}
    for path in files_of(folder):
        name = stored_name(str(path.relative_to(folder)))
        if name not in anew:
            shutil.copyfile(path, draft / name)
    return packed.facts


def _recorded(folder: Path, report: Report) -> tuple[FileRecord, ...]:
    """Check the folder as any other that is taken into a store, and hash its files."""
    read_info(folder)
    paths = sorted(folder.iterdir())
    total, done = sum(path.stat().st_size for path in paths), 0
    records: list[FileRecord] = []
    for path in paths:
        digest = sha256_of(path)
        size = path.stat().st_size
        done += size
        report("verifying", done, total, "")
        records.append(FileRecord(path.name, size, digest))
    return tuple(records)
