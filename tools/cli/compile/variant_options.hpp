// How `render` and `compile` say which variants are meant.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/generator/variant.hpp"
#include "options/options.hpp"

namespace arbiter::cli {

/// Variants of every combination of these; empty `algorithm` and `name` mean all.
struct VariantQuery {
  std::vector<std::string> patterns;
  std::vector<Dtype> dtypes;
  std::vector<int> worlds;
  std::vector<int> hiddens;  ///< elements
  std::string algorithm;     ///< "oneshot_push" or "trtllm/oneshot_push"
  std::string name;          ///< Variant::name(): axes in any order, those that are not named are free
};

/// Plain bf16 allreduce on 2 ranks, hidden size 8192: what is meant where nothing was said.
VariantQuery one_problem();

/// Declares --algorithm, --variant, --pattern, --dtype, --world, --hidden and --model.
void declare_variant_options(Options& options);

/// What was typed; where nothing was, `otherwise`.
VariantQuery read_variant_options(const Options& options, VariantQuery otherwise);

/// Does this variant bear that name? See VariantQuery::name.
bool is_named(const Variant& variant, const std::string& name);

/// The targets of NVRTC that the program knows by name, oldest first.
inline constexpr std::array<std::string_view, 7> gpu_targets{"sm_80",   "sm_86",   "sm_89",  "sm_90a",
                                                             "sm_100a", "sm_103a", "sm_120a"};

/// The compile targets the program knows by name: "sm_90a", ..., "cpu".
std::vector<std::string_view> known_targets();
/// Throws InvalidArgument unless it is one of these, or "compute_90" and the like.
std::string check_target(const std::string& target);
TargetLimits limits_of(const std::string& target);

/// In catalogue order, without duplicates, stand-alone kernels included. Combinations that no device can do (NVFP4
/// from fp32) are left out, and InvalidArgument says why if there is no other. It is thrown for names that do not exist
/// too, naming the nearest. Empty when a combination exists but cannot be built for `limits`.
std::vector<Variant> find_variants(const VariantQuery& query, const TargetLimits& limits);

}  // namespace arbiter::cli
