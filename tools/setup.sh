# Shared by tools/quickstart and tools/check: install what is missing, find or fetch CUDA, configure and build.
# Source it; it defines functions only. Everything it makes lies below build/.
# ARBITER_SETUP_IGNORE_TOOLKIT=1 acts as if no CUDA toolkit and no NCCL were installed (to test that the wheels suffice).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build
wheels=$build/cuda-wheels
jobs=$(nproc)
started=$SECONDS

# The oldest CUDA that compiles for every target Arbiter names on the command line (sm_100a).
cuda_minimum=12.8

build_packages=(g++ cmake ninja-build ccache llvm-22-dev libboost-context-dev libboost-program-options-dev
  libsqlite3-dev libspdlog-dev libfmt-dev libgtest-dev libjs-d3 zlib1g-dev libzstd-dev)
check_packages=(clang-format-14 clang-tidy-22 chromium groff-base zsh clang-14 libclang-rt-14-dev
  doxygen pkgconf dpkg-dev mpich libmpich-dev
  python3-venv python3-numpy python3-pytest libbenchmark-dev)
wheel_packages=(python3-pip)

# step <what>: announces a step; the time it took is printed by the next one or by `finish_steps`.
step() {
  finish_steps
  step_name=$1
  step_started=$(date +%s.%N)
  printf '\n==> %s\n' "$step_name"
}

finish_steps() {
  if [[ -n ${step_name:-} ]]; then
    printf '    done: %s (%s s)\n' "$step_name" "$(seconds_since "$step_started")"
  fi
  step_name=
}

seconds_since() { awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }'; }

