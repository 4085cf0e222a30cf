// The list of commands. A new one is an entry here and two declarations in command.hpp; everything else follows.
#include <array>
#include <vector>

#include "arbiter/vocabulary.hpp"
#include "commands/command.hpp"

namespace arbiter::cli {
namespace {

constexpr std::array table{
    Command{"doctor", "what this machine can do, and what stops it from doing more", doctor_options, run_doctor},
    Command{"tune", "measure every candidate and decide", tune_options, run_tune},
    Command{"show", "the decisions", show_options, run_show},
    Command{"inspect", "every candidate of one problem, and why it won or lost", inspect_options, run_inspect},
    Command{"report", "one HTML page: curves, who wins where, decisions", report_options, run_report},
    Command{"bench", "auto beside every backend", bench_options, run_bench},
    Command{"verify", "the conformance cases, on this machine", verify_options, run_verify},
    Command{"catalogue", "the kernels there are, and why one is not available", catalogue_options, run_catalogue},
    Command{"render", "the source of a kernel variant", render_options, run_render},
    Command{"compile", "compile variants, without running them", compile_options, run_compile},
    Command{"cache", "the kernel cache", cache_options, run_cache},
    Command{"merge", "one database from several", merge_options, run_merge},
    Command{"diff", "which decisions changed between two databases", diff_options, run_diff},
    Command{"export", "a database as text", export_options, run_export},
    Command{"import", "a database from an export", import_options, run_import},
    Command{"snapshot", "the decisions alone, for every node", snapshot_options, run_snapshot},
    Command{"history", "the runs in a database, where and when", history_options, run_history},
    Command{"forget", "drop a run and decide anew", forget_options, run_forget},
    Command{"run", "a program that uses NCCL, with Arbiter's allreduce", run_options, run_run},
    Command{"completion", "completion for bash and zsh", completion_options, run_completion},
    Command{"man", "the manual page", man_options, run_man},
};

}  // namespace

std::span<const Command> commands() { return table; }

const Command& find_command(const std::string& name) {
  std::vector<std::string_view> names;
  for (const Command& command : table) {
    if (command.name == name) return command;
    names.push_back(command.name);
  }
  throw UnknownCommand(unknown_name_message("command", name, names));
}

}  // namespace arbiter::cli
