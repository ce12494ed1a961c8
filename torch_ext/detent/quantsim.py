"""QuantizationSimModel: a float model in, a model that simulates quantization while it trains, and its export."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ._looking import Looking
from .calibration import compute_encodings
from .capture import call_sites, exclude, install, record, strip
from .checkpoints import load_checkpoint, save_checkpoint
from .config import Config, Kernel
from .config.overrides import Selected, type_of
from .defs import QuantizationDataType, QuantScheme
from .distributed import check_whole, unwrap
from .encodings import Encoding, loading, text
from .encodings import files as encodings_files
from .float_format import FloatFormat
from .nn import QuantizedModule
from .nn.base import ActivationQuantizers, entries, holder, parameters_of
from .observers import PercentileObserver, observer_of
from .quantizers import Quantizer, quantization_disabled

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = [
    "QuantizationSimModel",
    "load_checkpoint",
    "load_encodings_to_sim",
    "quantization_disabled",
    "save_checkpoint",
]

_UNSET = object()


class QuantizationSimModel(Looking):
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
        default_output_bw, default_param_bw: Bits of activations and parameters, 2 to 32, or a float format: a
            :class:`detent.FloatFormat`, a torch type or its name, whatever ``default_data_type`` is. Formats of 8 bits
            and less have scales, as integers do, calibrated and never trained; wider ones need no calibration.
        in_place: Quantize ``model`` itself.
        config_file: Which tensors are quantized and how: a JSON file in AIMET's format, the content of one, one of
            :data:`detent.config.NAMES` or a :class:`detent.config.Config`; ``None`` is ``"default_per_channel"``.
        default_data_type: What numbers of bits mean: of integers, or with ``QuantizationDataType.float`` of float
            formats: 16 (float16), 8 (float8_e4m3fn) or 32 (float32).
    Raises:
        ValueError: An argument is out of its range, or the model is scripted.
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
        default_output_bw: int | FloatFormat | torch.dtype | str = 8,
        default_param_bw: int | FloatFormat | torch.dtype | str = 8,
        in_place: bool = False,
        config_file: Config | Mapping[str, Any] | str | PathLike[str] | None = None,
        default_data_type: QuantizationDataType = QuantizationDataType.int,
    ):
        self.quant_scheme = _checked_scheme(quant_scheme)
        if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
            raise ValueError(
                f"QuantizationSimModel: model is a {type(model).__name__}, expected a torch.nn.Module that runs in "
                "Python. Build the sim from the original model; export() can trace it."
            )
        if rounding_mode not in (None, "nearest"):
            raise ValueError(f"QuantizationSimModel: rounding_mode is {rounding_mode!r}, expected 'nearest' or None.")
        output_type = _checked_type("default_output_bw", default_output_bw, default_data_type)
        param_type = _checked_type("default_param_bw", default_param_bw, default_data_type)
        self.config = Config.load(config_file)
        selected = Selected(self.config.overrides, model)
        for name, module in model.named_modules():
            if isinstance(module, (QuantizedModule, Quantizer)):
                raise RuntimeError(
                    f"QuantizationSimModel: the model is quantized already ({name or 'the model'} is a "
                    f"{type(module).__name__}), expected a float model. Build the sim from the original model."
                )
        self.default_output_bw, self.default_param_bw = output_type, param_type
        self.model = model if in_place else copy.deepcopy(model)
        self._graph = record(self.model, dummy_input)
        self._reasons = install(
            self.model,
            self._graph,
            self.config,
            selected,
            output_type=output_type,
            param_type=param_type,
            learned=self.quant_scheme.learns_ranges,
        )
        for quantizer in self.quantizers():
            quantizer.observer = observer_of(self.quant_scheme, quantizer.shape, quantizer.block_size)

    @property
    def _network(self) -> nn.Module:
        """``model`` without what it is wrapped in, DataParallel say: names are those of the float model."""
        return unwrap(self.model)

    @property
    def fuse_activations(self) -> bool:
        """Whether a sum, a ReLU or ReLU6 and their quantizer are one pass: on unless set, and the same bits."""
        return all(module._fuses for module in self.model.modules() if isinstance(module, ActivationQuantizers))

    @fuse_activations.setter
    def fuse_activations(self, fuse: bool) -> None:
        for module in self.model.modules():
            if isinstance(module, ActivationQuantizers):
                module._fuses = bool(fuse)

    # --- calibration --------------------------------------------------------------------------------------------------

    def compute_encodings(
        self,
        forward_pass_callback: Callable[..., Any],
        forward_pass_callback_args: Any = _UNSET,
        *,
        process_group: ProcessGroup | bool = True,
        progress: bool | None = None,
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
            progress: Whether to show, with tqdm, how many forward passes were observed and then how many ranges were
                found. ``None``: after some seconds, where stderr is a terminal and tqdm is installed; on rank 0.
        Raises:
            Whatever the callback raises; the model is then as it was before, ranges and training flags included.
            RuntimeError: It raised on another rank, or the ranks have different quantizers; likewise.
            ImportError: ``progress`` is ``True``, and tqdm is missing. ValueError: it is none of the three.
        """
        arguments = () if forward_pass_callback_args is _UNSET else (forward_pass_callback_args,)
        # Forwards of DistributedDataParallel wait for each other, and ranks may have more or less data.
        model = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        with compute_encodings(model, process_group=process_group, progress=progress):
            forward_pass_callback(model, *arguments)

    def set_percentile_value(self, percentile_value: float) -> None:
        """Choose the percentile of scheme ``post_training_percentile``, for the next :meth:`compute_encodings`.

        Args:
            percentile_value: 50 to 100; 100, the value at first, keeps every value inside.
        Raises:
            ValueError: It is not. RuntimeError: the scheme is another one.
        Example:
            >>> sim = QuantizationSimModel(torch.nn.Linear(4, 2), torch.randn(1, 4), "percentile")
            >>> sim.set_percentile_value(99.9)
            >>> sim.compute_encodings(lambda model: model(torch.randn(32, 4)))
        """
        observers = [quantizer.observer for quantizer in self.quantizers()]
        observers = [observer for observer in observers if isinstance(observer, PercentileObserver)]
        if not observers:
            raise RuntimeError(
                f"set_percentile_value: the sim's scheme is {self.quant_scheme.name}, expected "
                "post_training_percentile. Build the sim with quant_scheme='percentile'."
            )
        for observer in observers:
            observer.percentile = percentile_value

    def get_supported_kernels(self) -> dict[str, list[Kernel]]:
        """The kernels that the configuration lists: by ONNX operator type, and as ``"defaults"`` for the types without.

        Example:
            >>> config = detent.Config.load("htp_v73")
            >>> kernel = detent.config.Kernel(detent.config.Bits(8), detent.config.Bits(8))
            >>> config.op_type["Gemm"].supported_kernels = [kernel]
            >>> sim = QuantizationSimModel(torch.nn.Linear(4, 2), torch.randn(1, 4), config_file=config)
            >>> sim.get_supported_kernels() == {"Gemm": [kernel]}
            True
        """
        listed = {"defaults": self.config.defaults, **self.config.op_type}
        return {name: copy.deepcopy(held.supported_kernels) for name, held in listed.items() if held.supported_kernels}

    # --- changing what is quantized -----------------------------------------------------------------------------------

    def exclude_layers_from_quantization(self, layers_to_exclude: Iterable[nn.Module | str]) -> None:
        """Remove the quantizers of some layers, and of all that is inside them: they work in float.

        A quantizer on an output of theirs moves to those who read it, so that no other layer loses the grid of its
        input. Best before calibration; ranges that were found move along.

        Args:
            layers_to_exclude: Modules of ``sim.model``, call sites included, or their names.
        Raises:
            ValueError: One of them is not in ``sim.model``. Nothing has changed.
        Example:
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Sigmoid(), torch.nn.Linear(4, 2))
            >>> sim = QuantizationSimModel(model, torch.randn(1, 4))
            >>> sim.exclude_layers_from_quantization([sim.model[0]])
            >>> [name for name, _ in sim.named_quantizers()]  # doctest: +NORMALIZE_WHITESPACE
            ['1.input_quantizers.0', '1.output_quantizers.0', '2.param_quantizers.weight', '2.output_quantizers.0']
        """
        if isinstance(layers_to_exclude, (str, nn.Module)):  # either could be looped over
            layers_to_exclude = [layers_to_exclude]
        names = {module: name for name, module in self._network.named_modules()}
        known = {*names.values(), *call_sites(self._network)}
        paths = {layer if isinstance(layer, str) else names.get(layer, layer) for layer in layers_to_exclude}
        for path in paths:
            if path not in known:
                what = repr(path) if isinstance(path, str) else f"a {type(path).__name__}"
                raise ValueError(
                    f"exclude_layers_from_quantization: {what} is not in sim.model, expected modules of sim.model or "
                    "their names. The float model's modules are other objects unless the sim was built in_place."
                )
        exclude(self._network, self._graph, self._reasons, paths)

    def exclude_param_from_quantization(self, name: str) -> None:
        """Remove the quantizers of every parameter called ``name``, such as ``"bias"``, in all layers."""
        unwanted = {id(held) for module in self.model.modules() if (held := holder(module, "param").get(name))}
        self._remove(unwanted, "excluded")

    @torch.no_grad()
    def fold_param_quantizers(self) -> None:
        """Round the parameters to their grids for good. The simulation and its exports compute the same bits.

        Ranges of parameters are fixed from here on, for calibration and encodings files too: for evaluation and
        deployment, not for training.

        Raises:
            RuntimeError: A parameter's quantizer has no range yet. Nothing has changed.
        Example:
            >>> sim = QuantizationSimModel(torch.nn.Linear(64, 1), torch.randn(1, 64), default_param_bw=2)
            >>> sim.compute_encodings(lambda model: model(torch.randn(8, 64)))
            >>> sim.fold_param_quantizers()
            >>> sim.model.weight.unique().numel()
            4
        """
        folding = [
            (quantizer, parameter) for quantizer, owner, name in parameters_of(self.model)
            if quantizer.enabled and isinstance(parameter := getattr(owner, name), nn.Parameter)
        ]  # fmt: skip
        rounded = [quantizer(parameter) for quantizer, parameter in folding]
        for (quantizer, parameter), values in zip(folding, rounded):
            if quantizer.is_initialized():
                quantizer.mode = "fixed"
                quantizer.allow_overwrite(False)
                parameter.copy_(values)

    @staticmethod
    def get_original_model(model: nn.Module, qdq_weights: bool = False) -> nn.Module:
        """A float copy of a simulated model: the classes, names and state_dict keys it had before.

        Args:
            model: ``sim.model`` or a part of it; it is left as it is.
            qdq_weights: Whether parameters take the values that the simulation computes with.
        Raises:
            RuntimeError: ``qdq_weights``, and a parameter's quantizer has no range.
        Example:
            >>> sim = QuantizationSimModel(torch.nn.Linear(4, 2), torch.randn(1, 4), default_param_bw=4)
            >>> sim.compute_encodings(lambda model: model(torch.randn(32, 4)))
            >>> QuantizationSimModel.get_original_model(sim.model, qdq_weights=True)
            Linear(in_features=4, out_features=2, bias=True)
        """
        from .qat.compression import unhook

        made = copy.deepcopy(model)
        unhook(made)
        if qdq_weights:
            with torch.no_grad():
                for quantizer, owner, name in parameters_of(made):
                    parameter = getattr(owner, name)
                    if isinstance(parameter, nn.Parameter):
                        parameter.copy_(quantizer(parameter))
        strip(made)
        return made

    # --- encodings ----------------------------------------------------------------------------------------------------

    def _named_slots(self) -> Iterator[tuple[str, bool, Quantizer]]:
        """``(name in files, whether a parameter, quantizer)``: ``conv1.weight``, ``conv1.input_0``, ``fc.output_0``."""
        check_whole(self.model, "encodings")
        for path, module in self._network.named_modules():
            prefix = f"{path}." if path else ""
            for slot, key, quantizer in entries(module):
                yield prefix + (key if slot == "param" else f"{slot}_{key}"), slot == "param", quantizer

    def encodings(self) -> tuple[dict[str, Encoding], dict[str, Encoding]]:
        """Activation and parameter encodings by name, as they are now; none of quantizers off or without a range."""
        activations: dict[str, Encoding] = {}
        parameters: dict[str, Encoding] = {}
        for name, is_param, quantizer in self._named_slots():
            encoding = quantizer.get_encoding() if quantizer.enabled else None
            if encoding is not None:
                (parameters if is_param else activations)[name] = encoding
        return activations, parameters

    def quantizer_args(self) -> dict[str, Any]:
        """What encodings files say of the sim as a whole."""
        per_channel = any(quantizer.axis is not None for quantizer in self.quantizers())
        return {
            "activation_bitwidth": getattr(self.default_output_bw, "bits", self.default_output_bw),
            "param_bitwidth": getattr(self.default_param_bw, "bits", self.default_param_bw),
            "dtype": "float" if isinstance(self.default_output_bw, FloatFormat) else "int",
            "is_symmetric": bool(self.config.defaults.params.is_symmetric),
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

    def export_weights_to_safetensors(self, path: str | PathLike[str], filename_prefix: str) -> None:
        """Write ``<path>/<filename_prefix>.safetensors``: the float parameters and buffers, under their float names."""
        from .export.files import all_or_nothing, write_state_dict

        with all_or_nothing(path) as folder:
            write_state_dict(self.get_original_model(self._network), folder / f"{filename_prefix}.safetensors")

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

    def _remove(self, unwanted: set[int], why: str) -> None:
        for path, module in self._network.named_modules():
            for slot, key, quantizer in list(entries(module)):
                if id(quantizer) in unwanted:
                    module._modules[f"{slot}_quantizers"]._modules[key] = None
                    self._reasons.remove(path, slot, key, why)

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
    return scheme


def _checked_type(name: str, given: Any, data_type: QuantizationDataType) -> int | FloatFormat:
    if data_type not in (QuantizationDataType.int, QuantizationDataType.float):
        raise ValueError(
            f"QuantizationSimModel: default_data_type is {data_type!r}, expected QuantizationDataType.int or float."
        )
    found = type_of(f"QuantizationSimModel: {name}", given)
    if data_type is QuantizationDataType.int or isinstance(found, FloatFormat):
        return found
    if found not in (8, 16, 32):
        raise ValueError(
            f"QuantizationSimModel: {name} is {found} with QuantizationDataType.float, expected 8, 16 or 32, or a "
            "FloatFormat."
        )
    return FloatFormat.of(found)
