// Trials and decisions as text: rank 0 has the database, all ranks need what it says.
#pragma once

#include <string>
#include <vector>

#include "arbiter/db/records.hpp"

namespace arbiter::tuning {

std::string to_text(const std::vector<Trial>&);
/// `problem` is not part of the text. Throws Disagreement for text that to_text() did not write.
std::vector<Trial> trials_from_text(const std::string&, const Problem& problem);

std::string to_text(const std::vector<Decision>&);
std::vector<Decision> decisions_from_text(const std::string&);

}  // namespace arbiter::tuning
