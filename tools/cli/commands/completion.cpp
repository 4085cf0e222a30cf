// arbiter completion: for the shells.
#include <string_view>

#include "arbiter/vocabulary.hpp"
#include "commands/command.hpp"
#include "options/options.hpp"
#include "text/completion.hpp"
#include "text/files.hpp"

namespace arbiter::cli {

Options completion_options() {
  Options options("completion",
                  "Prints a script that makes a shell complete the commands of arbiter, their options and the values\n"
                  "of these. An installation has both scripts where the shells look for them.",
                  "arbiter completion bash --output ~/.local/share/bash-completion/completions/arbiter\n"
                  "arbiter completion zsh --output ~/.zfunc/_arbiter   # with ~/.zfunc in fpath");
  options.words("bash|zsh", "bash, zsh: the shell.", 1).choices({"bash", "zsh"});
  options.output("write here (default: standard output)");
  return options;
}

int run_completion(const Options& options) {
  constexpr std::string_view shells[] = {"bash", "zsh"};
  if (options.words().empty()) throw UsageError("no shell: say bash or zsh");
  const std::string& shell = options.words().front();
  if (shell != "bash" && shell != "zsh") throw UsageError(unknown_name_message("shell", shell, shells));
  write_output(options.text("output"), shell == "bash" ? bash_completion(commands()) : zsh_completion(commands()));
  return exit_success;
}

}  // namespace arbiter::cli