# fail <message...>: the reason, then what to do, each on its own line.
fail() {
  printf '\nerror: %s\n' "$1" >&2
  shift
  (($# == 0)) || printf '       %s\n' "$@" >&2
  exit 1
}

installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# install_packages <package...>: does nothing, not even an update of the package list, when all are present.
install_packages() {
  command -v dpkg-query >/dev/null || {
    printf '    this is not Debian; taking it that these are installed: %s\n' "$*"
    return
  }
  local missing=() package
  for package in "$@"; do installed "$package" || missing+=("$package"); done
  if ((${#missing[@]} == 0)); then
    printf '    all %d packages are installed\n' $#
    return
  fi
  printf '    missing: %s\n' "${missing[*]}"
  local by_hand="Install them by hand: apt-get install ${missing[*]}"
  local as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || fail "packages are missing, and this is neither root nor is there sudo." "$by_hand"
    sudo -n true 2>/dev/null || fail "packages are missing, and sudo would ask for a password." "$by_hand"
    as_root=(sudo -n)
  fi
  printf '    updating the package lists\n'
  apt_get "${as_root[@]}" update || fail "apt-get update failed (its own message is above)." "$by_hand"
  local unknown=()
  for package in "${missing[@]}"; do apt-cache show "$package" >/dev/null 2>&1 || unknown+=("$package"); done
  if ((${#unknown[@]} != 0)); then
    fail "the package lists of this machine do not have: ${unknown[*]}" \
      "Debian 12 has them in its main and security archives. Check that /etc/apt/sources.list or" \
      "/etc/apt/sources.list.d lists bookworm and bookworm-security, then run this again." \
      "On another system, install the same software by its own means (README, docs/install.md)."
  fi
  printf '    installing %d packages and what they need; apt-get reports to build/install.log\n' ${#missing[@]}
  apt_get "${as_root[@]}" install -y --no-install-recommends "${missing[@]}" ||
    fail "apt-get could not install: ${missing[*]} (its own message is above)." "$by_hand"
}

# apt_get [sudo -n] <arguments...>: never asks, waits for another apt to finish, and is heard only when it fails.
apt_get() {
  local prefix=()
  while [[ ${1:-} == sudo || ${1:-} == -n ]]; do prefix+=("$1") && shift; done
  mkdir -p "$build"
  "${prefix[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
    -o Dpkg::Use-Pty=0 "$@" >"$build/install.log" 2>&1 || {
    tail -n 30 "$build/install.log" >&2
    return 1
  }
}

# toolkit_root: prints the CUDA toolkit the build will use, or fails. The same places as FindCudaRuntime.cmake.
toolkit_root() {
  [[ -z ${ARBITER_SETUP_IGNORE_TOOLKIT:-} ]] || return 1
  local candidate library
  for candidate in ${CUDAToolkit_ROOT:-} ${CUDA_HOME:-} ${CUDA_PATH:-} /usr/local/cuda \
    $(ls -d /usr/local/cuda-* 2>/dev/null | sort -rV); do
    for library in lib64 lib targets/x86_64-linux/lib targets/sbsa-linux/lib; do
      if [[ -e $candidate/include/cuda_runtime.h && -e $candidate/$library/libcudart_static.a ]] &&
        ls "$candidate/$library"/libnvrtc.so* >/dev/null 2>&1 && new_enough "$candidate"; then
        printf '%s' "$candidate"
        return
      fi
    done
  done
  return 1
}

new_enough() {
  local number
  number=$(awk '/^#define CUDART_VERSION/ { print $3 }' "$1/include/cuda_runtime_api.h" 2>/dev/null)
  ((${number:-0} >= ${cuda_minimum%.*} * 1000 + ${cuda_minimum#*.} * 10))
}

has_gpu() { [[ -e /dev/nvidiactl || -e /dev/dxg ]]; }

has_nccl() {
  [[ -e $wheels/nvidia/nccl/lib/libnccl.so.2 ]] && return
  [[ -z ${ARBITER_SETUP_IGNORE_TOOLKIT:-} ]] || return 1
  ldconfig -p 2>/dev/null | grep -q 'libnccl\.so\.2' || ls "${CUDA_HOME:-/usr/local/cuda}"/lib64/libnccl.so.2 >/dev/null 2>&1
}

# fetch_wheels <package...>: unpacks redistributable Python wheels into build/cuda-wheels. Nothing is installed.
fetch_wheels() {
  command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 || install_packages "${wheel_packages[@]}"
  rm -rf "$wheels/download" && mkdir -p "$wheels/download"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$wheels/download" "$@" || return 1
  local file
  for file in "$wheels"/download/*.whl; do
    printf '    %s\n' "$(basename "$file")"
    python3 -m zipfile -e "$file" "$wheels" || return 1
  done
  rm -rf "$wheels/download"
}

# Sets cmake_cuda to what CMake must be told.
prepare_cuda() {
  cmake_cuda=(-DARBITER_IGNORE_TOOLKIT=OFF)
  local found
  if found=$(toolkit_root); then
    printf '    CUDA toolkit: %s\n' "$found"
    cmake_cuda+=("-DCUDAToolkit_ROOT=$found")
    if has_gpu && ! has_nccl; then
      printf '    NCCL is not installed; fetching its wheel into build/cuda-wheels\n'
      fetch_wheels 'nvidia-nccl-cu13' ||
        printf '    NCCL could not be fetched: results will have no NCCL column. Install libnccl2 to have one.\n'
    fi
    return
  fi
  cmake_cuda=(-DARBITER_IGNORE_TOOLKIT=ON -DCUDAToolkit_ROOT=)
  if [[ -e $wheels/nvidia/cu13/lib/libcudart_static.a && -e $wheels/nvidia/cu13/lib/libnvrtc.so.13 ]]; then
    printf '    no CUDA toolkit; using the wheels in build/cuda-wheels\n'
  else
    printf '    no CUDA toolkit %s or newer; fetching the redistributable wheels into build/cuda-wheels\n' "$cuda_minimum"
    fetch_wheels 'nvidia-cuda-runtime>=13.0,<14' 'nvidia-cuda-crt>=13.0,<14' 'nvidia-cuda-nvrtc>=13.0,<14' ||
      fail "no CUDA toolkit was found, and its redistributable wheels could not be fetched from PyPI." \
        "Either install the CUDA toolkit ($cuda_minimum or newer; only cuda-cudart-dev-13-0 and cuda-nvrtc-13-0 are used)" \
        "from https://developer.nvidia.com/cuda-downloads and, if it is not in /usr/local/cuda, set CUDA_HOME;" \
        "or, on a machine with network, run: pip download --no-deps nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-nvrtc" \
        "and unzip the three wheels into $wheels."
  fi
  if ! has_nccl; then
    fetch_wheels 'nvidia-nccl-cu13' ||
      printf '    NCCL could not be fetched: results will have no NCCL column. Install libnccl2 to have one.\n'
  fi
}

# configure_and_build <tests: ON or OFF> <ninja target...>
configure_and_build() {
  local tests=$1
  shift
  cd "$root"
  cmake -G Ninja -S . -B build -DCMAKE_BUILD_TYPE=Release "-DARBITER_TESTS=$tests" \
    "-DARBITER_PRECOMPILED=$tests" "${cmake_cuda[@]}" \
    >"$build/configure.log" 2>&1 || {
    cat "$build/configure.log" >&2
    fail "CMake could not configure the build (its message is above)." \
      "If it names a missing package, install it and run this again."
  }
  NINJA_STATUS='    [%f/%t, %e s] ' cmake --build build -j "$jobs" --target "$@" ||
    fail "the build failed (the compiler's message is above)."
}
