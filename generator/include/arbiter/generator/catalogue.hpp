// The catalogue: which algorithms and parts of patterns exist, their parameter axes, and the constraints between them.
// It is data (templates/catalogue.json); this header is how the program reads it. Nothing else lists variants.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/generator/pattern.hpp"
#include "arbiter/vocabulary.hpp"

namespace arbiter {

/// One parameter axis. Values are integers; the first is the default used by the built-in heuristic.
struct Axis {
  std::string name;          ///< "threads", "vectors", "cluster", "early_trigger", "blocks", ...
  std::vector<int> values;   ///< in catalogue order, never empty, no duplicates
  bool launch = false;       ///< true: part of the launch shape, not compiled into the kernel
  std::string capability{};  ///< what every value but 0 needs: "multicast"; empty: nothing
  bool operator==(const Axis&) const = default;
};

/// How data gets from one rank to another. Spelled by to_string() as it is written here.
enum class Transport : std::uint8_t {
  push,      ///< a rank stores into its peers' workspaces
  pull,      ///< a rank loads from its peers, where their tensors lie if those are shared
  staged,    ///< a rank copies its message into its own workspace and its peers load from there
  multicast  ///< the switch adds and delivers
};
std::string_view to_string(Transport) noexcept;
/// Throws InvalidArgument naming the valid spellings and the nearest one.
Transport parse_transport(std::string_view);

/// Words of every rank's workspace that outlive a launch, shared by the algorithms that name it: `epochs` arrays of one
/// word per block, then `flags` arrays of one word per rank and block, which that rank writes. The workspace holds
/// those of all protocols; kernels are told where their own begin.
struct Protocol {
  std::string name;     ///< "barrier"
  std::string summary;  ///< one sentence for people
  int epochs = 0;
  int flags = 0;

  /// Arrays of one word per block.
  int arrays() const noexcept { return epochs + flags * max_world; }
  bool operator==(const Protocol&) const = default;
};

struct AlgorithmEntry {
  Backend backend{};
  std::string name;                  ///< "oneshot_push"
  std::vector<std::string> aliases;  ///< names that it had, which databases and scripts may still have
  std::string template_name;         ///< path below templates/: "algorithms/oneshot_push.cuh"
  std::string summary;               ///< one sentence for people
  Numerics numerics{};
  std::optional<Transport> transport;  ///< of an exchange; none without one
  /// Of an exchange: how often a message crosses a link before the result is there, one after the other, barriers and
  /// the way back of a load included.
  int steps = 0;
  std::string link_rows;                  ///< expression: rows that a rank's links bring it for every `world` rows
  std::string protocol;                   ///< name of its protocol; empty: nothing outlives a launch
  int arrays_before = 0;                  ///< of the protocols before its own
  bool exchange = true;                   ///< false: the stand-alone kernel, which talks to nobody
  std::vector<int> worlds;                ///< world sizes it is built for
  std::vector<std::string> capabilities;  ///< what it needs beyond peer stores: "multicast"
  std::vector<Axis> axes;
  std::vector<Constraint> constraints;  ///< broken: it cannot be built or run. Those of all algorithms come first
  std::vector<Constraint> pruning;      ///< broken: it can, but nobody expects it to win. The same
  // Geometry, as expressions over Bindings (evaluate() below):
  std::string tile_rows;       ///< rows that one cluster handles in one iteration: "1", "world"
  std::string push_slots;      ///< rotating-buffer vectors per thread and vector of a tile: "world", "2 * world", "0"
  std::string staging_copies;  ///< copies of the whole message (padded to whole tiles) in the staging area: "0", "2"
  std::string shared_bytes;    ///< dynamic shared memory of a block, that of row sums included

  const Axis* axis(std::string_view axis_name) const noexcept;
  bool is_named(std::string_view) const noexcept;  ///< by its name or an alias
  /// How often a rank's links bring it the size of the message, among `world` ranks. 0 without exchange.
  double link_messages(int world) const;
  /// Every rank gets every other rank's whole message and sums it all; or every row has one rank that sums it and hands
  /// the result to all. Of neither kind: what the switch sums.
  bool one_shot() const;
  bool two_shot() const;
};

/// Values for the names a constraint may use: every compile-time axis of the algorithm (cluster and vectors are 1 where
/// it has no such axis, threads is max_threads, multicast is 1 if the algorithm needs it as a whole and else 0), every
/// constant and parameter of the parts (0 where the pattern does not have it), and world, hidden (elements, 0 for flat
/// patterns), element_bytes, elements (of a 16-byte vector), row_vectors (vectors of a row, 0 if flat), rows (1 if the
/// pattern works on rows), prologue (1 if what a rank contributes is not its input as it is), sm (80, 90, ..., 0 on the
/// CPU device), max_threads (per block), and partials: warps' worth of vectors in a row, (row_vectors + 31) / 32.
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
  const std::vector<PartEntry>& parts() const noexcept { return parts_; }
  const std::vector<Protocol>& protocols() const noexcept { return protocols_; }
  /// Arrays of one word per block that the workspace holds: those of all protocols.
  int control_arrays() const noexcept;
  /// Names of the patterns that people ask for most, for lists and completion. Any other composition is as good.
  const std::vector<std::string>& usual_patterns() const noexcept { return usual_patterns_; }

  /// The composition that a name spells. Throws InvalidArgument, naming the nearest valid spelling.
  Pattern pattern(std::string_view name) const;
  const AlgorithmEntry& algorithm(Backend, std::string_view name) const;
  const AlgorithmEntry& standalone() const;  ///< the entry with exchange == false

  /// The same catalogue with other values for an axis, wherever it occurs: kernels in sizes that nobody would tune, for
  /// tests.
  Catalogue with_axis(std::string_view axis, const std::vector<int>& values) const;

  /// SHA-256 (hex) over the catalogue and every template it can reach.
  const std::string& hash() const noexcept { return hash_; }

 private:
  std::vector<AlgorithmEntry> algorithms_;
  std::vector<PartEntry> parts_;
  std::vector<Protocol> protocols_;
  std::vector<std::string> usual_patterns_;
  std::string hash_;
};

/// Why a pattern cannot work with this dtype and hidden size on any device; empty if it can.
std::optional<std::string> impossible(const Pattern&, Dtype, int hidden);

/// Evaluate one condition. Throws CompileError on a syntax error, an unknown name or a division by zero.
long evaluate(std::string_view expression, const Bindings&);

}  // namespace arbiter
