#include "commands/bench_startup.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <vector>

#include "arbiter/db/database.hpp"
#include "arbiter/db/json.hpp"
#include "arbiter/error.hpp"
#include "arbiter/generator/cache.hpp"
#include "arbiter/generator/temporary_folder.hpp"
#include "arbiter/runtime/nccl.hpp"
#include "commands/command.hpp"
#include "ranks/result_text.hpp"
#include "ranks/self_process.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/table.hpp"

namespace arbiter::cli {
namespace {

using Clock = std::chrono::steady_clock;

/// The steps of a start, in their order; "rest" is what no step took: loading the program, starting ranks, agreeing.
struct Step {
  const char* member;  ///< in JSON
  const char* text;
};
enum : std::size_t { driver, context, meeting, nccl, decisions, memory, measure, compile, load, rest, step_count };
constexpr std::array<Step, step_count> steps{{{"driver_s", "CUDA driver"},
                                              {"context_s", "CUDA context"},
                                              {"meeting_s", "ranks meet"},
                                              {"nccl_s", "NCCL"},
                                              {"decisions_s", "reading decisions"},
                                              {"memory_s", "sharing memory"},
                                              {"measure_s", "measuring at start"},
                                              {"compile_s", "compiling kernels"},
                                              {"load_s", "loading kernels, workspace"},
                                              {"rest_s", "program, agreement, the rest"}}};
using Seconds = std::array<double, step_count>;

/// Adds the time of `action` to a step.
template <class Action>
void timed(double& seconds, const Action& action) {
  const auto begin = Clock::now();
  action();
  seconds += std::chrono::duration<double>(Clock::now() - begin).count();
}

/// NCCL as the runtime would create it. Null, on every rank, where that fails on any: the runtime then says why.
std::shared_ptr<NcclCommunicator> open_nccl(const RankContext& rank) {
  std::shared_ptr<NcclCommunicator> made;
  if (!rank.bootstrap->all(!nccl_version().empty())) return made;
  try {
    made = make_nccl_communicator(*rank.device, *rank.bootstrap);
  } catch (const Poisoned&) {
    throw;
  } catch (const Error&) {
    made.reset();
  }
  if (!rank.bootstrap->all(made != nullptr)) made.reset();
  return made;
}

/// Rank 0's file on every rank, as the runtime reads it.
std::shared_ptr<const std::vector<DecisionSet>> read(const RankContext& rank, const std::filesystem::path& database) {
  std::string bytes, problem;
  if (rank.leader()) {
    try {
      bytes = read_for_broadcast(database);
    } catch (const DatabaseError& error) {
      problem = error.what();
    }
  }
  problem = rank.bootstrap->broadcast(problem, 0);
  if (!problem.empty()) throw DatabaseError(problem);
  bytes = rank.bootstrap->broadcast(bytes, 0);
  return share_decisions(read_decisions_from_bytes(bytes, database.string()));
}

double compiled_seconds(const BenchSetup& setup) {
  return static_cast<double>(setup.cache->statistics().compile_microseconds) * 1e-6;
}

/// A process that was started for this: what it says of one number of ranks.
struct Start {
  std::int64_t world = 0;
  double seconds = 0;
  Seconds steps{};
};

Start parse(const std::string& document) {
  const llvm::json::Object object = parse_document(document);
  Start start{object.getInteger("world").value_or(0), object.getNumber("seconds").value_or(0), {}};
  for (std::size_t i = 0; i < step_count; ++i) start.steps[i] = object.getNumber(steps[i].member).value_or(0);
  return start;
}

void write(llvm::json::OStream& json, const char* name, const Start& start) {
  json.attributeObject(name, [&] {
    for (std::size_t i = 0; i < step_count; ++i) write_number(json, steps[i].member, start.steps[i]);
  });
}

std::string seconds_text(double seconds) { return fmt::format("{:.3f} s", seconds); }

void print_start(const Start& empty, const Start& warm) {
  Table table({fmt::format("{} ranks", empty.world), "empty cache", "warm cache"});
  for (std::size_t i = 0; i < step_count; ++i) {
    table.add({steps[i].text, seconds_text(empty.steps[i]), seconds_text(warm.steps[i])});
  }
  table.add({"in all", seconds_text(empty.seconds), seconds_text(warm.seconds)});
  print("\n");
  table.print();
}

}  // namespace

std::string probe_startup(const RankContext& rank, const BenchSetup& setup, const Problems& problems) {
  Seconds mine{};
  mine[driver] = rank.start.driver_s;
  mine[context] = rank.start.context_s;
  mine[meeting] = rank.start.meeting_s;
  CommunicatorOptions options = setup.communicator_options();
  if (options.nccl && rank.size() > 1) {
    timed(mine[nccl], [&] { options.nccl_communicator = open_nccl(rank); });
  }
  // Kernels that a snapshot carries come with the file, which the communicator then reads by itself.
  if (!setup.database.empty() && !options.variables.kernels) {
    timed(mine[decisions], [&] { options.decisions = read(rank, setup.database); });
  }
  double compiled_to_measure = 0;
  options.startup_tuner = [&, tuner = options.startup_tuner](const StartupTuneOrder& order) {
    const double compiled = compiled_seconds(setup);
    StartupTuneAnswer answer;
    timed(mine[measure], [&] { answer = tuner(order); });
    compiled_to_measure += compiled_seconds(setup) - compiled;
    return answer;
  };
  std::unique_ptr<Communicator> communicator;
  timed(mine[memory],
        [&] { communicator = std::make_unique<Communicator>(rank.bootstrap, rank.device, std::move(options)); });
  const double compiled = compiled_seconds(setup);
  timed(mine[load], [&] { communicator->prepare(problems.families); });
  mine[load] -= mine[measure];
  // Ranks that are threads share a cache: what another of them compiled meanwhile is not time of this one.
  mine[compile] = std::min(compiled_seconds(setup) - compiled - compiled_to_measure, mine[load]);
  mine[load] -= mine[compile];
  rank.bootstrap->barrier();
  const double total = std::chrono::duration<double>(Clock::now() - process_start()).count();
  double accounted = 0;
  for (const double step : mine) accounted += step;
  mine[rest] = std::max(0.0, total - accounted);

  struct Message {
    double total;
    Seconds steps;
  };
  const Message message{total, mine};
  std::vector<Message> all(static_cast<std::size_t>(rank.size()));
  rank.bootstrap->allgather(&message, sizeof message, all.data());
  const Message& slowest =
      *std::max_element(all.begin(), all.end(), [](const Message& a, const Message& b) { return a.total < b.total; });
  return join_documents({environment_json(communicator->environment()), json_text([&](llvm::json::OStream& json) {
                           json.attribute("world", rank.size());
                           write_number(json, "seconds", slowest.total);
                           for (std::size_t i = 0; i < step_count; ++i)
                             write_number(json, steps[i].member, slowest.steps[i]);
                         })});
}

int run_startup(const SessionOptions& session, bool as_json) {
  const TemporaryFolder cache;
  std::vector<std::string> arguments = session.arguments;
  std::replace(arguments.begin(), arguments.end(), std::string("--startup"), std::string("--startup-probe"));
  std::vector<std::vector<std::string>> outputs;
  for (int run = 0; run < 2; ++run) {
    outputs.push_back(split_documents(run_self(arguments, {{"ARBITER_CACHE_DIR", cache.path().string()}})));
  }
  std::vector<std::pair<Start, Start>> starts;
  for (std::size_t i = 1; i < outputs[0].size() && i < outputs[1].size(); i += 2) {
    starts.emplace_back(parse(outputs[0][i]), parse(outputs[1][i]));
  }
  if (starts.empty()) throw Error("the process started for this measurement returned nothing");
  if (as_json) {
    print_json([&](llvm::json::OStream& json) {
      json.attribute("schema", json_schema);
      json.attributeBegin("environment");
      json.rawValue(outputs[0][0]);
      json.attributeEnd();
      json.attributeArray("startup", [&] {
        for (const auto& [empty, warm] : starts) {
          json.object([&, &empty = empty, &warm = warm] {
            json.attribute("world", empty.world);
            write_number(json, "empty_cache_s", empty.seconds);
            write_number(json, "warm_cache_s", warm.seconds);
            write(json, "empty_cache", empty);
            write(json, "warm_cache", warm);
          });
        }
      });
    });
    return exit_success;
  }
  print("from process start to the first call that can be captured (slowest rank)\n");
  for (const auto& [empty, warm] : starts) print_start(empty, warm);
  return exit_success;
}

}  // namespace arbiter::cli
