#include <fmt/format.h>

#include "arbiter/error.hpp"
#include "arbiter/generator/bindings.hpp"
#include "arbiter/generator/digest.hpp"
#include "arbiter/generator/render.hpp"
#include "text/quote.hpp"

namespace arbiter {
namespace {

// Every number that the catalogue gives a kernel: the axes of its algorithm, what all algorithms have, and the numbers
// of the parts.
std::vector<Keys> parameters_of(const AlgorithmEntry& algorithm, const Pattern& pattern, const Variant& variant) {
  std::vector<Keys> parameters;
  const auto add = [&](const std::string& name, int value) {
    parameters.push_back({{"parameter", name}, {"value", std::to_string(value)}});
  };
  for (const Axis& axis : algorithm.axes)
    if (!axis.launch) add(axis.name, variant.parameter(axis.name));
  for (const auto& [name, value] : {std::pair("vectors", 1), std::pair("cluster", 1), std::pair("early_trigger", 0)})
    if (algorithm.axis(name) == nullptr) add(name, value);
  for (const auto& [name, value] : pattern.constants) add(name, value);
  return parameters;
}

Keys variant_keys(const AlgorithmEntry& algorithm, const Pattern& pattern, const Variant& variant) {
  const auto flag = [](bool value) { return std::string(value ? "1" : ""); };
  const auto number = [](bool value) { return std::string(value ? "1" : "0"); };
  const long row_vectors = bindings_of(variant, pattern, {}).at("row_vectors");
  Keys keys{{"arbiter_version", ARBITER_VERSION},
            {"variant_name", variant.full_name()},
            {"backend", std::string(to_string(variant.backend))},
            {"algorithm", variant.algorithm},
            {"pattern", variant.pattern},
            {"summary", algorithm.summary},
            {"dtype", std::string(to_string(variant.dtype))},
            {"dtype_bf16", flag(variant.dtype == Dtype::bf16)},
            {"dtype_fp16", flag(variant.dtype == Dtype::fp16)},
            {"dtype_fp32", flag(variant.dtype == Dtype::fp32)},
            {"world", std::to_string(variant.world)},
            {"hidden", std::to_string(pattern.rows ? variant.hidden : 0)},
            {"row_vectors", std::to_string(row_vectors)},
            {"rows", number(pattern.rows)},
            {"prologue", number(pattern.has(PartKind::prologue))},
            {"stages", number(pattern.has_stages())},
            {"norm", number(pattern.has(PartKind::norm))},
            {"quantised", number(pattern.has(PartKind::quantisation))},
            {"fp8_wire", number(algorithm.numerics == Numerics::fp8_transport)},
            {"control_arrays", std::to_string(algorithm.arrays_before)},
            {"output_optional", number(!pattern.needs(Tensor::output))},
            {"residual_out_optional", number(!pattern.needs(Tensor::residual_out))},
            {"norm_out_optional", number(!pattern.needs(Tensor::norm_out))}};
  for (const Keys& parameter : parameters_of(algorithm, pattern, variant))
    keys.emplace(parameter.at("parameter"), parameter.at("value"));
  keys.emplace("group", std::to_string(pattern.group));
  return keys;
}

std::string template_of(const Pattern& pattern, PartKind kind, const char* otherwise) {
  const PartEntry* part = pattern.part(kind);
  return part == nullptr ? otherwise : part->template_name;
}

}  // namespace

Source render_kernel(const Catalogue& catalogue, const Variant& variant, int rank, Dialect dialect,
                     const TemplateMap& templates) {
  const AlgorithmEntry& algorithm = catalogue.algorithm(variant.backend, variant.algorithm);
  const Pattern pattern = catalogue.pattern(variant.pattern);
  const bool cuda = dialect == Dialect::cuda;
  if (variant.world < 1 || variant.world > max_world)
    throw InvalidArgument(fmt::format("{}: the world size must be 1 to {}", quote(variant.full_name()), max_world));
  if (cuda && (rank < 0 || rank >= variant.world))
    throw InvalidArgument(
        fmt::format("rank {} of '{}': expected 0 to {}", rank, variant.full_name(), variant.world - 1));
  if (const auto reason = impossible(pattern, variant.dtype, variant.hidden))
    throw InvalidArgument(quote(variant.full_name()) + ": " + *reason);

  Context context;
  context.keys = variant_keys(algorithm, pattern, variant);
  context.keys["cuda"] = cuda ? "1" : "";
  context.keys["host"] = cuda ? "" : "1";
  context.lists["parameters"] = parameters_of(algorithm, pattern, variant);
  std::vector<Keys>& ranks = context.lists["ranks"];
  if (cuda) {
    context.keys["rank"] = std::to_string(rank);
    ranks.push_back({{"rank", std::to_string(rank)}});
  } else {
    for (int r = 0; r < variant.world; ++r) ranks.push_back({{"rank", std::to_string(r)}});
  }
  context.aliases = {{"primitives", cuda ? "device/primitives.cuh" : "host/primitives.h"},
                     {"quantisation_primitives", cuda ? "device/quantisation.cuh" : "host/quantisation.h"},
                     {"unpack_e4m3", cuda ? "device/unpack_e4m3.cuh" : "host/unpack_e4m3.h"},
                     {"algorithm", algorithm.template_name},
                     {"prologue", template_of(pattern, PartKind::prologue, "prologues/plain.cuh")},
                     {"residual", template_of(pattern, PartKind::residual, "stages/no_residual.cuh")},
                     {"norm", template_of(pattern, PartKind::norm, "stages/no_norm.cuh")},
                     {"quantisation", template_of(pattern, PartKind::quantisation, "stages/no_quantisation.cuh")},
                     {"epilogue", pattern.has_stages() ? "epilogues/composed.cuh" : "epilogues/sum.cuh"}};

  Source source;
  source.text = render("kernel", context, templates);
  source.entry = cuda ? "arbiter_kernel" : "arbiter_kernel_rank";
  source.hash = sha256_hex(source.text);
  return source;
}

}  // namespace arbiter
