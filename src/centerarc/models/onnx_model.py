"""Face models in ONNX files, whoever made them, run by onnxruntime."""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.io.files import files_sha256
from centerarc.models.embedder import Channels, Layout, Preprocessing, three_numbers
from centerarc.models.onnx_graph import read_graph

_MODULES = ("onnx", "onnxruntime", "onnxscript")
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(uint16)": np.uint16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
# Steps between black and white, below which pixels rounded to whole numbers are a mistake.
_FEWEST = 16
# Of onnxruntime's log, what ends the process: models whose declared output is (1, D) warn at each
# batch, and errors are raised as well.
_FATAL = 4
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Not TensorFloat-32, its default, which rounds factors to 11 bits.
_FULL_PRECISION = {"use_tf32": "0"}


def require_export_extra() -> None:
    """Says how to install what ONNX files need, if it is not there; cheap enough to call first.

    Raises:
        ImportError: If onnx, onnxruntime or onnxscript is missing.

    Example:
        >>> require_export_extra()
    """
    missing = [name for name in _MODULES if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX models need {' and '.join(missing)}: pip install 'centerarc[export]'"
        )


class OnnxModel:
    """A face model in an ONNX file as an embedder: `(N, S, S, 3)` uint8 RGB to `(N, D)` float32.

    A file of `export_onnx` says itself how it wants its images. Of any other the size and the order
    of dimensions come from the shape of its input where that tells them, and the rest from the
    arguments, which stand for `(x - 127.5) / 127.5` of RGB unless given, or for the pixels
    themselves where the input is whole numbers (less 128 where it is int8). Of images that are not
    square it takes the middle of a square one. A model that takes a fixed number of images, or one
    without a batch, gets them so many at a time. Dimensions of 1 in its output are left out.

    Args:
        path: The file.
        image_size: Side of the input in pixels, or height and width, where the file leaves it open.
        mean: Taken from each value in [0, 255]; one number, or three in the order of `channels`.
        std: What the difference is divided by, likewise.
        channels: "rgb", "bgr" for models trained on images as OpenCV reads them, or "gray".
        layout: "nchw" or "nhwc", where the shape of the input does not tell.
        output: Name of the output that is the embedding, where there are several.
        constants: Values of the inputs that are not the images, by name: a number for all of it,
            or as many as it has.
        device: "cpu", "cuda" for onnxruntime's CUDA provider, or "auto" for that where it starts.
        threads: Number of threads; all cores by default.

    Attributes:
        path: The file.
        device: Where it computes, "cpu" or "cuda".
        preprocessing: What becomes of an image.
        embedding_size: D.
        batch_size: The number of images that it takes at a time; None for any number.
        metadata: What `export_onnx` recorded in the file; None in other tools' files.
        sha256: Of the file, with the files of weights beside it if it has any.
        graph_sha256: Of the weights and operations alone, whatever else the file says.

    Raises:
        ImportError: If the extra `export` is not installed.
        ValueError: If the file cannot be read or run, does not take one batch of images, does not
            give D numbers an image, or an argument contradicts it; if the device is not there.
        OSError: If a file of weights beside it cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        image_size: int | tuple[int, int] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        channels: Channels | None = None,
        layout: Layout | None = None,
        output: str | None = None,
        constants: Mapping[str, float | Sequence[float]] | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        require_export_extra()
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1 or None")
        self.path = Path(path)
        try:
            graph = read_graph(self.path)
            self.sha256 = files_sha256(*graph.files)
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"cannot read {error.filename or str(path)!r}: {reason}") from error
        self.metadata, self.graph_sha256 = graph.metadata, graph.sha256
        self._session, self.device = _session(self.path, device, threads)
        self._constants = dict(constants or {})
        self._input = self._images_input()
        shape = list(self._input.shape)
        self._batched = len(shape) == 4
        self._shape = shape if self._batched else [1, *shape]
        self._output = self._chosen_output(output)
        side, crop = (image_size, None) if isinstance(image_size, int | None) else _cut(image_size)
        given = {
            "image_size": side,
            "crop": crop,
            "mean": None if mean is None else three_numbers("mean", mean),
            "std": None if std is None else three_numbers("std", std),
            "channels": channels,
            "layout": layout,
        }
        given = {name: value for name, value in given.items() if value is not None}
        self.preprocessing = self._preprocessing(graph.scales_input, given)
        self.batch_size, self.embedding_size = self._tried()

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
        count, step = len(inputs), self.batch_size or max(len(inputs), 1)
        features = np.empty((count, self.embedding_size), np.float32)
        for at in range(0, count, step):
            batch = inputs[at : at + step]
            if len(batch) < step:
                # The last image fills the batch up; what comes of it again is dropped.
                batch = np.concatenate([batch, np.repeat(batch[-1:], step - len(batch), 0)])
            result = self._call(batch)
            found = _rows(result, step)
            if found is None or found.shape[1] != self.embedding_size:
                raise ValueError(
                    f"{str(self.path)!r} gave {result.shape} for {step} images instead of "
                    f"({step}, {self.embedding_size})"
                )
            features[at : at + step] = found[: count - at]
        return features

    def _call(self, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        feed = {self._input.name: inputs if self._batched else inputs[0]}
        for value in self._session.get_inputs():
            if value.name in self._constants:
                feed[value.name] = self._constant(value, len(inputs))
        try:
            (result,) = self._session.run([self._output], feed)
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise ValueError(f"cannot run {str(self.path)!r}: {_first_line(error)}") from error
        return np.asarray(result)

    def _constant(self, value: Any, count: int) -> npt.NDArray[Any]:
        """What an input is given that is not the images, in its shape; `count` is the batch."""
        batch = self._input.shape[0]
        open_as = {batch: count} if isinstance(batch, str) else {}
        shape = [n if isinstance(n, int) else open_as.get(n, 1) for n in value.shape]
        given = np.asarray(self._constants[value.name])
        try:
            fitting = given if given.ndim == 0 else given.reshape(shape)
            return np.broadcast_to(fitting, shape).astype(_DTYPES[value.type])
        except (KeyError, ValueError):
            raise ValueError(
                f"constant must give input {value.name!r} of {str(self.path)!r}, {value.type} of "
                f"shape {_words(value.shape)}, one number or all, got {given.tolist()!r:.80}"
            ) from None

    def _images_input(self) -> Any:
        """The one input that the constants do not give."""
        inputs, file = self._session.get_inputs(), repr(str(self.path))
        names = {value.name for value in inputs}
        if unknown := sorted(self._constants.keys() - names):
            raise ValueError(f"{file} has no input {unknown[0]!r}; it has {_names(inputs)}")
        left = [value for value in inputs if value.name not in self._constants]
        if len(left) != 1:
            others = [value.name for value in left if len(value.shape) not in (3, 4)]
            example = f", such as {others[0]}=0" if others else ""
            raise ValueError(
                f"{file} has {len(inputs)} inputs ({_names(inputs)}); constant must give all but "
                f"the images{example}"
            )
        (found,) = left
        if len(found.shape) not in (3, 4) or found.type not in _DTYPES:
            raise ValueError(
                f"input {found.name!r} of {file} is {found.type} of shape {_words(found.shape)}; "
                "images are numbers of (N, C, H, W) or (N, H, W, C), where C is 3, or 1 for gray"
            )
        return found

    def _chosen_output(self, wanted: str | None) -> str:
        outputs = self._session.get_outputs()
        names = [str(output.name) for output in outputs]
        if wanted is None:
            if len(names) == 1:
                return names[0]
            raise ValueError(
                f"{str(self.path)!r} has {len(names)} outputs ({_names(outputs)}); output must "
                "name the one that is the embedding"
            )
        if wanted not in names:
            raise ValueError(
                f"{str(self.path)!r} has no output {wanted!r}; it has {_names(outputs)}"
            )
        return wanted

    def _preprocessing(self, scales_input: bool, given: Mapping[str, Any]) -> Preprocessing:
        """Brings together what is known; nothing of it may contradict the rest."""
        file, shape = repr(str(self.path)), self._shape
        name = f"input {self._input.name!r} of {file}"
        has_shape = f"{name} has shape {_words(self._input.shape)}"
        said: dict[str, Any] = {}
        if self.metadata is not None:
            try:
                recorded = vars(Preprocessing.from_dict(self.metadata))
                said = {fact: value for fact, value in recorded.items() if value is not None}
            except ValueError as error:
                raise ValueError(f"{file} holds no valid metadata of ours: {error}") from error
        try:
            shown = _from_shape(shape, said.get("layout") or given.get("layout"))
        except ValueError as error:
            raise ValueError(f"{has_shape}: {error}") from error
        for argument, value in shown.items():
            if said.get(argument, value) != value:
                raise ValueError(
                    f"{has_shape}, but the metadata of ours in it says {argument} "
                    f"{said[argument]!r}"
                )
        said |= shown
        for argument, value in given.items():
            if argument in said and said[argument] != value:
                raise ValueError(f"{argument} is {value!r}, but {file} takes {said[argument]!r}")
        chosen = said | dict(given)
        if "layout" not in chosen:
            raise ValueError(
                f"{has_shape}, which does not tell the order of its dimensions; layout must be "
                "given, 'nchw' or 'nhwc'"
            )
        planes = shape[1] if chosen["layout"] == "nchw" else shape[3]
        if planes == 3 and chosen.get("channels") == "gray":
            raise ValueError(f"channels is 'gray', but {has_shape}")
        if "image_size" not in chosen:
            raise ValueError(
                f"{has_shape}, which leaves the size of the images open; image_size must be given"
            )
        dtype = np.dtype(_DTYPES[self._input.type])
        if dtype == np.uint8:
            if "mean" in given or "std" in given:
                raise ValueError(
                    f"{name} takes uint8 pixels, which the model scales itself; neither mean nor "
                    "std can be given"
                )
            chosen |= {"mean": 0.0, "std": 1.0}
        elif dtype.kind in "iu":
            chosen = {"mean": 128.0 if dtype == np.int8 else 0.0, "std": 1.0} | chosen
            self._check_range(Preprocessing(**chosen), dtype)
        elif scales_input and not {"mean", "std"} <= set(chosen):
            raise ValueError(
                f"{file} begins with arithmetic on its input, so it may scale pixels itself; "
                "give mean and std: 0 and 1 where it takes [0, 255], 127.5 and 127.5 for [-1, 1]"
            )
        return Preprocessing(**chosen)

    def _check_range(self, scaling: Preprocessing, dtype: Any) -> None:
        """Whole numbers that pixels overflow, or that all of them round to, are a mistake."""
        ends = [
            (end - m) / s
            for end in (0, 255)
            for m, s in zip(scaling.mean, scaling.std, strict=True)
        ]
        limits = np.iinfo(dtype)
        if min(ends) < limits.min or max(ends) > limits.max or max(ends) - min(ends) < _FEWEST:
            raise ValueError(
                f"input {self._input.name!r} of {str(self.path)!r} takes {dtype}, and pixels "
                f"become {min(ends):g} to {max(ends):g} by mean {scaling.mean[0]:g} and std "
                f"{scaling.std[0]:g}; mean must be 0 and std 1 where it takes [0, 255]"
            )

    def _tried(self) -> tuple[int | None, int]:
        """Runs it on black images; returns how many it takes at a time, and D."""
        size = self.image_size
        fixed = self._shape[0] if isinstance(self._shape[0], int) else None

        def found_for(count: int) -> tuple[tuple[int, ...], npt.NDArray[Any] | None]:
            black = np.zeros((count, size, size, 3), np.uint8)
            dtype = _DTYPES[self._input.type]
            result = self._call(self.preprocessing(black, dtype=dtype))
            return result.shape, _rows(result, count)

        count = fixed or 1
        shape, rows = found_for(count)
        if rows is None:
            raise ValueError(
                f"output {self._output!r} of {str(self.path)!r} has shape {shape} for {count} "
                f"image{'s' if count > 1 else ''}; an embedding has ({count}, D)"
            )
        if fixed is None:
            # Some declare any number and have a 1 inside.
            try:
                two = found_for(2)[1]
                fixed = None if two is not None and two.shape == (2, rows.shape[1]) else 1
            except ValueError:
                fixed = 1
        return fixed, rows.shape[1]


def _rows(result: npt.NDArray[Any], count: int) -> npt.NDArray[Any] | None:
    """An output as `(count, D)`, without dimensions of 1; None where it is something else."""
    if result.dtype.kind not in "fiu" or result.size < count or result.size % count:
        return None
    rows = result.reshape(count, -1)
    lengths = [[n for n in shape if n != 1] for shape in (result.shape, rows.shape)]
    return rows if lengths[0] == lengths[1] else None


def _cut(size: tuple[int, int]) -> tuple[int, tuple[int, int] | None]:
    """The side of square images, and what of them an input of height and width takes."""
    return max(size), None if size[0] == size[1] else (size[0], size[1])


def _session(path: Path, device: str, threads: int | None) -> tuple[Any, str]:
    """What runs a file, and where it does."""
    import onnxruntime

    if device not in ("cpu", "cuda", "auto"):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'auto' for ONNX files, got {device!r}")
    why = (
        "onnxruntime here has no CUDA provider: pip uninstall onnxruntime, pip install "
        "onnxruntime-gpu"
    )
    if device != "cpu" and _CUDA in onnxruntime.get_available_providers():
        # That names what was built in. Without a GPU, or CUDA's libraries, a session fails or
        # takes the CPU in silence.
        why = "its provider does not start; are there a GPU, and CUDA and cuDNN that it can load?"
        try:
            found = _started(path, threads, [(_CUDA, _FULL_PRECISION), _CPU])
        except ValueError as error:
            why = f"{why} ({error})"
        else:
            if _CUDA in found.get_providers():
                return found, "cuda"
    if device == "cuda":
        raise ValueError(f"device is 'cuda', but {why}")
    return _started(path, threads, [_CPU]), "cpu"


def _started(path: Path, threads: int | None, providers: list[Any]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    # Threads that spin for work take the cores from the processes that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # as above
        raise ValueError(f"cannot read {str(path)!r}: {_first_line(error)}") from error


def _from_shape(shape: Sequence[Any], layout: str | None) -> dict[str, Any]:
    """What the declared shape of the input tells: layout, side and gray, as far as it does."""
    if layout is None:
        places = [at for at in (1, 3) if shape[at] in (1, 3)]
        if len(places) != 1:
            return {}
        layout = "nchw" if places == [1] else "nhwc"
    channels, height, width = shape[1:] if layout == "nchw" else (shape[3], *shape[1:3])
    if isinstance(channels, int) and channels not in (1, 3):
        raise ValueError(f"as {layout} it has {channels} channels; it must have 3, or 1 for gray")
    known: dict[str, Any] = {"layout": layout}
    if channels == 1:
        known["channels"] = "gray"
    if isinstance(height, int) and isinstance(width, int):
        known["image_size"], crop = _cut((height, width))
        known |= {} if crop is None else {"crop": crop}
    return known


def _words(shape: Sequence[Any]) -> str:
    return f"({', '.join(str(n) if isinstance(n, int) else 'any' for n in shape)})"


def _names(values: Sequence[Any]) -> str:
    return ", ".join(f"{value.name} {_words(value.shape)}" for value in values)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
