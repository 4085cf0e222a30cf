#include "records/kernels.hpp"

#include "records/digest.hpp"
#include "sqlite/reader.hpp"
#include "sqlite/rows.hpp"
#include "sqlite/snapshot.hpp"

namespace arbiter {
namespace db {
namespace {

std::string digest_of(const StoredKernel& stored) {
  const CompiledKernel& kernel = stored.kernel;
  return Digest("kernel")
      .add("key", stored.key)
      .add("name", stored.name)
      .add("source_hash", stored.source_hash)
      .add("target", kernel.target)
      .add("entry", kernel.entry)
      .add("registers", kernel.resources.registers)
      .add("shared_bytes", kernel.resources.shared_bytes)
      .add("spill_bytes", kernel.resources.spill_bytes)
      .add("stack_bytes", kernel.resources.stack_bytes)
      .add("image", kernel.image)
      .hex();
}

}  // namespace

void insert_kernel(Connection& connection, const StoredKernel& stored) {
  const CompiledKernel& kernel = stored.kernel;
  Statement insert(connection,
                   "INSERT INTO kernel (key, name, source_hash, target, entry, registers, shared_bytes, spill_bytes, "
                   "stack_bytes, image, digest) VALUES (?,?,?,?,?,?,?,?,?,?,?)");
  insert
      .bind(stored.key, stored.name, stored.source_hash, kernel.target, kernel.entry, kernel.resources.registers,
            kernel.resources.shared_bytes, kernel.resources.spill_bytes, kernel.resources.stack_bytes,
            Blob{kernel.image}, digest_of(stored))
      .run();
}

std::vector<StoredKernel> load_kernels(Connection& connection) {
  return naming_the_file(connection, [&] {
    const std::string result = connection.text("PRAGMA integrity_check(kernel)");
    if (result != "ok") throw DatabaseError("table kernel is damaged: " + result);
    Statement query(connection,
                    "SELECT key, name, source_hash, target, entry, registers, shared_bytes, spill_bytes, stack_bytes, "
                    "image, digest FROM kernel ORDER BY key");
    std::vector<StoredKernel> kernels;
    while (query.step()) {
      StoredKernel stored{query.text(0), query.text(1), query.text(2), {}};
      stored.kernel.target = query.text(3);
      stored.kernel.entry = query.text(4);
      stored.kernel.resources = {query.small_integer(5), query.small_integer(6), query.small_integer(7),
                                 query.small_integer(8)};
      stored.kernel.image = query.blob(9);
      if (query.text(10) != digest_of(stored)) {
        throw DatabaseError("kernel '" + stored.name + "' does not match its digest");
      }
      kernels.push_back(std::move(stored));
    }
    return kernels;
  });
}

}  // namespace db

KernelSet::KernelSet(std::vector<StoredKernel> kernels) {
  for (StoredKernel& stored : kernels) {
    kernels_.emplace(std::tuple(stored.source_hash, stored.kernel.entry, stored.kernel.target),
                     std::move(stored.kernel));
  }
}

const CompiledKernel* KernelSet::find(const Source& source, const std::string& target) const noexcept {
  const auto found = kernels_.find(std::tie(source.hash, source.entry, target));
  return found == kernels_.end() ? nullptr : &found->second;
}

std::vector<StoredKernel> read_kernels(const std::filesystem::path& path) {
  db::require_sqlite_features();
  std::vector<StoredKernel> kernels;
  db::with_reader(path, [&](db::Connection& view, db::FileKind) {
    std::optional<db::Connection> migrated;
    kernels = db::load_kernels(db::prepare_view(view, migrated));
  });
  return kernels;
}

std::vector<StoredKernel> read_kernels_from_bytes(const std::string& bytes, const std::string& name_for_messages) {
  db::Connection view = db::connection_to_bytes(bytes, name_for_messages);
  std::optional<db::Connection> migrated;
  return db::load_kernels(db::prepare_view(view, migrated));
}

void write_snapshot(const std::filesystem::path& target, const std::vector<DecisionSet>& sets,
                    const std::vector<StoredKernel>& kernels) {
  db::require_sqlite_features();
  db::write_snapshot_file(target, sets, kernels);
}

}  // namespace arbiter
