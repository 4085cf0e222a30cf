#include <arbiter/communicator.hpp>
#include <arbiter/startup_tune.hpp>
#include <iostream>
#include <memory>

#ifdef HAS_ITS_OWN_SQLITE
// A program may bring along what Arbiter brings along, in another version: neither is the other's.
extern "C" const char* sqlite3_libversion();
extern "C" const char* sqlite3_libversion() { return "the program's own"; }
#endif

int main() {
  std::shared_ptr<arbiter::Bootstrap> bootstrap = std::move(arbiter::make_in_process_bootstraps(1).front());
  std::shared_ptr<arbiter::Device> device = arbiter::make_cpu_device(0);
  const arbiter::ProblemFamily family{"allreduce", arbiter::Dtype::fp32, 64, 8, arbiter::Mode::eager};
  arbiter::StartupTuneOptions startup{.families = {family}};
  arbiter::CommunicatorOptions options;
  options.decisions = arbiter::tune_at_startup(bootstrap, device, startup).decisions;
  const arbiter::Communicator communicator(bootstrap, device, options);
  std::cout << arbiter::version() << ": rank " << communicator.rank() << " of " << communicator.size() << '\n';
}
