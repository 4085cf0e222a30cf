# cmake -D INPUT=<file> -D OUTPUT=<file.cpp> -D SYMBOL=<name> -P embed_file.cmake
# Writes a translation unit that holds the bytes of INPUT as arbiter::embedded::SYMBOL.
file(READ "${INPUT}" hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR size "${digits} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${hex}")
string(REGEX REPLACE "((...... ?){20})" "\\1\n" bytes "${bytes}")
file(WRITE "${OUTPUT}" "#include <cstddef>
namespace arbiter::embedded {
extern const char ${SYMBOL}[];
extern const std::size_t ${SYMBOL}_size;
// One byte more, so that an empty file is an array too.
const char ${SYMBOL}[] = {
${bytes}'\\0'};
const std::size_t ${SYMBOL}_size = ${size};
}  // namespace arbiter::embedded
")
