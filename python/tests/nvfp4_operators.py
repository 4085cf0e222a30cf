"""The engines' operators that quantise to NVFP4, as stand-ins that compute in torch what theirs do,
and how each engine calls its own."""

import torch

E4M3 = torch.float8_e4m3fn
MAGNITUDES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def e2m1(x):
    """Codes of the nearest values, ties to the even code."""
    middles = (MAGNITUDES[1:] + MAGNITUDES[:-1]).to(x.device) / 2
    size = x.abs().unsqueeze(-1)
    code = (size > middles).sum(-1)
    tie = (size == middles).any(-1)
    code = torch.where(tie & (code % 2 == 1), code + 1, code)
    return torch.where(x.signbit(), code + 8, code).to(torch.uint8)


def nvfp4(x, scale):
    """([rows, H / 2] pairs, [rows, H / 16] scales)."""
    groups = x.float().reshape(x.shape[0], -1, 16)
    scales = (scale * (groups.abs().amax(-1) / 6)).clamp(max=448.0).to(E4M3)
    wide = scales.float().unsqueeze(-1)
    codes = e2m1(groups * torch.where(wide == 0, 0.0, scale / wide)).reshape(x.shape)
    return codes[:, ::2] | codes[:, 1::2] << 4, scales


def in_tiles(scales):
    rows, columns = scales.shape
    high, wide = -(-rows // 128) * 128, -(-columns // 4) * 4
    padded = torch.zeros(high, wide, dtype=torch.uint8, device=scales.device)
    padded[:rows, :columns] = scales.view(torch.uint8)
    tiles = padded.reshape(high // 128, 4, 32, wide // 4, 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(high, wide)


def stand_in(namespace, schema, run, fake):
    library = torch.library.Library(namespace, "FRAGMENT")
    name = schema.split("(", 1)[0]
    library.define(schema)
    for device in ("CPU", "CUDA"):
        library.impl(name, run, device)
    torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
    return library


def places(x, swizzled, dtype):
    rows, columns = x.shape[0], x.shape[1] // 16
    if not swizzled:
        return x.new_empty(rows, columns, dtype=torch.uint8)
    wide = (columns + 3) // 4 * 4 // dtype.itemsize
    return x.new_empty((rows + 127) // 128 * 128, wide, dtype=dtype)


def computed(x, scale, swizzled, like):
    pairs, scales = nvfp4(x, scale)
    packed = in_tiles(scales) if swizzled else scales.view(torch.uint8)
    return pairs, packed.view(like.dtype).reshape(like.shape)


def functional(x, scale, swizzled):
    return computed(x, scale, swizzled, places(x, swizzled, torch.int32))


def functional_fake(x, scale, swizzled):
    return x.new_empty(x.shape[0], x.shape[1] // 2, dtype=torch.uint8), places(
        x, swizzled, torch.int32
    )


def into(quant, x, scales, scale, swizzled=True):
    pairs, packed = computed(x, scale, swizzled, scales)
    quant.copy_(pairs)
    scales.copy_(packed)


def into_out(x, scale, swizzled, *, output, output_scale):
    into(output, x, output_scale, scale, swizzled)


def flat(x, scale, group, ue8m0=False, swizzled=True):
    assert group == 16 and not ue8m0
    pairs, packed = computed(x, scale, swizzled, places(x, swizzled, torch.uint8))
    return pairs, packed.reshape(-1)


def flat_fake(x, scale, group, ue8m0=False, swizzled=True):
    quant = x.new_empty(x.shape[0], x.shape[1] // 2, dtype=torch.uint8)
    return quant, x.new_empty(places(x, swizzled, torch.uint8).numel(), dtype=torch.uint8)


def nothing(*_, **__):
    return None


LIBRARIES = [
    stand_in(
        "_C",
        "scaled_fp4_quant(Tensor input, Tensor input_scale, bool is_sf_swizzled_layout)"
        " -> (Tensor, Tensor)",
        functional,
        functional_fake,
    ),
    stand_in(
        "_C",
        "scaled_fp4_quant.out(Tensor input, Tensor input_scale, bool is_sf_swizzled_layout, *,"
        " Tensor(a!) output, Tensor(b!) output_scale) -> ()",
        into_out,
        nothing,
    ),
    stand_in(
        "sgl_kernel",
        "scaled_fp4_quant(Tensor(a!) output, Tensor(b!) input, Tensor(c!) output_scale,"
        " Tensor(d!) input_scale) -> ()",
        into,
        nothing,
    ),
    stand_in(
        "trtllm",
        "fp4_quantize(Tensor input, Tensor? globalScale, int sfVecSize, bool sfUseUE8M0=False,"
        " bool isSfSwizzledLayout=True) -> (Tensor, Tensor)",
        flat,
        flat_fake,
    ),
]


def vllm(x, scale, swizzled=True):
    quant, scales = torch.ops._C.scaled_fp4_quant(x.reshape(-1, x.shape[-1]), scale, swizzled)
    return quant, scales.view(E4M3)


def vllm_rows(x, scale):
    return vllm(x, scale, False)


def vllm_out(x, scale):
    quant = x.new_empty(x.shape[0], x.shape[1] // 2, dtype=torch.uint8)
    scales = places(x, True, torch.int32)
    torch.ops._C.scaled_fp4_quant.out(x, scale, True, output=quant, output_scale=scales)
    return quant, scales.view(E4M3)


def sglang(x, scale):
    quant = x.new_empty(x.shape[0], x.shape[1] // 2, dtype=torch.uint8)
    scales = places(x, True, torch.int32)
    torch.ops.sgl_kernel.scaled_fp4_quant(quant, x, scales, scale)
    return quant, scales.view(E4M3)


def tensorrt_llm(x, scale):
    return torch.ops.trtllm.fp4_quantize(x, scale, 16)


def tensorrt_llm_rows(x, scale):
    return torch.ops.trtllm.fp4_quantize(x, scale, 16, False, False)
