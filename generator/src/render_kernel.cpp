#include "arbiter/error.hpp"
#include "arbiter/generator/bindings.hpp"
#include "arbiter/generator/digest.hpp"
#include "arbiter/generator/render.hpp"
#include "quote.hpp"

namespace arbiter {
namespace {

Keys variant_keys(const AlgorithmEntry& algorithm, const EpilogueEntry& epilogue, const Catalogue& catalogue,
                  const Variant& variant) {
  const auto flag = [](bool value) { return std::string(value ? "1" : ""); };
  const long row_vectors = bindings_of(variant, epilogue.rows, {}).at("row_vectors");
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
            {"hidden", std::to_string(epilogue.rows ? variant.hidden : 0)},
            {"row_vectors", std::to_string(row_vectors)},
            {"rows", epilogue.rows ? "1" : "0"}};
  for (const Axis& axis : algorithm.axes)
    if (!axis.launch) keys.emplace(axis.name, std::to_string(variant.parameter(axis.name)));
  for (const auto& [name, value] : epilogue.constants) keys.emplace(name, std::to_string(value));
  // What only other epilogues set is 0 here, so that shared templates may ask for it.
  for (const EpilogueEntry& other : catalogue.epilogues())
    for (const auto& [name, value] : other.constants) keys.emplace(name, "0");
  return keys;
}

}  // namespace

Source render_kernel(const Catalogue& catalogue, const Variant& variant, int rank, Dialect dialect,
                     const TemplateMap& templates) {
  const AlgorithmEntry& algorithm = catalogue.algorithm(variant.backend, variant.algorithm);
  const EpilogueEntry& epilogue = catalogue.epilogue(variant.pattern);
  const bool cuda = dialect == Dialect::cuda;
  if (variant.world < 1 || variant.world > max_world)
    throw InvalidArgument(quote(variant.full_name()) + ": the world size must be 1 to " + std::to_string(max_world));
  if (cuda && (rank < 0 || rank >= variant.world))
    throw InvalidArgument("rank " + std::to_string(rank) + " of '" + variant.full_name() + "': expected 0 to " +
                          std::to_string(variant.world - 1));
  if (epilogue.rows && (variant.hidden <= 0 || variant.hidden % static_cast<int>(vector_elements(variant.dtype)) != 0))
    throw InvalidArgument(quote(variant.full_name()) + ": hidden must be a positive multiple of " +
                          std::to_string(vector_elements(variant.dtype)) + " elements (16 bytes)");

  Context context;
  context.keys = variant_keys(algorithm, epilogue, catalogue, variant);
  context.keys["cuda"] = cuda ? "1" : "";
  context.keys["host"] = cuda ? "" : "1";
  std::vector<Keys>& ranks = context.lists["ranks"];
  if (cuda) {
    context.keys["rank"] = std::to_string(rank);
    ranks.push_back({{"rank", std::to_string(rank)}});
  } else {
    for (int r = 0; r < variant.world; ++r) ranks.push_back({{"rank", std::to_string(r)}});
  }
  context.aliases = {{"primitives", cuda ? "device/primitives.cuh" : "host/primitives.h"},
                     {"epilogue", epilogue.template_name + ".mustache"},
                     {"algorithm", algorithm.template_name + ".mustache"}};

  Source source;
  source.text = render("kernel", context, templates);
  source.entry = cuda ? "arbiter_kernel" : "arbiter_kernel_rank";
  source.hash = sha256_hex(source.text);
  return source;
}

}  // namespace arbiter
