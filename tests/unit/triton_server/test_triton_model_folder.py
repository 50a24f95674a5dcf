from pathlib import Path

import pytest

from triton_server import UnusableInput
from triton_server.model_folder import ModelFolder, find_models, top_level_fields

FULL = """
name: "affine"  # a comment with "quotes" and { a bracket
platform: "onnxruntime_onnx"
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output { name: "output {" data_type: TYPE_FP32 dims: 3 }
parameters { key: "note" value { string_value: "backend: \\"python\\"" } }
"""


def _model(repository: Path, config: str | None = FULL, name: str = "affine") -> Path:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(b"onnx")
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    return folder


def test_only_fields_outside_brackets_comments_and_strings_count() -> None:
    fields = top_level_fields(FULL)
    assert fields == {
        "name": "affine",
        "platform": "onnxruntime_onnx",
        "max_batch_size": "16",
        "input": "[",
        "output": "{",
        "parameters": "{",
    }


def test_a_model_with_a_full_config_needs_no_completion(tmp_path: Path) -> None:
    _model(tmp_path)
    assert find_models(tmp_path) == (ModelFolder("affine", has_full_config=True),)


def test_a_config_without_outputs_needs_completion(tmp_path: Path) -> None:
    _model(tmp_path, 'backend: "onnxruntime"\nmax_batch_size: 4\ninput { name: "x" }\n')
    assert find_models(tmp_path) == (ModelFolder("affine", has_full_config=False),)


def test_the_cpu_config_is_the_one_that_counts(tmp_path: Path) -> None:
    folder = _model(tmp_path)
    (folder / "configs").mkdir()
    (folder / "configs" / "cpu.pbtxt").write_text('platform: "onnxruntime_onnx"')
    assert not find_models(tmp_path)[0].has_full_config


def test_only_the_named_models_are_served_each_once(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        _model(tmp_path, FULL.replace("affine", name), name)
    assert [model.name for model in find_models(tmp_path, ["c", "a", "c"])] == ["c", "a"]
    assert [model.name for model in find_models(tmp_path)] == ["a", "b", "c"]


def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"no model repository at .*nowhere"):
        find_models(tmp_path / "nowhere")


def test_an_empty_repository_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"has no models: .*make models"):
        find_models(tmp_path)


def test_an_unknown_model_is_named_with_the_known_ones(tmp_path: Path) -> None:
    _model(tmp_path)
    with pytest.raises(UnusableInput, match=r"names 'afine', but .* has affine"):
        find_models(tmp_path, ["afine"])


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    _model(tmp_path, config=None)
    with pytest.raises(UnusableInput, match=r"affine has no config\.pbtxt"):
        find_models(tmp_path)


def test_a_config_of_another_model_is_named(tmp_path: Path) -> None:
    _model(tmp_path, name="other")
    with pytest.raises(UnusableInput, match=r"names the model 'affine', but its folder is 'other'"):
        find_models(tmp_path)


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    (_model(tmp_path) / "1" / "model.onnx").unlink()
    with pytest.raises(UnusableInput, match=r"1/model\.onnx is missing: .*make models"):
        find_models(tmp_path)


def test_an_empty_model_file_is_named(tmp_path: Path) -> None:
    (_model(tmp_path) / "1" / "model.onnx").write_bytes(b"")
    with pytest.raises(UnusableInput, match=r"1/model\.onnx is empty"):
        find_models(tmp_path)


def test_a_model_without_a_version_is_named(tmp_path: Path) -> None:
    folder = _model(tmp_path)
    (folder / "1").rename(folder / "latest")
    with pytest.raises(UnusableInput, match=r"affine has no version folder such as 1/model\.onnx"):
        find_models(tmp_path)
