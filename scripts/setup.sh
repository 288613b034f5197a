#!/usr/bin/env bash
# Sets up .venv with all that the demo and the tests need. Does nothing when it is up to date.
#   scripts/setup.sh          what the demo needs
#   scripts/setup.sh generate what `make demo-generate` needs: llama.cpp (our build: ten CPU-minutes, once) and the templates of voice commands
#   scripts/setup.sh tests    and what the tests need: dev packages, our build of llama.cpp (ten CPU-minutes, once), and qemu-user where we may install it
# PYTHON=python3.12 chooses the interpreter. TORCH_INDEX=URL chooses where torch comes from: on Linux the default index serves the CUDA build,
# several gigabytes larger; the CPU index is named on pytorch.org under "Get started".
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
venv=.venv
extras=compile
[ "${1:-}" = generate ] && extras=compile,llama,voice
[ "${1:-}" = tests ] && extras=compile,lowbit,llama,api,voice,microcontroller,dev
stamp=$venv/.ready-$extras-$(cksum <pyproject.toml | tr ' ' -)

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "edgedistill needs Python 3.11 or newer; $python is $("$python" -V 2>&1). Set PYTHON=…" >&2
  exit 2
}
if [ ! -x $venv/bin/python ]; then
  # Debian and Ubuntu ship Python without venv.
  "$python" -c 'import ensurepip, venv' 2>/dev/null || {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
    else
      echo "Python's venv module is missing. Run: sudo apt-get install python3-venv" >&2
      exit 2
    fi
  }
  "$python" -m venv $venv
fi
if [ ! -e "$stamp" ]; then
  echo "Installing into $venv (torch for the CPU, transformers, onnxruntime, …): a minute or two"
  pip="$venv/bin/python -m pip install --quiet --disable-pip-version-check"
  # torch first and pinned: anything that asked for a newer one would bring CUDA.
  $pip ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0 2>&1 | grep -v '^WARNING: Location' || true
  $pip --editable ".[$extras]" 2>&1 | grep -v '^WARNING: Location' || true
  $venv/bin/python -c 'import torch, transformers, onnxruntime, edgedistill'
  touch "$stamp"
fi
if [ "${1:-}" = tests ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  # The tests run binaries on emulated processors (x86 without VNNI, 64-bit and 32-bit ARM), in a browser, in Node, on a board
  # without a system, and at the end of an ssh link.
  missing=
  for wanted in qemu-x86_64=qemu-user aarch64-linux-gnu-g++=g++-aarch64-linux-gnu g++=g++ cmake=cmake node=nodejs npm=npm \
    chromium=chromium arm-linux-gnueabihf-g++=g++-arm-linux-gnueabihf qemu-arm=qemu-user sshd=openssh-server adb=adb aapt=aapt \
    java=default-jre-headless qemu-system-arm=qemu-system-arm arm-none-eabi-gcc=gcc-arm-none-eabi; do
    command -v "${wanted%%=*}" >/dev/null || [ -x "/usr/sbin/${wanted%%=*}" ] || missing="$missing ${wanted#*=}"
  done
  [ -e /usr/lib/arm-none-eabi/newlib ] || missing="$missing libnewlib-arm-none-eabi"
  # Of Android: the framework's resources, and the JSON classes that every phone has.
  [ -e /usr/share/android-framework-res/framework-res.apk ] || missing="$missing android-framework-res"
  [ -e /usr/share/java/json-android.jar ] || missing="$missing libandroid-json-org-java"
  # shellcheck disable=SC2086  # a list of packages
  [ -z "$missing" ] || (apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null) ||
    echo "could not be installed:$missing; the tests that need them are skipped" >&2
fi
if [ "${1:-}" = tests ] || [ "${1:-}" = generate ]; then
  # llama.cpp, for GGUF. The wheel is kept in edgedistill's home, and a second run installs nothing.
  if ! command -v c++ >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq g++ >/dev/null
  fi
  $venv/bin/python -m edgedistill.llama_build
fi
