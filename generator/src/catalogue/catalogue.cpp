#include "arbiter/generator/catalogue.hpp"

#include <algorithm>

#include "arbiter/error.hpp"
#include "arbiter/generator/render.hpp"

namespace arbiter {
namespace {

double messages(const AlgorithmEntry& entry, int world) {
  return static_cast<double>(evaluate(entry.link_rows, {{"world", world}})) / world;
}

}  // namespace

const Axis* AlgorithmEntry::axis(std::string_view axis_name) const noexcept {
  const auto found = std::find_if(axes.begin(), axes.end(), [&](const Axis& axis) { return axis.name == axis_name; });
  return found == axes.end() ? nullptr : &*found;
}

bool AlgorithmEntry::is_named(std::string_view wanted) const noexcept {
  return name == wanted || std::find(aliases.begin(), aliases.end(), wanted) != aliases.end();
}

double AlgorithmEntry::link_messages(int world) const {
  if (!exchange || world < 1) return 0;
  // Of 128 elements of 16 bits: a byte each, and half a vector of scales.
  const double compressed = numerics == Numerics::fp8_transport ? 17.0 / 32 : 1;
  return compressed * messages(*this, world);
}

// Told apart by what arrives: with two ranks both kinds move the same.
bool AlgorithmEntry::one_shot() const { return exchange && messages(*this, 4) == 3; }
bool AlgorithmEntry::two_shot() const { return exchange && messages(*this, 4) == 1.5; }

int Catalogue::control_arrays() const noexcept {
  int arrays = 0;
  for (const Protocol& protocol : protocols_) arrays += protocol.arrays();
  return arrays;
}

const Catalogue& Catalogue::builtin() {
  static const Catalogue catalogue = [] {
    const auto& templates = builtin_templates();
    const auto found = templates.find("catalogue.json");
    if (found == templates.end()) throw CompileError("this program was built without templates/catalogue.json");
    return parse(found->second, templates);
  }();
  return catalogue;
}

const AlgorithmEntry& Catalogue::algorithm(Backend backend, std::string_view name) const {
  std::vector<std::string_view> valid;
  for (const AlgorithmEntry& entry : algorithms_) {
    if (entry.backend != backend) continue;
    if (entry.is_named(name)) return entry;
    valid.push_back(entry.name);
  }
  throw InvalidArgument(unknown_name_message("algorithm of backend " + std::string(to_string(backend)), name, valid));
}

const AlgorithmEntry& Catalogue::standalone() const {
  for (const AlgorithmEntry& entry : algorithms_)
    if (!entry.exchange) return entry;
  throw InvalidArgument("the catalogue has no stand-alone kernel (an algorithm with \"exchange\": false)");
}

Catalogue Catalogue::with_axis(std::string_view axis, const std::vector<int>& values) const {
  Catalogue changed = *this;
  for (AlgorithmEntry& entry : changed.algorithms_) {
    for (Axis& one : entry.axes)
      if (one.name == axis) one.values = values;
  }
  return changed;
}

}  // namespace arbiter
