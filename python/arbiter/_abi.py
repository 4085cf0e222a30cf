"""The structs, enumerations and functions of arbiter.h, as ctypes sees them. Nothing here calls
anything."""

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_void_p,
    py_object,
)

ABI_VERSION = 1
UNIQUE_ID_BYTES = 128

BF16, FP16, FP32 = 0, 1, 2
GRAPH, EAGER = 0, 1
DEVICE_AUTO, DEVICE_CUDA, DEVICE_CPU = 0, 1, 2

LogCallback = CFUNCTYPE(None, c_void_p, c_int, c_char_p)
Allgather = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_void_p)
Broadcast = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_int)
Barrier = CFUNCTYPE(c_int, c_void_p)


class Options(ctypes.Structure):
    """arbiter_communicator_options."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("abi_version", c_uint32),
        ("device", c_int32),
        ("ordinal", c_int32),
        ("multicast", c_int32),
        ("nccl", c_int32),
        ("jit", c_int32),
        ("shipped", c_int32),
        ("kernels", c_int32),
        ("decisions_path", c_char_p),
        ("decisions_data", c_void_p),
        ("decisions_bytes", c_size_t),
        ("backend", c_char_p),
        ("numerics", c_char_p),
        ("candidate", c_char_p),
        ("cache_dir", c_char_p),
        ("timeout_ms", c_int64),
        ("log_level", c_char_p),
        ("log", LogCallback),
        ("log_user", c_void_p),
        ("first_timeout_ms", c_int64),
        ("max_sms", c_int32),
        ("reserved", c_int32),
        ("startup_tune_ms", c_int64),
    ]

    def __init__(self) -> None:
        super().__init__(ctypes.sizeof(Options), ABI_VERSION, DEVICE_AUTO, -1)


class Callbacks(ctypes.Structure):
    """arbiter_callbacks."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("rank", c_int32),
        ("size", c_int32),
        ("allgather", Allgather),
        ("broadcast", Broadcast),
        ("barrier", Barrier),
        ("user", c_void_p),
    ]


class Family(ctypes.Structure):
    """arbiter_family."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("pattern", c_char_p),
        ("dtype", c_int32),
        ("hidden", c_int32),
        ("max_tokens", c_int64),
        ("mode", c_int32),
        ("reserved", c_int32),
    ]


class Tensors(ctypes.Structure):
    """arbiter_tensors."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("input", c_void_p),
        ("output", c_void_p),
        ("residual_in", c_void_p),
        ("residual_out", c_void_p),
        ("gamma", c_void_p),
        ("norm_out", c_void_p),
        ("epsilon", c_float),
        ("weight_bias", c_float),
        ("gamma_fp32", c_int32),
        ("moe_weights_fp32", c_int32),
        ("quant_out", c_void_p),
        ("scale_in", c_void_p),
        ("scale_out", c_void_p),
        ("scale_out_bytes", c_size_t),
        ("moe_weights", c_void_p),
        ("moe_row_map", c_void_p),
        ("moe_shared", c_void_p),
        ("moe_experts", c_int32),
        ("moe_top_k", c_int32),
        ("moe_rows", c_int64),
    ]


class ObjectCalls(ctypes.Structure):
    """arbiter_object_calls."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("read", c_void_p),
        ("current_stream", c_void_p),
        ("absent", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("communicator", c_void_p),
        ("families", POINTER(Family)),
        ("handles", POINTER(c_void_p)),
        ("family_count", c_size_t),
        ("residual", c_int32),
        ("norm", c_int32),
        ("epsilon", c_float),
        ("weight_bias", c_float),
        ("stream", c_void_p),
        ("stream_given", c_int32),
        ("reserved", c_int32),
    ]


_communicator = c_void_p
_handle = c_void_p
_text = [_communicator, c_char_p, c_size_t, POINTER(c_size_t)]

#: name: (result, arguments). Every function that the package calls.
FUNCTIONS = {
    "arbiter_version": (c_char_p, []),
    "arbiter_abi_version": (c_uint32, []),
    "arbiter_status_name": (c_char_p, [c_int]),
    "arbiter_last_error": (c_char_p, [_communicator]),
    "arbiter_create_from_callbacks": (
        c_int,
        [POINTER(Callbacks), POINTER(Options), POINTER(c_void_p)],
    ),
    "arbiter_create_from_environment": (c_int, [POINTER(Options), POINTER(c_void_p)]),
    "arbiter_create_in_process": (c_int, [c_int, POINTER(Options), POINTER(c_void_p)]),
    "arbiter_destroy": (None, [_communicator]),
    "arbiter_rank": (c_int, [_communicator]),
    "arbiter_size": (c_int, [_communicator]),
    "arbiter_prepare": (c_int, [_communicator, POINTER(Family), c_size_t]),
    "arbiter_prepare_nccl": (c_int, [_communicator, c_int, c_int64]),
    "arbiter_prepare_handle": (c_int, [_communicator, POINTER(Family), POINTER(c_void_p)]),
    "arbiter_can_use": (c_int, [_communicator, POINTER(Family), c_int64]),
    "arbiter_run": (c_int, [_handle, POINTER(Tensors), c_int64, c_void_p]),
    "arbiter_all_reduce": (c_int, [_communicator, c_void_p, c_void_p, c_int64, c_int, c_void_p]),
    "arbiter_explain": (
        c_int,
        [_communicator, POINTER(Family), c_int64, c_char_p, c_size_t, POINTER(c_size_t)],
    ),
    "arbiter_stats": (c_int, _text),
    "arbiter_workspace_bytes": (c_size_t, [_communicator]),
    "arbiter_check": (c_int, [_communicator]),
    "arbiter_abort": (None, [_communicator]),
    "arbiter_device_allocate": (c_int, [_communicator, c_size_t, POINTER(c_void_p)]),
    "arbiter_device_release": (c_int, [_communicator, c_void_p]),
    "arbiter_device_copy": (c_int, [_communicator, c_void_p, c_void_p, c_size_t, c_void_p]),
    "arbiter_device_synchronize": (c_int, [_communicator, c_void_p]),
    "arbiter_quant_out_bytes": (c_int, [c_char_p, c_int, c_int64, POINTER(c_size_t)]),
    "arbiter_scale_out_bytes": (c_int, [c_char_p, c_int, c_int64, POINTER(c_size_t)]),
}

#: Called with the GIL held, through a ctypes.PyDLL: they read Python objects.
OBJECT_FUNCTIONS = {
    "arbiter_run_objects": (c_int, [c_void_p, *[py_object] * 5]),
    "arbiter_all_reduce_objects": (c_int, [c_void_p, py_object, py_object]),
}
