// The catalogue: which algorithms and epilogues exist, their parameter axes, and the constraints between them.
// It is data (templates/catalogue.json); this header is how the program reads it. Nothing else lists variants.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/vocabulary.hpp"

namespace arbiter {

/// A condition over integer names ("threads * vectors * cluster >= row_vectors"), with the sentence that is shown
/// when it does not hold. Operators: + - * / % ( ) == != < <= > >= && || !. Names: see `Bindings`.
struct Constraint {
  std::string require;
  std::string reason;
  bool operator==(const Constraint&) const = default;
};

/// One parameter axis. Values are integers; the first is the default used by the built-in heuristic.
struct Axis {
  std::string name;          ///< "threads", "vectors", "cluster", "early_trigger", "blocks", ...
  std::vector<int> values;   ///< in catalogue order, never empty, no duplicates
  bool launch = false;       ///< true: part of the launch shape, not compiled into the kernel
  std::string capability{};  ///< what every value but 0 needs: "multicast"; empty: nothing
  bool operator==(const Axis&) const = default;
};

struct AlgorithmEntry {
  Backend backend{};
  std::string name;           ///< "oneshot_push"
  std::string template_name;  ///< path below templates/ without ".mustache": "algorithms/oneshot_push"
  std::string summary;        ///< one sentence for people
  Numerics numerics{};
  bool exchange = true;                   ///< false: the stand-alone epilogue kernel, which talks to nobody
  std::vector<int> worlds;                ///< world sizes it is built for
  std::vector<std::string> capabilities;  ///< what it needs beyond peer stores: "multicast", "registered_input"
  std::vector<Axis> axes;
  std::vector<Constraint> constraints;
  // Geometry, as expressions over Bindings (evaluate() below):
  std::string tile_rows;       ///< rows that one cluster handles in one iteration: "1", "world"
  std::string push_slots;      ///< rotating-buffer vectors per thread and vector of a tile: "world", "2 * world", "0"
  std::string staging_copies;  ///< copies of the whole message (padded to whole tiles) in the staging area: "0", "2"
  std::string shared_bytes;    ///< dynamic shared memory of a block; may also use `partials` (see below)

  const Axis* axis(std::string_view axis_name) const noexcept;
};

/// Tensors that a pattern reads or writes besides `input`.
enum class Tensor : std::uint8_t { output, residual_in, residual_out, gamma, norm_out };
std::string_view to_string(Tensor) noexcept;

struct EpilogueEntry {
  std::string pattern;        ///< "allreduce", "allreduce_residual_rmsnorm": what the CLI and the database spell
  std::string template_name;  ///< "epilogues/none"
  std::string summary;
  bool rows = false;  ///< true: works on whole rows of `hidden` elements; false: on a flat message
  std::vector<Tensor> tensors;
  std::map<std::string, int> constants;  ///< compile-time switches handed to the template, e.g. {"norm_out": 1}

  bool needs(Tensor) const noexcept;
};

/// Values for the names a constraint may use: every compile-time axis of the algorithm, and
/// world, hidden (elements, 0 for flat patterns), element_bytes, row_vectors (16-byte vectors of a row, 0 if flat),
/// rows (1 if the epilogue works on rows), sm (80, 90, ..., 0 on the CPU device), max_threads (per block),
/// and partials: warps' worth of vectors in a row, (row_vectors + 31) / 32.
using Bindings = std::map<std::string, long, std::less<>>;

/// Template texts by path below templates/ ("device/memory.cuh", "args.h", ...). The texts are not owned.
using TemplateMap = std::map<std::string, std::string_view, std::less<>>;

/// The templates that are built into the program.
const TemplateMap& builtin_templates();

class Catalogue {
 public:
  /// Parse and validate (the format: docs/catalogue.md). Throws CompileError with line or JSON path, what was
  /// expected, and what was found. `templates` only enters the hash; a missing one is reported when it is rendered.
  static Catalogue parse(std::string_view json, const TemplateMap& templates = builtin_templates());

  /// The catalogue that is built into the program.
  static const Catalogue& builtin();

  const std::vector<AlgorithmEntry>& algorithms() const noexcept { return algorithms_; }
  const std::vector<EpilogueEntry>& epilogues() const noexcept { return epilogues_; }

  /// Throws InvalidArgument, naming the nearest valid spelling.
  const EpilogueEntry& epilogue(std::string_view pattern) const;
  const AlgorithmEntry& algorithm(Backend, std::string_view name) const;
  const AlgorithmEntry& standalone() const;  ///< the entry with exchange == false

  /// SHA-256 (hex) over the catalogue and every template it can reach.
  const std::string& hash() const noexcept { return hash_; }

 private:
  std::vector<AlgorithmEntry> algorithms_;
  std::vector<EpilogueEntry> epilogues_;
  std::string hash_;
};

/// Evaluate one condition. Throws CompileError on a syntax error, an unknown name or a division by zero.
long evaluate(std::string_view expression, const Bindings&);

}  // namespace arbiter
