// The names that templates and expressions may use besides those of the catalogue.
#pragma once

#include <array>
#include <string_view>

namespace arbiter {

/// Set by render_kernel for every kernel; axes and constants of parts must not take these names.
inline constexpr std::array<std::string_view, 30> reserved_keys{"arbiter_version",
                                                                "variant_name",
                                                                "backend",
                                                                "algorithm",
                                                                "pattern",
                                                                "summary",
                                                                "dtype",
                                                                "dtype_bf16",
                                                                "dtype_fp16",
                                                                "dtype_fp32",
                                                                "world",
                                                                "hidden",
                                                                "row_vectors",
                                                                "rows",
                                                                "rank",
                                                                "ranks",
                                                                "parameters",
                                                                "parameter",
                                                                "value",
                                                                "cuda",
                                                                "host",
                                                                "prologue",
                                                                "stages",
                                                                "norm",
                                                                "quantised",
                                                                "fp8_wire",
                                                                "control_arrays",
                                                                "output_optional",
                                                                "residual_out_optional",
                                                                "norm_out_optional"};

/// Templates that no entry of the catalogue names.
inline constexpr std::array<std::string_view, 12> fixed_templates{
    "device/primitives.cuh",  "device/quantisation.cuh", "host/primitives.h",      "host/quantisation.h",
    "device/unpack_e4m3.cuh", "host/unpack_e4m3.h",      "prologues/plain.cuh",    "epilogues/sum.cuh",
    "stages/no_norm.cuh",     "epilogues/composed.cuh",  "stages/no_residual.cuh", "stages/no_quantisation.cuh"};

/// Names that expressions may use besides the axes; see Bindings.
inline constexpr std::array<std::string_view, 10> binding_names{
    "world", "hidden", "element_bytes", "elements", "row_vectors", "rows", "prologue", "sm", "max_threads", "partials"};

/// [a-z][a-z0-9_]*
constexpr bool is_identifier(std::string_view name) noexcept {
  if (name.empty() || name[0] < 'a' || name[0] > 'z') return false;
  for (const char c : name) {
    const bool allowed = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    if (!allowed) return false;
  }
  return true;
}

}  // namespace arbiter
