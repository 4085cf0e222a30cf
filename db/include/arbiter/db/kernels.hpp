// Compiled kernels in a snapshot: what lets a machine without a compiler run its decisions.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "arbiter/db/database.hpp"
#include "arbiter/generator/compile.hpp"

namespace arbiter {

/// One kernel of one rank (on the CPU device: of all ranks).
struct StoredKernel {
  std::string key;          ///< KernelCache::key(): source, entry and compiler
  std::string name;         ///< Variant::full_name() and rank, for people
  std::string source_hash;  ///< Source::hash
  CompiledKernel kernel;
};

/// Kernels to look up by what they were compiled from. Immutable, so any number of ranks may share one.
class KernelSet {
 public:
  KernelSet() = default;
  explicit KernelSet(std::vector<StoredKernel>);
  /// Null if there is none. Whatever compiler made it: the source and the target are those that were asked for.
  const CompiledKernel* find(const Source&, const std::string& target) const noexcept;
  std::size_t size() const noexcept { return kernels_.size(); }

 private:
  std::map<std::tuple<std::string, std::string, std::string>, CompiledKernel> kernels_;
};

/// The kernels of a snapshot, ordered by key; empty for other databases. Every one is checked against its digest.
/// Throws DatabaseError naming the file.
std::vector<StoredKernel> read_kernels_from_bytes(const std::string& bytes, const std::string& name_for_messages);

/// What of its kernels a reader says that does not load them.
struct CarriedKernels {
  std::size_t count = 0;
  std::vector<std::string> made_on;  ///< names of the GPUs that the database's decisions are of
};
CarriedKernels carried_kernels(const std::filesystem::path&);
CarriedKernels carried_kernels_in_bytes(const std::string& bytes, const std::string& name_for_messages);
/// "'x.db' carries 2 compiled kernels, made on NVIDIA H200, not loaded"; empty if it carries none.
std::string not_loaded(const std::string& name, const CarriedKernels&);

/// Kernels are code that runs as the user. Why those of this file, from which `bytes` were read, must not run: it does
/// not belong to the user or root, others may write to it, or it holds other bytes by now. Empty if they may.
std::string untrusted_kernels(const std::filesystem::path&, const std::string& bytes);

/// As write_snapshot(), with these kernels.
void write_snapshot(const std::filesystem::path&, const std::vector<DecisionSet>&, const std::vector<StoredKernel>&);

}  // namespace arbiter
