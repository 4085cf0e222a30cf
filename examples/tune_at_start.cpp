// An engine on a machine that nobody has tuned: it measures for a bounded time when it starts, only what no database
// has an answer to, keeps the result, and serves with it. What it had no time for is measured by the next start.
// usage: tune_at_start [database] [seconds]
#include <arbiter/communicator.hpp>
#include <arbiter/startup_tune.hpp>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

void run(const std::shared_ptr<arbiter::Bootstrap>& bootstrap, const std::shared_ptr<arbiter::Device>& device,
         const std::filesystem::path& database, std::chrono::seconds budget) {
  device->activate();
  const std::vector<arbiter::ProblemFamily> families{{"allreduce", arbiter::Dtype::bf16, 512, 4, arbiter::Mode::eager}};

  arbiter::StartupTuneOptions startup{.families = families, .budget = budget};
  startup.database = database;  // rank 0 writes it; the next start finds it there
  startup.communicator.variables.db = std::filesystem::exists(database) ? database.string() : "";
  const arbiter::StartupTuneResult found = arbiter::tune_at_startup(bootstrap, device, startup);

  arbiter::CommunicatorOptions options;
  options.decisions = found.decisions;
  arbiter::Communicator communicator(bootstrap, device, options);
  communicator.prepare(families);
  if (communicator.rank() != 0) return;
  for (const std::string& note : found.notes) std::cout << "note: " << note << '\n';
  std::cout << found.tuned.size() << " families were tuned\n";
  for (const std::int64_t tokens : {1, 4}) {
    const arbiter::Explanation why = communicator.explain(
        {"allreduce", arbiter::Dtype::bf16, 512, tokens, communicator.size(), arbiter::Mode::eager, false});
    std::cout << tokens << " tokens: " << why.candidate.name << " (" << arbiter::to_string(why.rule) << ")\n";
  }
}

}  // namespace

int main(int count, char** arguments) {
  const std::filesystem::path database = count > 1 ? arguments[1] : "tuned-at-start.db";
  const std::chrono::seconds budget(count > 2 ? std::atoi(arguments[2]) : 2);
  auto bootstraps = arbiter::make_in_process_bootstraps(2);
  std::vector<std::thread> ranks;
  for (auto& each : bootstraps) {
    ranks.emplace_back([&database, budget, bootstrap = std::shared_ptr<arbiter::Bootstrap>(std::move(each))] {
      try {
        run(bootstrap, arbiter::make_cpu_device(bootstrap->rank()), database, budget);
      } catch (const std::exception& error) {
        std::cerr << "rank " << bootstrap->rank() << ": " << error.what() << '\n';
        std::_Exit(1);
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
}
