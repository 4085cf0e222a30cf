// arbiter man: the manual page.
#include "commands/command.hpp"
#include "options/options.hpp"
#include "text/files.hpp"
#include "text/manual.hpp"

namespace arbiter::cli {

Options man_options() {
  Options options(
      "man",
      "Prints the manual page of arbiter, with every option of every command. An installation has it where\n"
      "man looks for it.",
      "arbiter man | man -l -");
  options.output("write here (default: standard output)");
  return options;
}

int run_man(const Options& options) {
  write_output(options.text("output"), manual_page(commands()));
  return exit_success;
}

}  // namespace arbiter::cli
