"""One rank's part of a group of ranks that reduce together."""

import ctypes
import json
import sys
import warnings
from typing import (
    Any,
    Dict,
    Iterable,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from . import _abi, _arrays, _fused, _groups, _library, _options, _staging
from ._arrays import dtype_name
from ._result import Fused
from .errors import InvalidArgument, Unsupported

_MODES = {"graph": _abi.GRAPH, "eager": _abi.EAGER}
_Self = TypeVar("_Self", bound="Communicator")


class Family(NamedTuple):
    """What will be called: `pattern` (docs/catalogue.md) on rows of `hidden` elements of `dtype`, 1
    to `max_tokens` of them. `mode` says which measurements apply, "graph" or "eager"; calls may be
    captured or not in either."""

    pattern: str
    dtype: Any
    hidden: int
    max_tokens: int
    mode: str = "graph"

    def struct(self) -> _abi.Family:
        if self.mode not in _MODES:
            raise InvalidArgument(f"mode is {self.mode!r}; expected 'graph' or 'eager'")
        return _abi.Family(
            ctypes.sizeof(_abi.Family),
            self.pattern.encode(),
            _arrays.CODES[dtype_name(self.dtype)],
            self.hidden,
            self.max_tokens,
            _MODES[self.mode],
            0,
        )


class Communicator:
    """Made by one of the `from_...` functions, on every rank of a group. Use it from one thread at
    a time, with its device current. Collective, that is, called by all ranks in the same order:
    creating, `prepare`, `close`. Calls are made in the same order on all ranks; those on a GPU are
    stream-ordered, on PyTorch's current stream unless another is given, and may be captured into a
    CUDA graph.

    `rank` and `size` are those in the group; `device` is "cuda" or "cpu"."""

    # ---- Creation: collective. Options: see _options.build(). ------------------------------------

    @classmethod
    def from_torch(cls: Type[_Self], group: Any = None, **options: Any) -> _Self:
        """Over a torch.distributed group (None: all ranks); a sub-group works like the world. The
        GPU is PyTorch's current one. Small exchanges go through the group, on the host if it has a
        backend for that."""
        import torch

        made = _groups.torch_group(group)
        if options.get("device") in (None, "auto"):
            options["device"] = "cuda" if torch.cuda.is_available() else "cpu"
        if options["device"] == "cuda" and options.get("ordinal") is None:
            options["ordinal"] = torch.cuda.current_device()
        return cls._from_group(made, options)

    @classmethod
    def from_callbacks(
        cls: Type[_Self],
        rank: int,
        size: int,
        allgather: _groups.AllgatherFunction,
        broadcast: _groups.BroadcastFunction,
        barrier: _groups.BarrierFunction,
        **options: Any,
    ) -> _Self:
        """Over any process group: allgather(data) returns every rank's bytes, by rank;
        broadcast(data, root) returns the root's; barrier() returns when all have come. They are
        called in collective functions only, from the calling thread. What they raise ends the call
        with DeviceError, and is its __cause__."""
        return cls._from_group(_groups.Group(rank, size, allgather, broadcast, barrier), options)

    @classmethod
    def from_env(cls: Type[_Self], **options: Any) -> _Self:
        """From the variables of torchrun, mpirun, srun or PMI; the ranks meet through NCCL."""
        struct, keep = _options.build(**options)
        pointer = ctypes.c_void_p()
        status = _library.load().arbiter_create_from_environment(
            ctypes.byref(struct), ctypes.byref(pointer)
        )
        if status:
            _library.raise_status(status)
        return cls(pointer, keep, struct)

    @classmethod
    def in_process(cls: Type[_Self], size: int, **options: Any) -> "Ranks":
        """`size` ranks of this process, one thread for each: for tests, on the CPU device unless
        device="cuda"."""
        options.setdefault("device", "cpu")
        struct, keep = _options.build(gpus_needed=size, **options)
        pointers = (ctypes.c_void_p * max(size, 1))()
        status = _library.load().arbiter_create_in_process(size, ctypes.byref(struct), pointers)
        if status:
            _library.raise_status(status)
        return Ranks(cls(ctypes.c_void_p(pointer), keep, struct) for pointer in pointers)

    @classmethod
    def _from_group(cls: Type[_Self], group: _groups.Group, options: Dict[str, Any]) -> _Self:
        struct, keep = _options.build(**options)
        pointer = ctypes.c_void_p()
        status = _library.load().arbiter_create_from_callbacks(
            ctypes.byref(group.struct), ctypes.byref(struct), ctypes.byref(pointer)
        )
        if status:
            try:
                _library.raise_status(status)
            except Exception as error:
                raise error from group.error
        return cls(pointer, [*keep, group], struct, group)

    def __init__(
        self,
        pointer: ctypes.c_void_p,
        keep: List[Any],
        options: _abi.Options,
        group: Optional[_groups.Group] = None,
    ) -> None:
        """Not for programs: they call one of the functions above."""
        self._library = _library.load()
        self._pointer: Optional[ctypes.c_void_p] = pointer
        self._keep = keep
        self._group = group
        self._handles: Dict[Tuple[str, str, int], List[Tuple[int, str, ctypes.c_void_p]]] = {}
        self.rank: int = self._library.arbiter_rank(pointer)
        self.size: int = self._library.arbiter_size(pointer)
        self.device = "cpu" if options.device == _abi.DEVICE_CPU else "cuda"
        self.ordinal: int = options.ordinal if self.device == "cuda" else -1
        self._staging = _staging.Staging(self) if self.device == "cpu" else None
        self._quick: Any = None  # from the first call with a PyTorch tensor on a GPU

    # ---- Preparing -------------------------------------------------------------------------------

    def prepare(self, *families: Union[Family, Sequence[Any]]) -> None:
        """Choose, compile or load, and make room: collective, outside capture. Nothing is compiled,
        allocated or decided in a call after it. May be called again with more families or more
        tokens; what would move memory that a captured graph uses is refused (Unsupported)."""
        wanted = [Family(*family) for family in families]
        structs = (_abi.Family * len(wanted))(*[family.struct() for family in wanted])
        self._require(self._library.arbiter_prepare(self._open(), structs, len(wanted)))
        for family, struct in zip(wanted, structs):
            handle = ctypes.c_void_p()
            self._require(
                self._library.arbiter_prepare_handle(
                    self._pointer, ctypes.byref(struct), ctypes.byref(handle)
                )
            )
            key = (family.pattern, dtype_name(family.dtype), family.hidden)
            known = self._handles.setdefault(key, [])
            known.append((family.max_tokens, family.mode, handle))
            known.sort(key=lambda entry: entry[:2])
        if self._quick is not None:
            self._quick.forget()

    def prepare_nccl(self, dtype: Any, max_count: int) -> None:
        """NCCL for messages of up to `max_count` elements that no prepared family covers:
        collective, outside capture. Starts it where it was put off. Unsupported where there is
        none."""
        code = _arrays.CODES[dtype_name(dtype)]
        self._require(self._library.arbiter_prepare_nccl(self._open(), code, max_count))

    def prepared(
        self, pattern: str, dtype: Any, hidden: int, tokens: int, mode: Optional[str] = None
    ) -> bool:
        """Has `prepare` made room for this? Local and cheap."""
        return self._find(pattern, dtype_name(dtype), hidden, tokens, mode) is not None

    def _find(self, pattern: str, dtype: str, hidden: int, tokens: int, mode: Optional[str]) -> Any:
        for max_tokens, prepared_mode, handle in self._handles.get((pattern, dtype, hidden), ()):
            if max_tokens >= tokens and mode in (None, prepared_mode):
                return handle
        return None

    def _handle(
        self, pattern: str, dtype: str, hidden: int, tokens: int, mode: Optional[str]
    ) -> Any:
        handle = self._find(pattern, dtype, hidden, tokens, mode)
        if handle is not None:
            return handle
        known = [entry[:2] for entry in self._handles.get((pattern, dtype, hidden), ())]
        raise Unsupported(
            f"'{pattern}' on {tokens} rows of {hidden} {dtype} was not prepared"
            + (f" (only up to {known[-1][0]} rows)" if known else "")
            + f"; on all ranks, before capture: prepare(Family('{pattern}', '{dtype}', {hidden},"
            " max_tokens))"
        )

    # ---- Calls -----------------------------------------------------------------------------------

    def all_reduce(self, x: Any, out: Any = None, *, stream: Any = None) -> Any:
        """The sum over the ranks, in a new array or in `out`, which may be `x`. Any shape,
        contiguous, bf16, fp16 or fp32. Served by any plain family that was prepared for the dtype
        with room for so many elements, else by NCCL; Unsupported names what to prepare. Returns the
        sum."""
        quick = self._quick
        if quick is not None:
            done = quick.all_reduce(x, out, stream)
            if done is not None:
                return done
        if out is None:
            out = _arrays.empty(x, tuple(x.shape))
        source = _arrays.view(x, "x")
        target = source if out is x else _arrays.view(out, "out")
        if target.dtype != source.dtype or target.elements != source.elements:
            raise InvalidArgument(
                f"out is {target.dtype} {target.shape}; expected {source.dtype} {source.shape},"
                " like x"
            )
        code = _arrays.CODES.get(source.dtype)
        if code is None:
            raise InvalidArgument(f"x holds {source.dtype}; expected bf16, fp16 or fp32")
        pointer = self._open()
        if self._staging is not None:
            with self._staging.call({"x": source}, {"out": target}, {("out", "x")}) as at:
                self._require(
                    self._library.arbiter_all_reduce(
                        pointer, at["x"], at["out"], source.elements, code, None
                    )
                )
        else:
            self._on_this_gpu(source, "x")
            self._on_this_gpu(target, "out")
            self._make_quick(x)
            self._require(
                self._library.arbiter_all_reduce(
                    pointer,
                    source.pointer,
                    target.pointer,
                    source.elements,
                    code,
                    self._stream(x, stream),
                )
            )
        return out

    def all_reduce_fused(
        self,
        x: Any,
        *,
        pattern: str = "allreduce_residual_rmsnorm",
        stream: Any = None,
        mode: Optional[str] = None,
        residual: Any = None,
        gamma: Any = None,
        eps: float = 1e-6,
        weight_bias: float = 0.0,
        residual_out: Any = None,
        norm_out: Any = None,
        **arguments: Any,
    ) -> Fused:
        """Allreduce and what follows it, in one kernel where that is faster. x: [..., hidden];
        moe_reduce: [experts, tokens, hidden]; moe_finalize: [rows, hidden].

        What is read: residual [tokens, hidden], gamma [hidden] in the dtype or fp32, eps,
        weight_bias (1 for Gemma-style weights), scale_in (one fp32: fp8_static, NVFP4),
        moe_weights, moe_row_map, moe_shared. What is written: output, residual_out, norm_out,
        quant_out, scale_out; each is an array to write to, True for a new one, or False for none
        where the pattern can do without. By default everything but what is optional before a
        quantisation or norm is new; residual_out is always wanted. residual_out may be residual,
        output may be x; nothing else may overlap.

        Returns what it wrote, by name, None for the rest. Errors: InvalidArgument names the tensor;
        Unsupported says what to prepare; Poisoned."""
        quick = self._quick
        if quick is not None and mode is None and not arguments:
            done = quick.fused(
                pattern, x, residual, gamma, eps, weight_bias, residual_out, norm_out, stream
            )
            if done is not None:
                return done
        return _fused.run(
            self,
            x,
            pattern,
            stream,
            mode,
            residual=residual,
            gamma=gamma,
            eps=eps,
            weight_bias=weight_bias,
            residual_out=residual_out,
            norm_out=norm_out,
            **arguments,
        )

    # ---- Asking ----------------------------------------------------------------------------------

    def can_use(
        self, pattern: str, dtype: Any, hidden: int, tokens: int, mode: str = "graph"
    ) -> bool:
        """Would a prepared communicator serve this? Equal on all ranks, launches nothing."""
        family = Family(pattern, dtype, hidden, tokens, mode).struct()
        return bool(self._library.arbiter_can_use(self._open(), ctypes.byref(family), tokens))

    def explain(
        self, pattern: str, dtype: Any, hidden: int, tokens: int, mode: str = "graph"
    ) -> Dict[str, Any]:
        """What serves this, and why: "rule", "reason", "backend", "algorithm", "candidate",
        "numerics"."""
        family = Family(pattern, dtype, hidden, tokens, mode).struct()
        return self._json(self._library.arbiter_explain, ctypes.byref(family), tokens)

    def stats(self) -> Dict[str, Any]:
        """Calls so far, per family, candidate and rule; a captured one counts once, at capture."""
        return self._json(self._library.arbiter_stats)

    @property
    def workspace_bytes(self) -> int:
        """Device memory that is held for exchanges."""
        return self._library.arbiter_workspace_bytes(self._open())

    def check(self) -> None:
        """Raises Poisoned, with who waited for whom, if a call missed its deadline. Does not
        synchronise: call it after synchronising a stream whose results matter. From any thread."""
        self._require(self._library.arbiter_check(self._open()))

    def abort(self) -> None:
        """Give up: peers that wait for this rank stop waiting. From any thread, for a watchdog."""
        self._library.arbiter_abort(self._open())

    def _json(self, function: Any, *arguments: Any) -> Dict[str, Any]:
        needed = ctypes.c_size_t()
        self._require(function(self._open(), *arguments, None, 0, ctypes.byref(needed)))
        while True:  # calls on another thread may make it longer meanwhile
            buffer = ctypes.create_string_buffer(needed.value + 64)
            status = function(self._pointer, *arguments, buffer, len(buffer), ctypes.byref(needed))
            if status != 9:  # ARBITER_BUFFER_TOO_SMALL
                self._require(status)
                return json.loads(buffer.value)

    # ---- The end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Collective, when the work has completed. Frees everything. A second call does nothing."""
        pointer, self._pointer = self._pointer, None
        if pointer is None:
            return
        if self._staging is not None:
            self._staging.release(pointer)
        self._quick = None
        self._handles.clear()
        self._library.arbiter_destroy(pointer)
        self._keep.clear()  # the program's process group must not outlive its own end because of us
        self._group = None

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None and self._pointer is not None:
            self.abort()  # peers must not wait for a rank that failed
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pointer", None) is not None and not sys.is_finalizing():
            # Destroying is collective, and garbage collection is not.
            warnings.warn(
                f"{self!r} was not closed; its memory stays allocated",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __repr__(self) -> str:
        state = "closed" if self._pointer is None else self.device
        return f"<arbiter.Communicator rank {self.rank} of {self.size}, {state}>"

    # ---- Inside ----------------------------------------------------------------------------------

    def _open(self) -> ctypes.c_void_p:
        if self._pointer is None:
            raise InvalidArgument("the communicator is closed")
        return self._pointer

    def _require(self, status: int) -> None:
        if not status:
            return
        cause = None
        if self._group is not None:
            cause, self._group.error = self._group.error, None
        try:
            _library.raise_status(status, self._pointer)
        except Exception as error:
            if cause is not None:
                raise error from cause
            raise

    def _make_quick(self, x: Any) -> None:
        if self._quick is None and _arrays.is_torch(x):
            from . import _quick

            self._quick = _quick.of(self)

    def _on_this_gpu(self, seen: _arrays.View, name: str) -> None:
        if seen.device != "cuda":
            raise InvalidArgument(
                f"{name} is in host memory; this communicator reduces on a GPU: pass a CUDA tensor"
            )
        if self.ordinal >= 0 and seen.index >= 0 and seen.index != self.ordinal:
            raise InvalidArgument(
                f"{name} is on cuda:{seen.index}; this communicator's GPU is cuda:{self.ordinal}"
            )

    def _stream(self, x: Any, stream: Any) -> Any:
        if stream is None:
            if not _arrays.is_torch(x):
                raise InvalidArgument(
                    "the stream of an array that is not PyTorch's must be given:"
                    " stream=<cudaStream_t>"
                )
            return sys.modules["torch"]._C._cuda_getCurrentRawStream(x.device.index)
        return getattr(stream, "cuda_stream", stream)


class Ranks(List[Communicator]):
    """The communicators of ranks in this process, by rank. A context manager: leaving it closes
    all."""

    def __init__(self, communicators: Iterable[Communicator]) -> None:
        super().__init__(communicators)

    def run(self, function: Any) -> List[Any]:
        """function(communicator) on every rank, each in a thread; the results by rank. If one
        raises, the others are told to give up, and the first failure is raised."""
        from concurrent.futures import ThreadPoolExecutor

        failures: List[BaseException] = []

        def guarded(communicator: Communicator) -> Any:
            try:
                return function(communicator)
            except BaseException as error:
                failures.append(error)
                if communicator._pointer is not None:
                    communicator.abort()
                return None

        with ThreadPoolExecutor(max(len(self), 1)) as threads:
            results = list(threads.map(guarded, self))
        if failures:
            raise failures[0]
        return results

    def close(self) -> None:
        self.run(lambda communicator: communicator.close())

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_error: Any) -> None:
        self.close()
