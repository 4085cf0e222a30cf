#include "oracle/composition.hpp"

namespace arbiter::tuning {
namespace {

bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace

Composition read_composition(std::string_view pattern, int hidden) {
  Composition composition;
  std::string_view rest = pattern;
  if (take(rest, "moe_reduce_")) {
    composition.prologue = Composition::Prologue::moe_reduce;
  } else if (take(rest, "moe_finalize_")) {
    composition.prologue = Composition::Prologue::moe_finalize;
  }
  if (!take(rest, "allreduce")) {
    composition.unknown = rest;
    return composition;
  }
  composition.residual = take(rest, "_residual");
  if (take(rest, "_rmsnorm")) {
    composition.norm = Composition::Norm::rmsnorm;
  } else if (take(rest, "_layernorm")) {
    composition.norm = Composition::Norm::layernorm;
  }
  if (rest.empty()) return composition;
  composition.quantisation = parse_quantisation(rest.substr(1), hidden);
  if (!composition.quantisation) composition.unknown = rest.substr(1);
  return composition;
}

}  // namespace arbiter::tuning
