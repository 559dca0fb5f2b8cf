"""Face models in ONNX files, whoever made them, run by onnxruntime."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.export.extra import require_export_extra
from centerarc.export.graph import files_sha256, first_line, read_graph
from centerarc.export.preprocessing import Channels, Layout, three_numbers
from centerarc.export.resolving import resolve, shape_words

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
# Of onnxruntime's log, what ends the process: models whose declared output is (1, D) warn at each
# batch, and errors are raised as well.
_FATAL = 4


class OnnxModel:
    """A face model in an ONNX file as an embedder: `(N, S, S, 3)` uint8 RGB to `(N, D)` float32.

    A file of `export_onnx` says itself how it wants its images. Of any other the size and the order
    of dimensions come from the shape of its input where that tells them, and the rest from the
    arguments, which stand for `(x - 127.5) / 127.5` of RGB unless given. A model that takes a
    fixed number of images gets them so many at a time. It runs on the CPU.

    Args:
        path: The file.
        image_size: Side of the input in pixels, where the file leaves it open.
        mean: Taken from each value in [0, 255]; one number, or three in the order of `channels`.
        std: What the difference is divided by, likewise.
        channels: "rgb", or "bgr" for models trained on images as OpenCV reads them.
        layout: "nchw" or "nhwc", where the shape of the input does not tell.
        output: Name of the output that is the embedding, where there are several.
        threads: Number of threads; all cores by default.

    Attributes:
        path: The file.
        preprocessing: What becomes of an image.
        embedding_size: D.
        batch_size: The number of images that it takes at a time; None for any number.
        metadata: What `export_onnx` recorded in the file; None in files of others.
        sha256: Of the file, with the files of weights beside it if it has any.

    Raises:
        ImportError: If the extra `export` is not installed.
        ValueError: If the file cannot be read or run, does not take one batch of square images,
            does not give `(N, D)`, or an argument contradicts it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        image_size: int | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        channels: Channels | None = None,
        layout: Layout | None = None,
        output: str | None = None,
        threads: int | None = None,
    ) -> None:
        require_export_extra()
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1 or None")
        self.path = Path(path)
        facts = read_graph(self.path)
        self.metadata = facts.metadata
        self.sha256 = files_sha256(facts.files)
        self._session = _session(self.path, threads)
        self._input = self._only_input()
        self._output = self._chosen_output(output)
        given = {
            "image_size": image_size,
            "mean": None if mean is None else three_numbers("mean", mean),
            "std": None if std is None else three_numbers("std", std),
            "channels": channels,
            "layout": layout,
        }
        given = {name: value for name, value in given.items() if value is not None}
        self.preprocessing = resolve(self.path, facts, self._input, given)
        fixed = self._input.shape[0]
        self.batch_size: int | None = fixed if isinstance(fixed, int) else None
        self.embedding_size = self._tried()

    @property
    def image_size(self) -> int:
        """Side of the square images that it takes, in pixels."""
        return self.preprocessing.image_size

    def __repr__(self) -> str:
        return f"OnnxModel({str(self.path)!r}: {self.preprocessing}, D = {self.embedding_size})"

    def embed(
        self, images: npt.NDArray[np.uint8], *, mirror: bool = False
    ) -> npt.NDArray[np.float32]:
        """Embeds a batch; see `Embedder.embed`.

        Raises:
            ValueError: If the images are not `(N, S, S, 3)` uint8.
        """
        size = self.image_size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"images is {images.dtype} of shape {images.shape}; this model takes uint8 of "
                f"shape (N, {size}, {size}, 3)"
            )
        features = self._features(images, mirror=False)
        if mirror:
            features += self._features(images, mirror=True)
        return features

    def _features(self, images: npt.NDArray[np.uint8], *, mirror: bool) -> npt.NDArray[np.float32]:
        dtype = _DTYPES[self._input.type]
        inputs = self.preprocessing(images, mirror=mirror, dtype=dtype)
        step = self.batch_size or max(len(inputs), 1)
        parts = [self._run(inputs[at : at + step]) for at in range(0, len(inputs), step)]
        if not parts:
            return np.zeros((0, self.embedding_size), np.float32)
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _run(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        count = len(inputs)
        if self.batch_size is not None and count < self.batch_size:
            # The last images fill the batch up; what comes of them again is dropped.
            inputs = np.concatenate([inputs, np.repeat(inputs[-1:], self.batch_size - count, 0)])
        result = self._call(inputs)
        if result.ndim != 2 or result.shape != (len(inputs), self.embedding_size):
            raise ValueError(
                f"{str(self.path)!r} gave {result.shape} for {len(inputs)} images instead of "
                f"({len(inputs)}, {self.embedding_size})"
            )
        return result[:count].astype(np.float32)

    def _call(self, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        try:
            (result,) = self._session.run([self._output], {self._input.name: inputs})
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise ValueError(f"cannot run {str(self.path)!r}: {first_line(error)}") from error
        return np.asarray(result)

    def _only_input(self) -> Any:
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(
                f"{str(self.path)!r} has {len(inputs)} inputs ({_names(inputs)}); a face model "
                "has one, the images"
            )
        if len(inputs[0].shape) != 4 or inputs[0].type not in _DTYPES:
            raise ValueError(
                f"input {inputs[0].name!r} of {str(self.path)!r} is {inputs[0].type} of shape "
                f"{shape_words(inputs[0].shape)}; images are float or uint8 of (N, 3, S, S) or "
                "(N, S, S, 3)"
            )
        return inputs[0]

    def _chosen_output(self, wanted: str | None) -> str:
        outputs = self._session.get_outputs()
        names = [output.name for output in outputs]
        if wanted is not None and wanted not in names:
            raise ValueError(
                f"{str(self.path)!r} has no output {wanted!r}; it has {_names(outputs)}"
            )
        if wanted is None and len(names) > 1:
            raise ValueError(
                f"{str(self.path)!r} has {len(names)} outputs ({_names(outputs)}); output must "
                "name the one that is the embedding"
            )
        return str(names[0] if wanted is None else wanted)

    def _tried(self) -> int:
        """Runs it on black images; returns D, and leaves `batch_size` as it proves to be."""
        size = self.image_size
        dtype = _DTYPES[self._input.type]

        def shape_for(count: int) -> tuple[int, ...]:
            black = np.zeros((count, size, size, 3), np.uint8)
            return self._call(self.preprocessing(black, dtype=dtype)).shape

        count = self.batch_size or 1
        shape = shape_for(count)
        if len(shape) != 2 or shape[0] != count or shape[1] < 1:
            raise ValueError(
                f"output {self._output!r} of {str(self.path)!r} has shape {shape} for {count} "
                f"image{'s' if count > 1 else ''}; an embedding has ({count}, D)"
            )
        if self.batch_size is None:
            # Some say that they take any number and have a 1 inside.
            try:
                if shape_for(2) != (2, shape[1]):
                    self.batch_size = 1
            except ValueError:
                self.batch_size = 1
        return int(shape[1])


def _session(path: Path, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    # Threads that spin for work take the cores from the processes that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ValueError(f"cannot read {str(path)!r}: {first_line(error)}") from error


def _names(values: Sequence[Any]) -> str:
    return ", ".join(f"{value.name} {shape_words(value.shape)}" for value in values)
