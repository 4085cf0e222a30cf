# arbiter_embed_templates(<target> <folder>): builds every template below <folder> into <target>, which then has
# arbiter::builtin_templates(). A changed file is embedded again by the next build, and so is an added one.
function(arbiter_embed_templates target folder)
  set(out ${CMAKE_CURRENT_BINARY_DIR}/embedded)
  set(script ${CMAKE_CURRENT_SOURCE_DIR}/cmake/embed_file.cmake)
  file(GLOB_RECURSE files RELATIVE ${folder} CONFIGURE_DEPENDS
    ${folder}/*.cuh ${folder}/*.h ${folder}/*.mustache ${folder}/*.json)
  list(SORT files)
  set(declarations "")
  set(entries "")
  foreach(file IN LISTS files)
    string(MAKE_C_IDENTIFIER "file_${file}" symbol)
    add_custom_command(
      OUTPUT ${out}/${symbol}.cpp
      COMMAND ${CMAKE_COMMAND} -D INPUT=${folder}/${file} -D OUTPUT=${out}/${symbol}.cpp -D SYMBOL=${symbol} -P ${script}
      DEPENDS ${folder}/${file} ${script}
      COMMENT "Embedding templates/${file}"
      VERBATIM)
    target_sources(${target} PRIVATE ${out}/${symbol}.cpp)
    string(APPEND declarations "extern const char ${symbol}[];\nextern const std::size_t ${symbol}_size;\n")
    string(APPEND entries "      {\"${file}\", {embedded::${symbol}, embedded::${symbol}_size}},\n")
  endforeach()
  file(CONFIGURE OUTPUT ${out}/builtin_templates.cpp @ONLY CONTENT "#include \"arbiter/generator/catalogue.hpp\"

namespace arbiter {
namespace embedded {
@declarations@}  // namespace embedded

const TemplateMap& builtin_templates() {
  static const TemplateMap templates{
@entries@  };
  return templates;
}

}  // namespace arbiter
")
  target_sources(${target} PRIVATE ${out}/builtin_templates.cpp)
endfunction()
