// What only the ranks of a job know, where the launcher or the user gives it.
#pragma once

#include <string>

namespace arbiter {

/// From ARBITER_JOB_SECRET: the text itself, or "file:///path" of a file that holds it, which must belong to the user
/// or root and be closed to everybody else. A line's end behind it does not count. Empty if the variable is not set.
/// Throws InvalidArgument for a secret that is short enough to be guessed and for a file that others can read.
std::string job_secret();

}  // namespace arbiter
