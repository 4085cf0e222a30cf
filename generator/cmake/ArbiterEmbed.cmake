# arbiter_embed_file(<target> <symbol> <file>): builds the file's bytes into <target>, which then has
# `const char arbiter::embedded::<symbol>[]` and `const std::size_t arbiter::embedded::<symbol>_size`.
function(arbiter_embed_file target symbol file)
  set(script ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/embed_file.cmake)
  set(out ${CMAKE_CURRENT_BINARY_DIR}/embedded/${symbol}.cpp)
  cmake_path(GET file FILENAME name)
  add_custom_command(OUTPUT ${out}
    COMMAND ${CMAKE_COMMAND} -D INPUT=${file} -D OUTPUT=${out} -D SYMBOL=${symbol} -P ${script}
    DEPENDS ${file} ${script} COMMENT "Embedding ${name}" VERBATIM)
  target_sources(${target} PRIVATE ${out})
endfunction()

# arbiter_embed_files(<target> <folder> FUNCTION <name> TYPE <map> HEADER <header> FILES <patterns...>): builds every file
# below <folder> that matches a pattern into <target>, which then has `const <map>& arbiter::<name>()`, declared in
# <header>: from paths below <folder> to contents. A changed file is embedded again by the next build, and so is an added
# one.
function(arbiter_embed_files target folder)
  cmake_parse_arguments(ARG "" "FUNCTION;TYPE;HEADER" "FILES" ${ARGN})
  set(out ${CMAKE_CURRENT_BINARY_DIR}/embedded)
  list(TRANSFORM ARG_FILES PREPEND ${folder}/)
  file(GLOB_RECURSE files RELATIVE ${folder} CONFIGURE_DEPENDS ${ARG_FILES})
  list(SORT files)
  set(declarations "")
  set(entries "")
  foreach(file IN LISTS files)
    string(MAKE_C_IDENTIFIER "file_${file}" symbol)
    arbiter_embed_file(${target} ${symbol} ${folder}/${file})
    string(APPEND declarations "extern const char ${symbol}[];\nextern const std::size_t ${symbol}_size;\n")
    string(APPEND entries "      {\"${file}\", {embedded::${symbol}, embedded::${symbol}_size}},\n")
  endforeach()
  file(CONFIGURE OUTPUT ${out}/${ARG_FUNCTION}.cpp @ONLY CONTENT "#include \"@ARG_HEADER@\"

namespace arbiter {
namespace embedded {
@declarations@}  // namespace embedded

const @ARG_TYPE@& @ARG_FUNCTION@() {
  static const @ARG_TYPE@ files{
@entries@  };
  return files;
}

}  // namespace arbiter
")
  target_sources(${target} PRIVATE ${out}/${ARG_FUNCTION}.cpp)
endfunction()
