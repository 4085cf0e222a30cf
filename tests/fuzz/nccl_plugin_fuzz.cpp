// The NCCL tuner plugin with whatever file ARBITER_DB names: NCCL never sees an error, and its log gets single lines.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "arbiter/generator/plain_text.hpp"
#include "arbiter/generator/temporary_folder.hpp"
#include "plugin_abi.hpp"

using namespace arbiter;

extern "C" const nccl_plugin::TunerV4 ncclTunerPlugin_v4;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void log(int /*level*/, unsigned long /*flags*/, const char* /*file*/, int /*line*/, const char* format, ...) {
  char text[8192];
  std::va_list values;
  va_start(values, format);
  const int length = std::vsnprintf(text, sizeof text, format, values);
  va_end(values);
  require(length > 0 && find_control_character(text) == std::string::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const TemporaryFolder folder;
  static const std::string path = (folder.path() / "snapshot.db").string();
  static const bool set = setenv("ARBITER_DB", path.c_str(), 1) == 0;
  require(set);
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  void* context = nullptr;
  require(ncclTunerPlugin_v4.init(2, 1, log, &context) == nccl_plugin::success);
  float costs[7][3] = {};
  float* table = &costs[0][0];
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{4096}, std::size_t{1} << 30, ~std::size_t{0}}) {
    int channels = 0;
    require(ncclTunerPlugin_v4.get_coll_info(context, nccl_plugin::all_reduce, bytes, 1,
                                             reinterpret_cast<float**>(table), 7, 3, 0,
                                             &channels) == nccl_plugin::success);
  }
  require(ncclTunerPlugin_v4.destroy(context) == nccl_plugin::success);
  return 0;
}
