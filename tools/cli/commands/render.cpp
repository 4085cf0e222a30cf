// arbiter render: the source of one kernel variant.
#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/device.hpp"
#include "arbiter/generator/render.hpp"
#include "commands/command.hpp"
#include "compile/variant_options.hpp"
#include "options/names.hpp"
#include "options/options.hpp"
#include "text/json.hpp"
#include "text/print.hpp"

namespace arbiter::cli {
namespace {

Dialect parse_dialect(const std::string& name) {
  constexpr std::string_view valid[] = {"cuda", "host"};
  if (name == "cuda") return Dialect::cuda;
  if (name == "host") return Dialect::host;
  throw UsageError(unknown_name_message("dialect", name, valid));
}

void list(const std::vector<Variant>& variants, bool as_json) {
  if (!as_json) {
    for (const Variant& variant : variants) print("%s\n", variant.full_name().c_str());
    return;
  }
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    json.attributeArray("variants", [&] {
      for (const Variant& variant : variants) {
        json.object([&] {
          write_text(json, "name", variant.name());
          write_text(json, "backend", to_string(variant.backend));
          write_text(json, "algorithm", variant.algorithm);
          write_text(json, "pattern", variant.pattern);
          write_text(json, "dtype", to_string(variant.dtype));
          json.attribute("world", variant.world);
          json.attribute("hidden", variant.hidden);
          json.attributeObject("parameters", [&] {
            for (const auto& [axis, value] : variant.parameters) json.attribute(axis, value);
          });
        });
      }
    });
  });
}

std::string ambiguous(const std::vector<Variant>& variants) {
  constexpr std::size_t shown = 20;
  std::string text = fmt::format("{} variants match; choose one with --variant NAME:", variants.size());
  for (std::size_t i = 0; i < std::min(shown, variants.size()); ++i) text += "\n  " + variants[i].full_name();
  if (variants.size() > shown) text += "\n  ... all of them: the same command with --list";
  return text;
}

}  // namespace

Options render_options() {
  Options options(
      "render",
      "Prints the source of a kernel variant as it is handed to the compiler. When several variants match,\n"
      "lists them instead.",
      "arbiter render --algorithm oneshot_push --pattern allreduce_residual_rmsnorm --hidden 8192 --list\n"
      "arbiter render --variant trtllm/oneshot_push:threads=256,vectors=1,cluster=1,multicast=0 --world 4");
  declare_variant_options(options);
  options.value("rank", "R", "the rank that is compiled in (default: 0)")
      .value("dialect", "NAME", "cuda or host, the form the CPU device runs (default: cuda)")
      .choices({"cuda", "host"})
      .value("target", "NAME", "limits of this target apply (default: sm_90a)")
      .choices(target_names())
      .flag("list", "list the matching variants, print no source")
      .flag("json", "with --list: for programs; see docs/cli.md");
  return options;
}

int run_render(const Options& options) {
  const VariantQuery query = read_variant_options(options, one_problem());
  const Dialect dialect = parse_dialect(options.text("dialect", "cuda"));
  const std::string target = check_target(options.text("target", dialect == Dialect::host ? "cpu" : "sm_90a"));
  const auto rank = static_cast<int>(options.integer("rank", 0, max_world - 1, 0));
  if (options.has("json") && !options.has("list")) throw UsageError("--json needs --list; a source is not JSON");

  const std::vector<Variant> variants = find_variants(query, limits_of(target));
  if (options.has("list")) {
    list(variants, options.has("json"));
    return exit_success;
  }
  if (variants.empty()) throw UsageError("no variant matches on " + target + "; see what there is with --list");
  if (variants.size() > 1) throw UsageError(ambiguous(variants));
  const Source source = render_kernel(Catalogue::builtin(), variants.front(), rank, dialect);
  std::fwrite(source.text.data(), 1, source.text.size(), stdout);
  return exit_success;
}

}  // namespace arbiter::cli
