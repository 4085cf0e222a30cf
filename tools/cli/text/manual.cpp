#include "text/manual.hpp"

#include <sstream>

#include "arbiter/communicator.hpp"
#include "arbiter/variables.hpp"

namespace arbiter::cli {
namespace {

/// Text that troff prints as it is: backslashes, dashes and quotes mean something, and so does the start of a line.
std::string roff(const std::string& text) {
  std::string escaped;
  bool start = true;
  for (const char c : text) {
    if (start && (c == '.' || c == '\'')) escaped += "\\&";
    start = c == '\n';
    switch (c) {
      case '\\':
        escaped += "\\e";
        break;
      case '-':
        escaped += "\\-";
        break;
      case '\'':
        escaped += "\\(aq";
        break;
      case '`':
        escaped += "\\(ga";
        break;
      case '^':
        escaped += "\\(ha";
        break;
      case '~':
        escaped += "\\(ti";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

void literal(std::ostream& out, const std::string& text) { out << ".PP\n.nf\n.RS 4\n" << roff(text) << "\n.RE\n.fi\n"; }

void write_options(std::ostream& out, const Options& options) {
  for (const OptionDescription& option : options.shown()) {
    out << ".TP\n\\fB\\-\\-" << roff(option.name) << "\\fR";
    if (!option.placeholder.empty()) out << " \\fI" << roff(option.placeholder) << "\\fR";
    out << "\n" << roff(option.help) << "\n";
  }
}

void write_command(std::ostream& out, const Command& command) {
  const Options options = command.options();
  const WordsDescription& words = options.words_description();
  out << ".SS arbiter " << roff(options.command());
  if (!words.placeholder.empty()) out << " " << roff(words.placeholder);
  out << " [options]\n" << roff(options.description()) << "\n";
  if (!words.help.empty()) literal(out, words.help);
  write_options(out, options);
  out << ".PP\nExample:\n";
  literal(out, options.example());
}

}  // namespace

std::string manual_page(std::span<const Command> commands) {
  std::ostringstream out;
  out << ".\\\" Made by: arbiter man\n"
      << ".TH ARBITER 1 \"\" \"arbiter " << roff(std::string(version())) << "\" \"User Commands\"\n"
      << ".SH NAME\narbiter \\- the fastest correct allreduce for the GPUs in front of it\n"
      << ".SH SYNOPSIS\n.B arbiter\n.I command\n[options]\n"
      << ".br\n.B arbiter\n.I command\n.B \\-\\-help\n"
      << ".SH DESCRIPTION\n"
      << roff(
             "Arbiter renders kernels from templates, compiles them for the GPU at hand, times them beside NCCL for\n"
             "every message size and number of ranks, remembers the answer in a database, and lets programs use the\n"
             "winner: for plain allreduce, and for allreduce fused with what follows it in a transformer layer.")
      << "\n.PP\n"
      << roff(
             "Options that take several values take a,b, repetition and, for numbers, ranges (0-3). Tables are for\n"
             "people, --json is for programs; progress goes to standard error, and only if that is a terminal.")
      << "\n.SH COMMANDS\n";
  for (const Command& command : commands) {
    out << ".TP\n.B " << roff(std::string(command.name)) << "\n" << roff(std::string(command.summary)) << "\n";
  }
  out << ".SH OPTIONS\n" << roff("Of each command. --help may be written -h.") << "\n";
  for (const Command& command : commands) write_command(out, command);
  out << ".SH ENVIRONMENT\n";
  for (const VariableDescription& variable : describe(EnvironmentVariables{})) {
    out << ".TP\n.B " << roff(variable.name) << "\n" << roff(variable.description) << "\n";
  }
  out << ".SH EXIT STATUS\n0 success, 1 failure, 2 wrong usage, 130 interrupted.\n";
  return out.str();
}

}  // namespace arbiter::cli
