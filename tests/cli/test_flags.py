"""Flags that tell what a model's file does not say."""

from pathlib import Path

import pytest

from centerarc.cli.flags import ModelFlags, opened_model
from tests.models.tiny import tiny


def test_every_question_about_an_onnx_file_has_a_flag(tmp_path: Path) -> None:
    path = tiny(tmp_path / "m.onnx", ("n", "c", "h", "w"), second_output=True)
    for flags, asked in (
        (ModelFlags(), "output must"),
        (ModelFlags(output_name="mean"), "layout must"),
        (ModelFlags(output_name="mean", layout="nchw"), "image_size must"),
    ):
        with pytest.raises(ValueError, match=asked):
            opened_model(path, flags)
    opened = opened_model(path, ModelFlags(output_name="mean", layout="nchw", size="4"))
    assert opened.preprocessing.layout == "nchw"
