// The words of the field as types. One name per thing, in code, schema, command line, JSON and docs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace arbiter {

enum class Dtype : std::uint8_t { bf16, fp16, fp32 };

/// How a problem is issued: replayed from a captured CUDA graph, or launched call by call.
enum class Mode : std::uint8_t { graph, eager };

/// The family a user may ask for by name. `automatic` (spelled "auto") means any.
enum class Backend : std::uint8_t { automatic, trtllm, mnnvl, custom, nvls, nccl };

/// From strict to loose. Candidates of rank_order_fp32 return bit-identical results on the same inputs; those of
/// fp8_transport round what they send to 8 bits, and are used only where that is asked for (NumericsPolicy::lossy).
enum class Numerics : std::uint8_t { rank_order_fp32, multimem, nccl, fp8_transport };

/// Bytes of one element.
constexpr std::size_t element_bytes(Dtype dtype) noexcept { return dtype == Dtype::fp32 ? 4 : 2; }

/// Kernels move data in vectors of 16 bytes.
inline constexpr std::size_t vector_bytes = 16;
constexpr std::size_t vector_elements(Dtype dtype) noexcept { return vector_bytes / element_bytes(dtype); }

/// World sizes for which kernels exist are 2..max_world (the catalogue narrows this further).
inline constexpr int max_world = 16;

std::string_view to_string(Dtype) noexcept;
std::string_view to_string(Mode) noexcept;
std::string_view to_string(Backend) noexcept;
std::string_view to_string(Numerics) noexcept;

/// Parse the exact spelling that to_string prints.
/// Throws InvalidArgument naming the valid spellings and the nearest one.
Dtype parse_dtype(std::string_view);
Mode parse_mode(std::string_view);
Backend parse_backend(std::string_view);
Numerics parse_numerics(std::string_view);

/// The element of `valid` with the smallest edit distance to `word` (empty if `valid` is empty).
std::string nearest(std::string_view word, std::span<const std::string_view> valid);

/// "unknown <kind> 'word'; valid: a, b, c; did you mean 'b'?"
std::string unknown_name_message(std::string_view kind, std::string_view word, std::span<const std::string_view> valid);

}  // namespace arbiter
