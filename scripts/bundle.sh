#!/usr/bin/env bash
# Packs `weft`, the GPU tests and every library they need, UCX's modules
# included, and the Python wheel (built if build/dist has none) into
# build/weft-bundle.tar.xz: it runs where nothing is installed
# but glibc 2.36 or later (Debian 12, Ubuntu 24.04), with or without a GPU. The
# wheel is for the Python that it is named after.
# scripts/bundle.sh [--no-build] [PRESET]
set -eu
cd "$(dirname "$0")/.."
build=yes
[ "${1:-}" = --no-build ] && { build=no; shift; }
preset=${1:-release}
out=build/bundle
[ "$build" = yes ] && scripts/build.sh "$preset" weft weft_gpu_tests
rm -rf "$out"
mkdir -p "$out/bin" "$out/lib"
programs=(build/"$preset"/bin/weft)
while read -r test; do
  [ -n "$test" ] || continue
  programs+=("build/$preset/tests/$test")
done <build/"$preset"/gpu_tests.txt
programs+=(build/"$preset"/tests/weft_transport_test_peer{,_nixl})
for program in "${programs[@]}"; do
  strip -o "$out/bin/$(basename "$program")" "$program"
done
# What glibc itself brings stays the machine's own.
own='/(ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv|libutil)\.so'
ucx_modules=$(dirname "$(ldconfig -p | awk '/libucs\.so\.0 /{print $NF; exit}')")/ucx
if [ -d "$ucx_modules" ]; then
  # UCX looks for its modules in the folder `ucx` beside itself.
  mkdir -p "$out/lib/ucx"
  cp -L "$ucx_modules"/libuct_{cma,ib,rdmacm,cuda}.so.0 "$out/lib/ucx/" 2>/dev/null || true
fi
needed() {
  find "$out/bin" "$out/lib" -type f -print0 | xargs -0 -n1 ldd 2>/dev/null |
    awk '/=> \//{print $3}' | grep -vE "$own" | sort -u
}
for library in $(needed); do
  cp -L "$library" "$out/lib/"
done
find "$out/lib" -name '*.so*' -exec strip --strip-unneeded {} + 2>/dev/null || true
# UCX with CUDA, of PyPI, beside Debian's, which has verbs: a link `ucx` to it
# puts it first.
shopt -s nullglob
for wheel in .deps/venv/lib/python3*/site-packages/libucx/lib; do
  mkdir -p "$out/ucx-cuda/ucx"
  cp -L "$wheel"/libuc{m,p,s,t}.so.0 "$wheel"/../../libucx_cu1*.libs/libcudart* \
    "$out/ucx-cuda/"
  cp -L "$wheel"/ucx/libuc{t,m}_cuda.so.0 "$wheel"/ucx/libuct_cma.so.0 \
    "$out/ucx-cuda/ucx/"
  find "$out/ucx-cuda" -name '*.so*' -exec strip --strip-unneeded {} +
done
cat >"$out/README" <<TEXT
weft and its GPU tests, $(git rev-parse --short HEAD): bin/weft --version,
bin/weft doctor, bin/weft selftest gpu. Keep bin and lib beside each other.
pip install python/*.whl brings the Python package, which needs nothing of them.
ucx-cuda is UCX with CUDA and without verbs: "ln -s ucx-cuda ucx" has weft use it.
TEXT
cp "build/$preset/gpu_tests.txt" "$out/bin/"
if ! compgen -G 'build/dist/weft-*.whl' >/dev/null; then
  [ "$build" = yes ] || { echo "bundle: no wheel in build/dist: run make wheel" >&2; exit 1; }
  scripts/wheel.sh
fi
mkdir "$out/python"
cp build/dist/weft-*.whl "$out/python/"
tar -C build --sort=name -cJf build/weft-bundle.tar.xz bundle
size=$(stat -c %s build/weft-bundle.tar.xz)
if [ "$size" -ge $((60 << 20)) ]; then
  echo "bundle: build/weft-bundle.tar.xz has $size bytes, it must stay below 60 MiB" >&2
  exit 1
fi
du -h build/weft-bundle.tar.xz | cut -f1
