// What the host does before the first call: reading the catalogue, rendering a kernel, finding it in the cache, reading
// a snapshot's decisions. Each stands beside the SHA-256 of as many bytes, which none of them can do without: a ratio
// holds on machines of every speed, and busy ones. Exit status 1 where one takes more times that than is allowed.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "arbiter/db/database.hpp"
#include "arbiter/generator/cache.hpp"
#include "arbiter/generator/digest.hpp"
#include "arbiter/generator/render.hpp"
#include "least.hpp"

namespace {

using namespace arbiter;
namespace fs = std::filesystem;

/// An image as large as a kernel's, from nowhere.
class NullCompiler final : public Compiler {
 public:
  CompiledKernel compile(const Source& source) const override {
    CompiledKernel kernel;
    kernel.image =
        "\x7f"
        "ELF" +
        std::string(100'000, 'k');
    kernel.entry = source.entry;
    kernel.target = "sm_90a";
    return kernel;
  }
  std::string identity() const override { return "none"; }
};

class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / fmt::format("arbiter-host-paths-{}", getpid())) {
    fs::create_directory(path_);
    fs::permissions(path_, fs::perms::owner_all);
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// What a tune of three rank counts, two patterns, two modes and eight hidden sizes leaves.
DecisionSet many_decisions() {
  DecisionSet set;
  set.environment.gpu_name = "NVIDIA H200";
  set.environment.compute_capability = 90;
  set.environment.sm_count = 132;
  for (const int world : {2, 3, 4}) {
    for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
      for (const Mode mode : {Mode::graph, Mode::eager}) {
        for (int hidden = 1024; hidden <= 8192; hidden += 1024) {
          for (std::int64_t tokens = 1; tokens < 4096; tokens *= 4) {
            Decision decision;
            decision.pattern = pattern;
            decision.dtype = Dtype::bf16;
            decision.hidden = hidden;
            decision.world = world;
            decision.mode = mode;
            decision.tokens_min = tokens;
            decision.tokens_max = tokens * 4 - 1;
            decision.candidate.backend = Backend::trtllm;
            decision.candidate.algorithm = "oneshot_push";
            decision.candidate.name = "trtllm/oneshot_push:cluster=1,early_trigger=1,threads=256,vectors=1,blocks=16";
            decision.candidate.source_hash = std::string(64, 'a');
            decision.median_us = 3.5;
            set.decisions.push_back(decision);
          }
        }
      }
    }
  }
  return set;
}

std::string content_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// One path: how often the digest of `bytes` it may take.
struct Path {
  const char* name;
  double most;
  std::string bytes;
};

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const bool judge = argc > 1 && std::strcmp(argv[1], "judge") == 0;
  const Folder folder;
  const Variant variant =
      enumerate(Catalogue::builtin(), "allreduce_residual_rmsnorm", Dtype::bf16, 4, 8192, TargetLimits{90, 1024, {}})
          .variants.front();
  const Source source = render_kernel(Catalogue::builtin(), variant, 0, Dialect::cuda);
  const NullCompiler compiler;
  KernelCache cache(CacheOptions{folder.path() / "cache", 512u << 20, true, {}});
  const std::string image = cache.get(source, compiler, variant.full_name()).image;
  const fs::path snapshot = folder.path() / "snapshot.db";
  write_snapshot(snapshot, {many_decisions()});

  std::string catalogue_text(builtin_templates().at("catalogue.json"));
  const Path paths[] = {{"read_catalogue", 45, catalogue_text},
                        {"render_kernel", 6, source.text},
                        {"cache_hit", 3, source.text + image},
                        {"read_snapshot", 12, content_of(snapshot)}};
  for (const Path& path : paths) {
    benchmark::RegisterBenchmark(fmt::format("digest_for_{}", path.name).c_str(), [&path](benchmark::State& state) {
      for (auto _ : state) benchmark::DoNotOptimize(sha256_hex(path.bytes));
    });
  }
  benchmark::RegisterBenchmark("read_catalogue", [&](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(Catalogue::parse(catalogue_text));
  });
  benchmark::RegisterBenchmark("render_kernel", [&](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(render_kernel(Catalogue::builtin(), variant, 0, Dialect::cuda));
  });
  benchmark::RegisterBenchmark("cache_hit", [&](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(cache.get(source, compiler, variant.full_name()));
  });
  benchmark::RegisterBenchmark("read_snapshot", [&](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(read_decisions(snapshot));
  });
  bench::Least reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);

  bool slow = false;
  for (const Path& path : paths) {
    const double time = reporter.least[path.name];
    const double ratio = time / reporter.least[fmt::format("digest_for_{}", path.name)];
    std::fputs(fmt::format("{}: {:.0f} us, {:.1f} times the digest of {} bytes (allowed: {})\n", path.name, time / 1e3,
                           ratio, path.bytes.size(), path.most)
                   .c_str(),
               stderr);
    slow = slow || ratio > path.most;
  }
  if (cache.statistics().misses != 1) {
    std::fputs("host_paths: the cache lost its entry\n", stderr);
    return 1;
  }
  return judge && slow ? 1 : 0;
}
