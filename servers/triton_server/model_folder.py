"""Check a Triton model repository before the server reads it, so that errors name folder and fix."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from triton_server import UnusableInput

CONFIG_NAME = "cpu"
_CONFIG_FILES = (f"configs/{CONFIG_NAME}.pbtxt", "config.pbtxt")
_MODEL_FILE = "model.onnx"
# Comments and strings first, so that what they contain is not taken for a field or a bracket.
_WORD = re.compile(r'#[^\n]*|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|[\w.+-]+|[{}\[\]<>:,;]')


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model of the repository.

    Attributes:
        name: The folder's name, which is the model's.
        has_full_config: Its config names inputs, outputs and the batch size: nothing to auto-complete.
    """

    name: str
    has_full_config: bool


def find_models(repository: Path, names: Sequence[str] = ()) -> tuple[ModelFolder, ...]:
    """List the models to serve.

    Args:
        repository: The model repository.
        names: Serve these; every model of the repository when empty.

    Raises:
        UnusableInput: A folder or a file is missing; the message says which and what to do.
    """
    if not repository.is_dir():
        raise UnusableInput(f"no model repository at {repository}: give its folder with --model-repository")
    present = sorted(
        path.name for path in repository.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))
    )
    if not present:
        raise UnusableInput(
            f"the model repository {repository} has no models: restore it from git, or run `make models`"
        )
    if unknown := [name for name in names if name not in present]:
        raise UnusableInput(
            f"--models names '{unknown[0]}', but the repository {repository} has {', '.join(present)}"
        )
    return tuple(_checked(repository / name) for name in dict.fromkeys(names or present))


def top_level_fields(config: str) -> dict[str, str]:
    """Give the fields of a text-format config that stand outside any bracket, each with its first word."""
    fields: dict[str, str] = {}
    depth = 0
    name = ""
    for word in (match.group() for match in _WORD.finditer(config)):
        if word.startswith("#"):
            continue
        if word in "{[<":
            if depth == 0:
                fields.setdefault(name, word)
            depth += 1
        elif word in "}]>":
            depth -= 1
            name = ""
        elif depth == 0 and word not in ":,;":
            if name and name not in fields:
                fields[name] = word.strip("\"'")
                name = ""
            else:
                name = word
    return fields


def _checked(folder: Path) -> ModelFolder:
    config = next((folder / name for name in _CONFIG_FILES if (folder / name).is_file()), None)
    if config is None:
        raise UnusableInput(
            f"the model folder {folder} has no config.pbtxt: restore it from git, or export the model again "
            "with `make models`"
        )
    fields = top_level_fields(config.read_text(encoding="utf-8", errors="replace"))
    if fields.get("name", folder.name) != folder.name:
        raise UnusableInput(
            f"{config} names the model '{fields['name']}', but its folder is '{folder.name}': make them equal"
        )
    if "onnxruntime" in (fields.get("platform", "") + fields.get("backend", "")):
        _check_model_files(folder, fields.get("default_model_filename", _MODEL_FILE))
    full = {"max_batch_size", "input", "output"} <= fields.keys() and bool(
        fields.keys() & {"platform", "backend"}
    )
    return ModelFolder(folder.name, full)


def _check_model_files(folder: Path, file_name: str) -> None:
    versions = sorted(
        (path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()), key=_number
    )
    if not versions:
        raise UnusableInput(
            f"the model folder {folder} has no version folder such as 1/{file_name}: restore it from git, or "
            "export the model with `make models`"
        )
    for version in versions:
        path = version / file_name
        if not path.exists():
            raise UnusableInput(
                f"{path} is missing: restore it from git, or export the model with `make models`"
            )
        if path.is_file() and path.stat().st_size == 0:
            raise UnusableInput(
                f"{path} is empty: restore it from git, or export the model with `make models`"
            )


def _number(version: Path) -> int:
    return int(version.name)
