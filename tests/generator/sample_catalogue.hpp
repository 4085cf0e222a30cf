// A small catalogue and templates for it, independent of the real ones.
#pragma once

#include <string>
#include <string_view>

#include "arbiter/generator/catalogue.hpp"

namespace arbiter::test {

inline constexpr std::string_view sample_json = R"json({
  "schema": 3,
  "protocols": [
    {"name": "flags", "summary": "Flags.", "epochs": 1, "flags": 2},
    {"name": "slots", "summary": "Slots.", "epochs": 1, "flags": 0}
  ],
  "constraints": [{"require": "threads <= max_threads", "reason": "too many threads"}],
  "pruning": [{"require": "cluster == 1 || threads < 512", "reason": "large clusters never won"}],
  "algorithms": [
    {
      "backend": "trtllm", "name": "push", "template": "algorithms/push.mustache", "summary": "Pushes.",
      "numerics": "rank_order_fp32", "transport": "push", "steps": 1, "link_rows": "world * (world - 1)", "protocol": "slots", "exchange": true, "worlds": [2, 4], "capabilities": [],
      "axes": [
        {"name": "threads", "values": [128, 256]},
        {"name": "cluster", "values": [1, 2]},
        {"name": "blocks", "values": [0, 8], "launch": true}
      ],
      "constraints": [
        {"require": "cluster == 1 || sm == 0 || sm >= 90", "reason": "clusters need SM 90"},
        {"require": "rows == 0 || threads * cluster >= row_vectors", "reason": "a row does not fit"}
      ],
      "tile_rows": "1", "push_slots": "2 * world", "staging_copies": "0", "shared_bytes": "4 * partials"
    },
    {
      "backend": "nvls", "name": "multimem", "template": "algorithms/multimem.mustache", "summary": "Switch.",
      "numerics": "multimem", "transport": "multicast", "steps": 4, "link_rows": "world", "worlds": [2, 4], "capabilities": ["multicast"],
      "axes": [{"name": "threads", "values": [512]}]
    },
    {
      "backend": "custom", "name": "epilogue", "template": "algorithms/standalone.mustache", "summary": "Alone.",
      "numerics": "rank_order_fp32", "exchange": false, "worlds": [1],
      "axes": [{"name": "threads", "values": [64]}]
    }
  ],
  "prologues": [
    {"name": "moe", "template": "prologues/moe.mustache", "summary": "Gathers.", "reads": ["moe_weights"],
     "optional": ["moe_shared"]}
  ],
  "stages": [
    {"kind": "residual", "name": "residual", "template": "stages/residual.mustache", "summary": "Adds.",
     "reads": ["residual_in"], "writes": ["residual_out"]},
    {"kind": "norm", "name": "norm", "template": "stages/norm.mustache", "summary": "Norm.",
     "reads": ["gamma"], "writes": ["norm_out"], "constants": {"centred": 1}},
    {"kind": "quantisation", "name": "fp8", "template": "stages/fp8.mustache", "summary": "One scale.",
     "reads": ["scale_in"], "writes": ["quant_out"], "quant_bits": 8},
    {"kind": "quantisation", "name": "fp8_group{group}", "template": "stages/fp8.mustache", "summary": "Groups.",
     "writes": ["quant_out", "scale_out"], "quant_bits": 8, "scale_layout": "packed_columns",
     "problem": [{"require": "hidden % group == 0", "reason": "the group must divide the row"}],
     "constraints": [{"require": "threads * elements * cluster >= group", "reason": "a group does not fit"}],
     "shared_bytes": "4 * hidden / group"}
  ],
  "usual_patterns": ["allreduce", "allreduce_norm"]
})json";

inline const TemplateMap& sample_templates() {
  static const TemplateMap templates{
      {"kernel.mustache",
       "// {{variant_name}}\n{{> @primitives}}\n{{> @prologue}}\n{{> @epilogue}}\n{{> @algorithm}}\n"
       "{{#ranks}}\nkernel rank={{rank}}{{#host}} host{{/host}}\n{{/ranks}}\n"},
      {"device/primitives.cuh", "device {{dtype}}\n"},
      {"host/primitives.h", "host {{dtype}}\n"},
      {"epilogues/sum.cuh", "sum {{centred}}\n"},
      {"epilogues/composed.cuh",
       "{{> @residual}}{{> @norm}}{{> @quantisation}}hidden={{hidden}} row_vectors={{row_vectors}} rows={{rows}}\n"},
      {"prologues/plain.cuh", "plain\n"},
      {"prologues/moe.mustache", "moe\n"},
      {"stages/no_residual.cuh", "no residual\n"},
      {"stages/no_norm.cuh", "no norm\n"},
      {"stages/no_quantisation.cuh", "no quantisation\n"},
      {"stages/residual.mustache", "residual optional={{residual_out_optional}}\n"},
      {"stages/norm.mustache", "norm {{centred}}\n"},
      {"stages/fp8.mustache", "fp8 group={{group}}\n"},
      {"algorithms/push.mustache", "push threads={{threads}} cluster={{cluster}} world={{world}}\n"},
      {"algorithms/multimem.mustache", "multimem {{threads}}\n"},
      {"algorithms/standalone.mustache", "alone {{threads}}\n"}};
  return templates;
}

/// sample_json with the first `from` replaced by `to`.
inline std::string sample_with(std::string_view from, std::string_view to) {
  std::string text(sample_json);
  return text.replace(text.find(from), from.size(), to);
}

}  // namespace arbiter::test
