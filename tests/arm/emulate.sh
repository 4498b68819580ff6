#!/usr/bin/env bash
# Run a program in an emulated system of aarch64, with a copy of the project in /src.
#
#   tests/arm/emulate.sh PROGRAM [ARGUMENT...]   run it in /src; python is one with [test]
#   tests/arm/emulate.sh --clean                 remove the system, and make the kernel forget QEMU
#
# The first call makes the system in .venv-arm, in about five minutes: a Debian, whose programs this
# kernel runs by QEMU, and wheels for aarch64. It takes packages from where apt and pip of this
# machine take theirs. Later calls use the same system, and copy only the project again. Files that
# a program writes are in .venv-arm/debian. Mounts and processes end with the call. The packages
# qemu-user-static and debootstrap, which are installed if they are missing, stay on the machine.
#
# Variables: CPU is the processor that QEMU emulates and that programs find in /proc/cpuinfo:
# cortex-a72, neoverse-n1 (the default) or max, which has SVE. The pip of PYTHON downloads.
set -euo pipefail
cd "$(dirname "$0")/../.."

SUITE=bookworm  # its Python is 3.11, its glibc 2.36
home=.venv-arm
root=$home/debian
misc=/proc/sys/fs/binfmt_misc
handler=ntk_numba-aarch64
CPU=${CPU:-neoverse-n1}
PYTHON=${PYTHON:-python3}

fail() {
  echo "aarch64 was not tested: $*" >&2
  exit 1
}

clean() {
  [ -e $misc/register ] || mount -t binfmt_misc binfmt_misc $misc || true
  if [ -e $misc/$handler ]; then echo -1 >$misc/$handler; fi
  rm -rf --one-file-system $home
}

# Print /proc/cpuinfo of the processor, since an older QEMU shows that of this machine, in which
# LLVM finds none that it knows.
cpuinfo() {
  local features="fp asimd evtstrm aes pmull sha1 sha2 crc32" part
  local newer="atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
  case $CPU in
    cortex-a72) part=0xd08 features+=" cpuid" ;;
    neoverse-n1) part=0xd0c features+=" $newer ssbs" ;;
    max) part=0xd40 features+=" $newer jscvt fcma sha3 sha512 sve asimdfhm" ;; # a Neoverse V1
    *) fail "CPU=$CPU is not cortex-a72, neoverse-n1 or max" ;;
  esac
  for ((i = 0; i < $(nproc); i++)); do
    printf '%s\t: %s\n' processor $i Features "$features" "CPU implementer" 0x41 \
      "CPU architecture" 8 "CPU variant" 0x0 "CPU part" $part "CPU revision" 1
    echo
  done
}

install_programs() {
  local packages=(qemu-user-static debootstrap debian-archive-keyring)
  if ! command -v qemu-aarch64-static debootstrap >/dev/null; then
    command -v apt-get >/dev/null || fail "there is no apt-get that could install ${packages[*]}"
    apt-get update -qq || true # the next command may know enough
    apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null ||
      fail "apt-get cannot install ${packages[*]}"
  fi
  "$PYTHON" -m pip --version >/dev/null || fail "$PYTHON has no pip, which downloads wheels"
}

# Have the kernel run programs of aarch64 by QEMU, inside the system too (flag F).
register() {
  [ -e $misc/register ] || mount -t binfmt_misc binfmt_misc $misc ||
    fail "the kernel has no binfmt_misc, or a container may not use it"
  local file
  for file in "$misc"/*; do
    if grep -qs qemu-aarch64 "$file" && grep -q "^flags:.*F" "$file"; then return; fi
  done
  local magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  echo ":$handler:M::$magic:$mask:$(command -v qemu-aarch64-static):F" >$misc/register ||
    fail "binfmt_misc refuses QEMU; run it as root of the machine, not of a container"
}

make_debian() {
  # Where apt takes a Debian from; debootstrap knows another place if this machine has no Debian.
  local mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' \
    "Codename: $SUITE" | head -n 1)
  rm -rf --one-file-system $root $home/installed
  echo "Making a Debian of aarch64 in $home, see $home/debootstrap.log"
  debootstrap --arch=arm64 --variant=minbase --include=python3-venv \
    $SUITE $root ${mirror:+"$mirror"} >$home/debootstrap.log 2>&1 ||
    fail "debootstrap ended with: $(tail -n 1 $home/debootstrap.log)"
  touch $home/made
}

mount_all() {
  mount -t proc proc $root/proc
  cpuinfo >$home/cpuinfo
  mount --bind $home/cpuinfo $root/proc/cpuinfo
  mkdir -p $root/dev/shm
  mount -t tmpfs tmpfs $root/dev/shm
  printf '127.0.0.1 localhost %s\n' "$(hostname)" >$root/etc/hosts
}

# Copy the project as it is now. Compiled code of an earlier copy stays where it is.
copy_project() {
  mkdir -p $root/src
  find $root/src -type f ! -path '*/__pycache__/*' -delete
  tar -c --exclude=./.git --exclude='./.venv*' --exclude='./demo' --exclude=__pycache__ \
    --exclude='./.*_cache' . | tar -x -C $root/src
}

inside() {
  env -i PATH=/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 QEMU_CPU="$CPU" \
    chroot $root sh -c 'cd /src && exec "$@"' sh "$@"
}

install_wheels() {
  local platforms=() wanted
  mapfile -t wanted < <("$PYTHON" tests/arm/requirements.py)
  for minor in $(seq 17 36); do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
  echo "Installing wheels of aarch64"
  "$PYTHON" -m pip download -qq --disable-pip-version-check --dest $root/wheels \
    --python-version 3.11 --only-binary=:all: "${platforms[@]}" "${wanted[@]}" hatchling editables ||
    fail "pip cannot download all wheels of [test] for aarch64"
  inside python3 -m venv --clear /venv
  inside python -m pip install --quiet --no-index --find-links /wheels -e ".[test]" ||
    fail "pip cannot install in the emulated system"
  rm -rf $root/wheels
  cp pyproject.toml $home/installed
}

if [ "${1-}" = --clean ] && [ ! -e $home ]; then exit 0; fi
[ $# -gt 0 ] || fail "no program is given"
[ "$(uname -sm)" = "Linux x86_64" ] || fail "this is $(uname -sm); only Linux x86_64 was tried"
[ "$(id -u)" = 0 ] || fail "only root can make, use or remove the system in $home"
cpuinfo >/dev/null
if [ -z "${ALONE-}" ]; then # mounts and processes of this call are seen by no other
  alone=(unshare --mount --pid --fork --kill-child --propagation private)
  "${alone[@]}" true || fail "this root may not make name spaces: run it outside of a container"
  ALONE=yes exec "${alone[@]}" "./tests/arm/emulate.sh" "$@"
fi
mkdir -p $home
exec 9>$home/lock
flock -n 9 || fail "another call uses $home"
if [ "$1" = --clean ]; then
  clean
  exit
fi
install_programs
register
[ -e $home/made ] || make_debian
mount_all
copy_project
cmp -s pyproject.toml $home/installed || install_wheels
inside "$@"
