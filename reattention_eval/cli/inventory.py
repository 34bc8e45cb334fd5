"""The models and benchmark files that are on this machine, looked for and never fetched."""

from __future__ import annotations

import shutil
from pathlib import Path

from reattention_eval.checkpoints import EMBEDDED_MODELS, embedded_model_folder
from reattention_eval.checkpoints.folder import check_folder
from reattention_eval.checkpoints.local import MODELS_VARIABLE, places
from reattention_eval.checkpoints.paper_models import PAPER_MODELS
from reattention_eval.cli.findings import BAD, GOOD, OPTIONAL, Finding
from reattention_eval.datasets.data_dir import data_dir
from reattention_eval.datasets.prepare import READY, WRONG, check, load_sources
from reattention_eval.errors import ReAttentionError
from reattention_eval.machine_memory import GIB


def cached() -> list[Finding]:
    """The embedded models, and the disk that holds them."""
    try:
        folders = {name: embedded_model_folder(name) for name in EMBEDDED_MODELS}
    except ReAttentionError as error:
        return [Finding("cache", BAD, str(error), "set REATTENTION_CACHE to a folder of yours")]
    found = []
    for name, folder in folders.items():
        there = (folder / "config.json").is_file()
        cure = "" if there else f"reattention-eval prepare model {name}"
        found.append(Finding(name, GOOD if there else OPTIONAL, str(folder), cure))
    space = shutil.disk_usage(folder.parent).free / GIB
    return [*found, Finding("cache disk", GOOD, f"{space:.0f} GiB free")]


def models() -> list[Finding]:
    """The paper's models, base and chat forms: one line each that is here, one for the others."""
    found, absent = [], []
    try:
        for name, hub_id, *_ in PAPER_MODELS.values():
            folder = _folder(hub_id)
            if folder is None:
                absent.append(name)
                continue
            try:
                check_folder(folder)
                found.append(Finding(name, GOOD, str(folder)))
            except ReAttentionError as error:
                found.append(Finding(name, BAD, str(error), f"hf download {hub_id}"))
    except ReAttentionError as error:
        return [Finding("models", BAD, str(error), f"mend or unset {MODELS_VARIABLE}")]
    if absent:
        cure = f"{MODELS_VARIABLE}=/folder/of/checkpoints, or hf download OWNER/NAME"
        found.append(Finding("models", OPTIONAL, f"not here: {', '.join(absent)}", cure))
    return found


def _folder(hub_id: str) -> Path | None:
    """Where `hub_id` lies: in $REATTENTION_MODELS, else in the hub's own cache."""
    from huggingface_hub import try_to_load_from_cache

    for folder in places(hub_id):
        if (folder / "config.json").is_file():
            return folder
    config = try_to_load_from_cache(hub_id, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def data() -> list[Finding]:
    """Every benchmark: how many of its files are ready."""
    found = []
    for name, benchmark in load_sources().items():
        try:
            files = check(benchmark, data_dir(), thorough=False)
        except ReAttentionError as error:
            found.append(Finding(name, BAD, str(error)))
            continue
        ready = sum(file.state == READY for file in files)
        wrong = [file for file in files if file.state == WRONG]
        state = BAD if wrong else GOOD if ready == len(files) else OPTIONAL
        where = sorted({str(file.path.parent) for file in files})
        text = f"{ready} of {len(files)} files in {', '.join(where)}"
        if wrong:
            text += f"; {wrong[0].file.name}: {wrong[0].detail}"
        cure = "" if state == GOOD else f"reattention-eval prepare {name}"
        found.append(Finding(f"data: {name}", state, text, cure))
    return found
