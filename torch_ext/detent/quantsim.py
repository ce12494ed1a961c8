"""QuantizationSimModel: a float model in, a model that simulates quantization while it trains, and its export."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ._report import report
from ._running import evaluating
from .capture import install, record
from .defs import QuantizationDataType, QuantScheme
from .distributed import check_whole, merging, unwrap
from .encodings import AffineEncoding, loading, text
from .encodings import files as encodings_files
from .nn import QuantizedModule
from .nn.base import entries, holder
from .quantizers import AffineQuantizer, quantization_disabled

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["QuantizationSimModel", "load_encodings_to_sim", "quantization_disabled"]

_UNSET = object()


class QuantizationSimModel:
    """A model whose tensors are rounded as a quantized device would round them.

    ``sim.model`` is a copy of the model (or with ``in_place`` the model itself): same modules, parameter names and
    state_dict keys, plus quantizers. Without range learning activation ranges are fixed after calibration and parameter
    ranges follow the parameters; with it every range is trained.

    Args:
        model: Any module, on any device, float. It is left as it is unless ``in_place``.
        dummy_input: A sample input: a tensor, a tuple or list of arguments, or a mapping of keyword arguments. It is
            run once, in eval mode, to see which tensors flow where; random state and buffers are left as they were.
        quant_scheme: A :class:`QuantScheme` or its name; ``None`` is ``min_max``.
        rounding_mode: ``None`` or ``"nearest"``: halves to even.
        default_output_bw, default_param_bw: Bits of activations and parameters, 2 to 32.
        in_place: Quantize ``model`` itself.
        config_file: ``None``, the only value supported.
        default_data_type: ``QuantizationDataType.int``, the only value supported.
    Raises:
        ValueError: An argument is out of its range. NotImplementedError: it names something unsupported.
        RuntimeError: The model is quantized already.
    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> sim = QuantizationSimModel(model, torch.randn(1, 4), quant_scheme="min_max")
        >>> sim.compute_encodings(lambda model: model(torch.randn(32, 4)))
        >>> sim.model(torch.randn(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: Any,
        quant_scheme: str | QuantScheme | None = None,
        rounding_mode: str | None = None,
        default_output_bw: int = 8,
        default_param_bw: int = 8,
        in_place: bool = False,
        config_file: str | None = None,
        default_data_type: QuantizationDataType = QuantizationDataType.int,
    ):
        self.quant_scheme = _checked_scheme(quant_scheme)
        _check_options(rounding_mode, default_output_bw, default_param_bw, config_file, default_data_type)
        for name, module in model.named_modules():
            if isinstance(module, (QuantizedModule, AffineQuantizer)):
                raise RuntimeError(
                    f"QuantizationSimModel: the model is quantized already ({name or 'the model'} is a "
                    f"{type(module).__name__}), expected a float model. Build the sim from the original model."
                )
        self.default_output_bw = default_output_bw
        self.default_param_bw = default_param_bw
        self.model = model if in_place else copy.deepcopy(model)
        self._graph = record(self.model, dummy_input)
        install(
            self.model,
            self._graph,
            output_bw=default_output_bw,
            param_bw=default_param_bw,
            learned=self.quant_scheme.learns_ranges,
        )

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def _network(self) -> nn.Module:
        """``model`` without what it is wrapped in, DataParallel say: names are those of the float model."""
        return unwrap(self.model)

    def named_quantizers(self) -> Iterator[tuple[str, AffineQuantizer]]:
        """``(name, quantizer)`` of every quantizer; one that is shared comes once, under its first name."""
        for name, module in self._network.named_modules():
            if isinstance(module, AffineQuantizer):
                yield name, module

    def quantizers(self) -> Iterator[AffineQuantizer]:
        """Every quantizer, once."""
        for _, quantizer in self.named_quantizers():
            yield quantizer

    def named_qmodules(self) -> Iterator[tuple[str, QuantizedModule]]:
        """``(name, module)`` of every quantized module."""
        for name, module in self._network.named_modules():
            if isinstance(module, QuantizedModule):
                yield name, module

    def __str__(self) -> str:
        return report(self._network, self._graph)

    # --- calibration --------------------------------------------------------------------------------------------------

    def compute_encodings(
        self,
        forward_pass_callback: Callable[..., Any],
        forward_pass_callback_args: Any = _UNSET,
        *,
        process_group: ProcessGroup | bool = True,
    ) -> None:
        """Find every range from a few batches of representative data.

        Args:
            forward_pass_callback: Runs data through the model it is given: ``callback(model)``, or with a second
                argument here, whatever it is, ``callback(model, args)``. It is called in eval mode without gradients.
                Activations pass in float while they are observed; parameters are quantized.
            forward_pass_callback_args: That second argument.
            process_group: Who calibrates together, each with its share of the data: ``True``: the ranks of
                torch.distributed's default group where one is initialized; ``False``: this process alone; or a group.
                Every rank of it calls this, and ends with the ranges of one process that saw all the data, see
                :func:`detent.distributed.merge_observers`.
        Raises:
            Whatever the callback raises; the model is then as it was before, ranges and training flags included.
            RuntimeError: It raised on another rank, or the ranks have different quantizers; likewise.
        """
        check_whole(self.model, "compute_encodings")
        arguments = () if forward_pass_callback_args is _UNSET else (forward_pass_callback_args,)
        active = [quantizer for quantizer in self.quantizers() if quantizer.enabled and quantizer._overwritable]
        before = [(quantizer, quantizer._snapshot()) for quantizer in active]
        try:
            with evaluating(self.model):
                of_params = self._calibrate_params(set(active))
                observing = [quantizer for quantizer in active if quantizer not in of_params]
                for quantizer in observing:
                    quantizer._start_observing("pass")
                # Forwards of DistributedDataParallel wait for each other, and ranks may have more or less data.
                together = isinstance(self.model, DistributedDataParallel)
                with merging([quantizer._collector for quantizer in observing], process_group):
                    forward_pass_callback(self.model.module if together else self.model, *arguments)
                found = [quantizer._finish_observing() for quantizer in observing]
        except BaseException:  # Ctrl-C too
            for quantizer, snapshot in before:
                quantizer._restore(snapshot)
            raise
        for quantizer in observing:
            quantizer._mark_unseen()
        if observing and not any(found):
            warnings.warn(
                "compute_encodings: no quantizer saw any data, so activations stay float. The callback is given the "
                "model: run your data through that one.",
                stacklevel=2,
            )

    def _calibrate_params(self, active: set[AffineQuantizer]) -> set[AffineQuantizer]:
        """Ranges of parameters come from the parameters alone."""
        done: set[AffineQuantizer] = set()
        for module in self.model.modules():
            for name, quantizer in holder(module, "param").items():
                parameter = getattr(module, name, None)
                if quantizer not in active or quantizer in done or not isinstance(parameter, Tensor):
                    continue
                done.add(quantizer)
                quantizer._start_observing("pass")
                quantizer._collector.update(parameter)
                quantizer._finish_observing()
        return done

    # --- encodings ----------------------------------------------------------------------------------------------------

    def _named_slots(self) -> Iterator[tuple[str, bool, AffineQuantizer]]:
        """``(name in files, whether a parameter, quantizer)``: ``conv1.weight``, ``conv1.input_0``, ``fc.output_0``."""
        check_whole(self.model, "encodings")
        for path, module in self._network.named_modules():
            prefix = f"{path}." if path else ""
            for slot, key, quantizer in entries(module):
                yield prefix + (key if slot == "param" else f"{slot}_{key}"), slot == "param", quantizer

    def encodings(self) -> tuple[dict[str, AffineEncoding], dict[str, AffineEncoding]]:
        """Activation and parameter encodings by name, as they are now; none of quantizers off or without a range."""
        activations: dict[str, AffineEncoding] = {}
        parameters: dict[str, AffineEncoding] = {}
        for name, is_param, quantizer in self._named_slots():
            encoding = quantizer.get_encoding() if quantizer.enabled else None
            if encoding is not None:
                (parameters if is_param else activations)[name] = encoding
        return activations, parameters

    def quantizer_args(self) -> dict[str, Any]:
        """What encodings files say of the sim as a whole."""
        per_channel = any(quantizer.axis is not None for quantizer in self.quantizers())
        return {
            "activation_bitwidth": self.default_output_bw,
            "param_bitwidth": self.default_param_bw,
            "dtype": "int",
            "is_symmetric": True,
            "per_channel_quantization": per_channel,
            "quant_scheme": self.quant_scheme.name,
        }

    def save_encodings_to_json(
        self, path: str | PathLike[str], filename_prefix: str, encoding_version: str = "1.0.0"
    ) -> None:
        """Write ``<path>/<filename_prefix>.json``: tensors named by module (``conv1.input_0``).

        Args:
            path: Folder, made if it is not there.
            filename_prefix: A file name without folders.
            encoding_version: ``"0.6.1"``, ``"1.0.0"`` or ``"2.0.0"``.
        Raises:
            ValueError: An argument is none of these, or an encoding cannot be written. Nothing is written then.
        Example:
            >>> sim = QuantizationSimModel(torch.nn.Linear(4, 2), torch.randn(1, 4))
            >>> sim.compute_encodings(lambda model: model(torch.randn(32, 4)))
            >>> sim.save_encodings_to_json(folder, "linear", encoding_version="2.0.0")
            >>> sim.load_encodings(f"{folder}/linear.json")
        """
        if Path(filename_prefix).name != filename_prefix:
            raise ValueError(
                f"save_encodings_to_json: filename_prefix is {filename_prefix!r}, expected a file name. Put folders "
                "into path."
            )
        content = encodings_files.to_dict(
            encoding_version, *self.encodings(), keyed_by="torch", quantizer_args=self.quantizer_args()
        )
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        text.write(folder / f"{filename_prefix}.json", content)

    def load_encodings(
        self,
        encodings: Mapping[str, Any] | str | PathLike[str],
        strict: bool = True,
        partial: bool = True,
        requires_grad: bool | None = None,
        allow_overwrite: bool | None = True,
    ) -> None:
        """Take ranges, bitwidths and symmetry from an encodings file: 0.6.1, 1.0.0 or 2.0.0, keyed by module or by the
        tensors of the exported ONNX models.

        Ranges that were dynamic become fixed. If it raises, the sim is as it was before.

        Args:
            encodings: The file, or its content.
            strict: Whether an encoding for which there is no quantizer, or one that is off, is an error; else it is
                skipped.
            partial: Whether quantizers without an encoding keep theirs; else they are removed.
            requires_grad: ``True`` and ``False`` make the loaded ranges learned and fixed; ``None`` leaves them.
            allow_overwrite: ``False``: later calibrations leave the loaded ranges alone; ``None``: as before.
        Raises:
            RuntimeError: ``strict``, and there are encodings without a quantizer. The file holds no encodings at all.
            ValueError: The file is damaged or of another format, or an encoding does not fit.
        """
        loading.load(
            self, encodings, strict=strict, partial=partial, requires_grad=requires_grad,
            allow_overwrite=allow_overwrite,
        )  # fmt: skip

    def load_and_freeze_encodings(
        self, encoding_path: Mapping[str, Any] | str | PathLike[str], ignore_when_quantizer_disabled: bool = False
    ) -> None:
        """:meth:`load_encodings` for good: the loaded ranges are fixed, and later calibrations leave them alone.

        Args:
            encoding_path: The file, or its content.
            ignore_when_quantizer_disabled: Skip encodings for which there is no quantizer, or one that is off.
        Raises:
            As :meth:`load_encodings`.
        """
        loading.load(
            self, encoding_path, strict=not ignore_when_quantizer_disabled, requires_grad=False, allow_overwrite=False
        )

    def set_and_freeze_param_encodings(self, encoding_path: Mapping[str, Any] | str | PathLike[str]) -> None:
        """:meth:`load_and_freeze_encodings` of the parameters in a file; what it says of activations is passed over."""
        loading.load(self, encoding_path, requires_grad=False, allow_overwrite=False, parameters_only=True)

    def _remove(self, unwanted: set[int]) -> None:
        for module in self.model.modules():
            for slot, key, quantizer in list(entries(module)):
                if id(quantizer) in unwanted:
                    module._modules[f"{slot}_quantizers"]._modules[key] = None

    def export(
        self,
        path: str | PathLike[str],
        filename_prefix: str,
        dummy_input: Any,
        onnx_export_args: Any = None,
        propagate_encodings: bool = False,
        export_to_torchscript: bool = False,
        **options: Any,
    ) -> None:
        """Write the model and its encodings for a runtime; files and options: :func:`detent.export.export_sim`.

        Args:
            path: Folder. filename_prefix: Start of every file's name.
            dummy_input: A sample input, as at construction.
            onnx_export_args: Arguments for the ONNX exporter.
            propagate_encodings: ``False``, the only value supported.
            export_to_torchscript: Also write a traced TorchScript file.
            options: ``encoding_version`` (``"1.0.0"``) and ``filename_prefix_encodings``.
        """
        if propagate_encodings:
            raise NotImplementedError("export: propagate_encodings is True, expected False, the only value supported.")
        from .export import export_sim

        return export_sim(
            self, path, filename_prefix, dummy_input, export_to_torchscript=export_to_torchscript,
            onnx_export_args=onnx_export_args, **options,
        )  # fmt: skip


def load_encodings_to_sim(
    sim: QuantizationSimModel, pytorch_encoding_path: Mapping[str, Any] | str | PathLike[str]
) -> None:
    """Make a sim what the encodings file says: every encoding needs a quantizer, and quantizers without an encoding are
    removed.

    Args:
        sim: Built from the model that was saved.
        pytorch_encoding_path: The file, or its content.
    Raises:
        As :meth:`QuantizationSimModel.load_encodings`.
    Example:
        >>> sim = QuantizationSimModel(torch.nn.Linear(4, 2), torch.randn(1, 4))
        >>> entry = {"name": "input_0", "output_dtype": "uint4", "y_scale": 0.5, "y_zero_point": 8}
        >>> load_encodings_to_sim(sim, {"version": "2.0.0", "encodings": [entry]})
        >>> [name for name, _ in sim.named_quantizers()]
        ['input_quantizers.0']
    """
    loading.load(sim, pytorch_encoding_path, partial=False)


def _checked_scheme(scheme: str | QuantScheme | None) -> QuantScheme:
    if scheme is None:
        return QuantScheme.min_max
    if isinstance(scheme, str):
        scheme = QuantScheme.from_str(scheme)
    if not isinstance(scheme, QuantScheme):
        raise ValueError(f"QuantizationSimModel: quant_scheme is {scheme!r}, expected a QuantScheme or its name.")
    supported = (
        QuantScheme.min_max,
        QuantScheme.training_range_learning_with_tf_init,
        QuantScheme.training_range_learning,
    )
    if scheme not in supported:
        names = ", ".join(known.name for known in supported)
        raise NotImplementedError(f"QuantizationSimModel: quant_scheme is {scheme.name}, expected one of {names}.")
    return scheme


def _check_options(rounding_mode, output_bw, param_bw, config_file, data_type) -> None:
    if rounding_mode not in (None, "nearest"):
        raise ValueError(f"QuantizationSimModel: rounding_mode is {rounding_mode!r}, expected 'nearest' or None.")
    for name, bits in (("default_output_bw", output_bw), ("default_param_bw", param_bw)):
        if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= 32:
            raise ValueError(f"QuantizationSimModel: {name} is {bits!r}, expected an integer from 2 to 32.")
    if config_file is not None:
        raise NotImplementedError(
            f"QuantizationSimModel: config_file is {config_file!r}, expected None, the only value supported: "
            "weights per channel, activations per tensor."
        )
    if data_type is not QuantizationDataType.int:
        raise NotImplementedError(
            f"QuantizationSimModel: default_data_type is {data_type}, expected QuantizationDataType.int, the only "
            "value supported."
        )
