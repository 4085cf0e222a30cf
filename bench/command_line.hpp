// What a program of bench/ was asked to do.
#pragma once

#include <boost/program_options.hpp>
#include <cstdlib>
#include <iostream>

namespace arbiter::bench {

/// Fills the values of `known`, which has "help": that is printed, and the program ends. Throws for what is not known.
inline void read_command_line(int argc, char** argv, const boost::program_options::options_description& known) {
  boost::program_options::variables_map map;
  boost::program_options::store(boost::program_options::parse_command_line(argc, argv, known), map);
  boost::program_options::notify(map);
  if (map.count("help") == 0) return;
  std::cout << known;
  std::exit(0);
}

}  // namespace arbiter::bench
