#include "records/kernels.hpp"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "arbiter/generator/joined.hpp"
#include "arbiter/generator/plain_text.hpp"
#include "arbiter/generator/trust.hpp"
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

/// Loaders map what the headers promise and touch it: beyond the end of the image that is SIGBUS. An image is ELF (a
/// cubin, or a shared object of the CPU device), or for a GPU that is newer than the compiler PTX, which is text.
std::string image_problem(const CompiledKernel& kernel) {
  const std::string& image = kernel.image;
  if (kernel.target.starts_with("compute_")) {
    // The driver reads it up to the first zero.
    return image.find('\0') != std::string::npos ? "its image is no PTX text" : "";
  }
  Elf64_Ehdr header{};
  if (image.size() < sizeof header) return "its image is shorter than an ELF header";
  std::memcpy(&header, image.data(), sizeof header);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_ident[EI_DATA] != ELFDATA2LSB) {
    return "its image is not a 64-bit ELF file";
  }
  const std::uint64_t size = image.size();
  const auto outside = [&](std::uint64_t offset, std::uint64_t bytes) {
    return offset > size || bytes > size - offset;
  };
  const bool segments = header.e_phnum != 0, sections = header.e_shnum != 0;
  if ((segments && header.e_phentsize != sizeof(Elf64_Phdr)) ||
      (sections && header.e_shentsize != sizeof(Elf64_Shdr)) ||
      outside(header.e_phoff, segments ? std::uint64_t{header.e_phnum} * sizeof(Elf64_Phdr) : 0) ||
      outside(header.e_shoff, sections ? std::uint64_t{header.e_shnum} * sizeof(Elf64_Shdr) : 0)) {
    return "its image is shorter than its ELF header promises";
  }
  for (std::size_t i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    std::memcpy(&segment, image.data() + header.e_phoff + i * sizeof segment, sizeof segment);
    if (outside(segment.p_offset, segment.p_filesz)) return "a segment of its image lies outside of it";
  }
  for (std::size_t i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr section{};
    std::memcpy(&section, image.data() + header.e_shoff + i * sizeof section, sizeof section);
    if (section.sh_type != SHT_NOBITS && outside(section.sh_offset, section.sh_size)) {
      return "a section of its image lies outside of it";
    }
  }
  return "";
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
      if (const std::string problem = image_problem(stored.kernel); !problem.empty()) {
        throw DatabaseError("kernel '" + stored.name + "' cannot be loaded: " + problem);
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

std::vector<StoredKernel> read_kernels_from_bytes(const std::string& bytes, const std::string& name_for_messages) {
  db::Connection view = db::connection_to_bytes(bytes, name_for_messages);
  std::optional<db::Connection> migrated;
  return db::load_kernels(db::prepare_view(view, migrated));
}

namespace {

CarriedKernels carried_by(db::Connection& connection) {
  CarriedKernels carried;
  carried.count = static_cast<std::size_t>(connection.integer("SELECT count(key) FROM kernel"));
  if (carried.count == 0) return carried;
  db::Statement names(connection, "SELECT DISTINCT gpu_name FROM environment ORDER BY gpu_name");
  while (names.step()) carried.made_on.push_back(names.text(0));
  return carried;
}

}  // namespace

CarriedKernels carried_kernels(const std::filesystem::path& path) {
  db::require_sqlite_features();
  CarriedKernels carried;
  db::with_reader(path, [&](db::Connection& view, db::FileKind kind) {
    if (kind == db::FileKind::empty) return;
    std::optional<db::Connection> migrated;
    carried = carried_by(db::prepare_view(view, migrated));
  });
  return carried;
}

CarriedKernels carried_kernels_in_bytes(const std::string& bytes, const std::string& name_for_messages) {
  db::Connection view = db::connection_to_bytes(bytes, name_for_messages);
  std::optional<db::Connection> migrated;
  return carried_by(db::prepare_view(view, migrated));
}

std::string not_loaded(const std::string& name, const CarriedKernels& carried) {
  if (carried.count == 0) return "";
  const std::string machines = joined(carried.made_on, ", ", visible);
  return fmt::format("'{}' carries {} compiled kernel{}, made on {}, not loaded", visible(name), carried.count,
                     (carried.count == 1 ? "" : "s"), (machines.empty() ? "an unknown machine" : machines));
}

std::string untrusted_kernels(const std::filesystem::path& path, const std::string& bytes) {
  // What is looked at is what was read: a name may lead elsewhere a moment later.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) return "the file cannot be opened again";
  struct stat info {};
  std::string now;
  const bool known = ::fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode);
  if (known && static_cast<std::uint64_t>(info.st_size) == bytes.size()) {
    now.resize(bytes.size());
    if (::pread(descriptor, now.data(), now.size(), 0) != static_cast<ssize_t>(now.size())) now.clear();
  }
  ::close(descriptor);
  if (!known) return "it is no regular file";
  if (std::string why = distrust(info); !why.empty()) return why;
  if (now != bytes) return "it is no snapshot in one piece, or changed while it was read";
  return "";
}

void write_snapshot(const std::filesystem::path& target, const std::vector<DecisionSet>& sets,
                    const std::vector<StoredKernel>& kernels) {
  db::require_sqlite_features();
  db::write_snapshot_file(target, sets, kernels);
}

}  // namespace arbiter
